"""Features as of any tick: the same statements fill a snapshot, a packet and a training row.

A probe is an (entity, tick) pair to compute features for. A snapshot probes every servable ping at one tick, training
probes each ping at the ticks at which it was served. Only data known by that tick count: `known_tick <= tick`.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batch.features import day_state
from batch.features.catalogue import Catalogue
from batch.ticks import Ticks
from batch.wiring import Batch
from pingfeed.core import packet
from pingfeed.core.features import (
    FACET_WIDTH,
    NO_VALUE,
    PING,
    Float32,
    PingBlock,
    UInt32,
    UInt64,
    UserBlock,
    affinity_keys,
    language_code,
    place_code,
)

Int64 = NDArray[np.int64]
SERVABLE_DAYS: Final = 30
_LARGEST = np.finfo(np.float32).max
"""Numbers of a ping are doubles, and features are not."""
_NONE = -1  # no creator, no facet value: as uint32 it is NO_VALUE
_LOOKBACK_DAYS = 31  # 30 days of windows and priors, counted from the day of the earliest probe
_OWN = [f.name for f in PING if f.name.startswith("ping_")]
_CREATOR = [f.name for f in PING if f.name.startswith("creator_")]


@dataclass(frozen=True)
class PingRows:
    """Pings at probes; `known` is False where the ping was not known at the tick (its row is all unknown)."""

    block: PingBlock
    created_tick: Int64
    known: NDArray[np.bool_]


class PointInTime:
    """All data for probes from `first_tick` to `last_tick`, loaded once."""

    def __init__(self, batch: Batch, catalogue: Catalogue, first_tick: int, last_tick: int) -> None:
        self._engine, self._features, self._catalogue = batch.engine, batch.features, catalogue
        self._params = batch.ticks.params(last_tick, first_tick)
        first, last = batch.ticks.day(first_tick), batch.ticks.day(last_tick)
        self._buckets = {
            f"{name}_buckets": batch.tables.aggregate(f"{name}_buckets", first - _LOOKBACK_DAYS, last, last_tick)
            for name in ("ping", "creator", "facet_value", "user", "user_creator", "user_facet")
        }
        days = pa.table({"day": pa.array(range(first, last + 1), pa.int64())})
        self._priors = self._engine.run("priors", self._params, ping_buckets=self._buckets["ping_buckets"], days=days)
        self._evergreen = day_state.evergreen(batch, first, last)

    def evergreen(self, day: int) -> Int64:
        """Evergreen pings of a day in the loaded range."""
        days = _column(self._evergreen, "day")
        pings: Int64 = _column(self._evergreen, "ping")[days == day].astype(np.int64)
        return pings

    def pings(self, ping: Int64, at_tick: Int64) -> PingRows:
        """The ping block of n probes (ping number, tick), in their order."""
        distinct, back = _distinct(ping, at_tick)
        probes = _probes("ping", distinct)
        own = self._run(
            "ping_features",
            probes,
            ping_buckets=self._buckets["ping_buckets"],
            pings=self._catalogue.pings,
            ping_versions=self._catalogue.versions,
            evergreen=self._evergreen,
        )
        at = _align(_pairs(own, "ping"), distinct)
        known = at >= 0
        creator = np.where(known, _taken(own, "creator", at), _NONE).astype(np.int64)
        facets = self._facets(probes, distinct)
        values = np.concatenate(
            [
                _matrix(own, _OWN, at),
                self._creators(creator, _low(distinct)),
                self._facet_rates(facets, _low(distinct)),
                self._attributes(probes, distinct),
            ],
            axis=1,
        )
        block = PingBlock(
            values[back],
            creator.astype(np.uint32)[back],
            facets[back],
            codes_of(own, "country", at, place_code)[back],
            codes_of(own, "language", at, language_code)[back],
        )
        created = np.where(known, _taken(own, "created_tick", at), -1).astype(np.int64)
        return PingRows(block, created[back], known[back])

    def users(self, user: pa.Array, at_tick: Int64) -> UserBlock:
        """The user block of n probes (user id, tick), as a packet of that tick would hold it.

        A tick below 0 asks for an unknown user.
        """
        names = user.dictionary_encode()
        distinct, back = _distinct(np.asarray(names.indices, np.int64), at_tick)
        asked = _low(distinct) >= 0
        people = names.dictionary.take(pa.array(_high(distinct)))
        probes = pa.table({"user_id": people, "at_tick": pa.array(_low(distinct), pa.int64())}).filter(pa.array(asked))
        codes = {name: i for i, name in enumerate(names.dictionary.to_pylist())}
        own = self._run("user_features", probes, user_buckets=self._buckets["user_buckets"])
        at = _align(_user_pairs(own, codes), distinct)
        creator_keys, creator_values = self._affinity("user_creator", "creator", probes, codes, distinct)
        facet_keys, facet_values = self._affinity("user_facet", "value", probes, codes, distinct)
        return UserBlock(
            values=packet.rounded(_matrix(own, [f.name for f in self._features.user], at)),
            country=np.where(at >= 0, _taken(own, "country", at), 0).astype(np.uint32),
            language=np.where(at >= 0, _taken(own, "language", at), 0).astype(np.uint32),
            creator_keys=creator_keys,
            creator_values=creator_values,
            facet_keys=facet_keys,
            facet_values=facet_values,
            row=back.astype(np.intp),
        )

    def _run(self, name: str, probes: pa.Table, **tables: pa.Table) -> pa.Table:
        return self._engine.run(name, self._params, probes=probes, priors=self._priors, **tables)

    def _creators(self, creator: Int64, at_tick: Int64) -> Float32:
        distinct, back = _distinct(creator, at_tick)
        probes = _probes("creator", distinct[_high(distinct) != _NONE])
        found = self._run("creator_features", probes, creator_buckets=self._buckets["creator_buckets"])
        at = _align(_pairs(found, "creator"), distinct)
        return _matrix(found, _CREATOR, at)[back]

    def _facets(self, probes: pa.Table, distinct: Int64) -> UInt32:
        """(n, facets, FACET_WIDTH) value numbers of the distinct probes."""
        out = np.full((len(distinct), len(self._features.facets), FACET_WIDTH), NO_VALUE, np.uint32)
        found = self._engine.run("facets_at", self._params, probes=probes, ping_facets=self._catalogue.facets)
        at = _align(distinct, _pairs(found, "ping"))
        names = np.array(found["facet"].to_pylist(), object)
        for index, facet in enumerate(self._features.facets):
            mine = names == facet
            out[at[mine], index, _column(found, "position")[mine]] = _column(found, "value")[mine]
        return out

    def _facet_rates(self, facets: UInt32, at_tick: Int64) -> Float32:
        """Mean smoothed reward over each facet's values, (n, facets); values are summed in the ping's own order."""
        n, count, width = facets.shape
        ticks = np.broadcast_to(at_tick[:, None, None], facets.shape)
        values = np.where(facets == NO_VALUE, _NONE, facets.astype(np.int64))
        distinct, back = _distinct(values.ravel(), ticks.ravel())
        probes = _probes("value", distinct[_high(distinct) != _NONE])
        found = self._run("facet_value_features", probes, facet_value_buckets=self._buckets["facet_value_buckets"])
        at = _align(_pairs(found, "value"), distinct)
        rates = np.where(at >= 0, _taken(found, "points_30d", at), np.nan)[back].reshape(n, count, width)
        total = np.zeros((n, count))
        for k in range(width):
            total += np.nan_to_num(rates[:, :, k])
        known = (~np.isnan(rates)).sum(axis=2)
        return np.where(known > 0, total / np.maximum(known, 1), np.nan).astype(np.float32)

    def _attributes(self, probes: pa.Table, distinct: Int64) -> Float32:
        out = np.full((len(distinct), len(self._features.attributes)), np.nan, np.float32)
        if not self._features.attributes:
            return out
        tables = {"probes": probes, "ping_attributes": self._catalogue.attributes}
        found = self._engine.run("attributes_at", self._params, **tables)
        at = _align(distinct, _pairs(found, "ping"))
        names = np.array(found["name"].to_pylist(), object)
        for index, attribute in enumerate(self._features.attributes):
            mine = names == attribute
            out[at[mine], index] = np.clip(_column(found, "number")[mine], -_LARGEST, _LARGEST)
        return out

    def _affinity(
        self, name: str, key: str, probes: pa.Table, codes: dict[str, int], distinct: Int64
    ) -> tuple[UInt64, Float32]:
        """Sorted keys and values of the strongest affinities of the distinct user probes."""
        buckets = {f"{name}_buckets": self._buckets[f"{name}_buckets"]}
        found = self._run(f"{name}_affinity", probes, **buckets)
        row = _align(distinct, _user_pairs(found, codes))
        keys = affinity_keys(row, _column(found, key).astype(np.uint32))
        order = np.argsort(keys)
        return keys[order], packet.rounded(_column(found, "affinity").astype(np.float32))[order]


def servable(catalogue: Catalogue, point_in_time: PointInTime, ticks: Ticks, tick: int) -> Int64:
    """The pings that a feed may show as of a tick, ascending: those of 30 days and the evergreen, minus the deleted.

    Only these get features, which bounds the cost of a tick.
    """
    ping = catalogue.pings["ping"].to_numpy()
    created = catalogue.pings["created_tick"].to_numpy()
    young = created > tick - ticks.first_of(SERVABLE_DAYS)
    evergreen = np.isin(ping, point_in_time.evergreen(ticks.day(tick)))
    deletions = catalogue.deletions
    deleted = deletions["ping"].to_numpy()[deletions["known_tick"].to_numpy() <= tick]
    keep = (created <= tick) & (young | evergreen) & ~np.isin(ping, deleted)
    return np.sort(ping[keep]).astype(np.int64)


def _distinct(high: Int64, low: Int64) -> tuple[Int64, NDArray[np.intp]]:
    """Distinct (high, low) pairs as one sortable number each, and the index of each given pair among them."""
    distinct, back = np.unique((high << 32) + low, return_inverse=True)
    return distinct, back.reshape(-1)


def _high(pairs: Int64) -> Int64:
    return (pairs - _low(pairs)) >> 32


def _low(pairs: Int64) -> Int64:
    """The low half, which may be -1 (unknown)."""
    low = pairs & 0xFFFFFFFF
    return np.where(low == 0xFFFFFFFF, -1, low)


def _probes(key: str, pairs: Int64) -> pa.Table:
    return pa.table({key: pa.array(_high(pairs), pa.int64()), "at_tick": pa.array(_low(pairs), pa.int64())})


def _pairs(table: pa.Table, key: str) -> Int64:
    return (_column(table, key).astype(np.int64) << 32) + _column(table, "at_tick").astype(np.int64)


def _user_pairs(table: pa.Table, codes: dict[str, int]) -> Int64:
    encoded = table["user_id"].combine_chunks().dictionary_encode()
    code = np.array([codes[name] for name in encoded.dictionary.to_pylist()], np.int64)
    users = code[np.asarray(encoded.indices, np.int64)] if len(code) else np.empty(0, np.int64)
    return (users << 32) + _column(table, "at_tick").astype(np.int64)


def _align(have: Int64, wanted: Int64) -> NDArray[np.intp]:
    """The index of each wanted pair in `have`, -1 if absent."""
    if not len(have):
        return np.full(len(wanted), -1, np.intp)
    order = np.argsort(have, kind="stable")
    at = np.minimum(np.searchsorted(have[order], wanted), len(have) - 1)
    return np.where(have[order][at] == wanted, order[at], -1)


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    values: NDArray[Any] = table[name].to_numpy()
    return values


def _taken(table: pa.Table, name: str, at: NDArray[np.intp]) -> NDArray[Any]:
    """The column at those rows; values where `at` is -1 are meaningless (the caller masks them)."""
    column = _column(table, name)
    return column[at] if len(column) else np.zeros(len(at))


def _matrix(table: pa.Table, names: list[str], at: NDArray[np.intp]) -> Float32:
    """Columns side by side as float32 (n, columns), NaN where `at` is -1 or the value is null."""
    out = np.full((len(at), len(names)), np.nan, np.float32)
    known = at >= 0
    for index, name in enumerate(names):
        out[known, index] = _taken(table, name, at)[known]
    return out


def codes_of(table: pa.Table, name: str, at: NDArray[np.intp], code: Any) -> UInt32:
    """A text column as codes, 0 where unknown."""
    encoded = table[name].combine_chunks().dictionary_encode()
    codes = np.array([*(code(text) for text in encoded.dictionary.to_pylist()), 0], np.uint32)
    index = encoded.indices.fill_null(len(codes) - 1).to_numpy(zero_copy_only=False).astype(np.intp)
    return np.where(at >= 0, codes[index[at]] if len(index) else 0, 0).astype(np.uint32)
