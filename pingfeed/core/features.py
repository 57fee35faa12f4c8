"""Every ranking feature once: its name, its group, its meaning, its place in the vector.

Training, candidate pre-scoring and serving all call `assemble`; they differ only in where its blocks come from (the
as-of SQL in `batch/sql/`, or a snapshot and a packet, which that same SQL filled). A block's columns have the order in
which `FeatureSet` lists them. Whatever is unknown is NaN, in training and serving alike.

To add one: name it here, compute a column of that name in its group's SQL file, extend the golden row
(docs/adding-a-feature.md).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]

SQL_DIGEST: Final = "451a727cbba151f4"
"""Fingerprint of `batch/sql/*.sql`, which the feed does not carry; a test keeps it current (`make digest`)."""

NO_VALUE: Final = 0xFFFFFFFF
"""Pads the facet values of a ping that has fewer than `FACET_WIDTH`; never a number that was assigned."""
FACET_WIDTH: Final = 8
"""How many values of one facet are kept for a ping, in the order in which its creator gave them."""
MAX_ATTRIBUTES: Final = 16

SOURCES: Final = (
    "followed",
    "engaged_creator",
    "collaborative",
    "topic",
    "trending",
    "evergreen",
    "fresh",
    "personalize",
)
"""Bit i of a candidate's source byte says that source i offered it; 0 means that no source was logged."""


@dataclass(frozen=True)
class Feature:
    """One column of the vector."""

    name: str
    meaning: str


_POINTS = "reward points for each impression, smoothed towards the day's average"
PING: Final = (
    Feature("ping_points_1h", f"the ping's {_POINTS}, 1 hour"),
    Feature("ping_points_1d", f"the ping's {_POINTS}, 1 day"),
    Feature("ping_points_7d", f"the ping's {_POINTS}, 7 days"),
    Feature("ping_points_30d", f"the ping's {_POINTS}, 30 days"),
    Feature("ping_watch_1d", "mean watch ratio of the ping's views, smoothed, 1 day"),
    Feature("ping_watch_30d", "mean watch ratio of the ping's views, smoothed, 30 days"),
    Feature("ping_like_rate_7d", "likes for each impression of the ping, smoothed, 7 days"),
    Feature("ping_share_rate_7d", "comments and shares for each impression of the ping, smoothed, 7 days"),
    Feature("ping_hide_rate_30d", "hides and reports for each impression of the ping, smoothed, 30 days"),
    Feature("ping_impressions_1h", "impressions of the ping, 1 hour"),
    Feature("ping_impressions_1d", "impressions of the ping, 1 day"),
    Feature("ping_impressions_30d", "impressions of the ping, 30 days"),
    Feature("ping_age_hours", "hours from the tick that learned of the ping to the snapshot's tick"),
    Feature("ping_duration_s", "length of the ping in seconds"),
    Feature("ping_evergreen", "1 if the ping was in the top tenth by engagement when the day began"),
    Feature("creator_points_7d", f"the creator's {_POINTS}, 7 days"),
    Feature("creator_points_30d", f"the creator's {_POINTS}, 30 days"),
    Feature("creator_watch_30d", "mean watch ratio of the creator's pings, smoothed, 30 days"),
    Feature("creator_hide_rate_30d", "hides and reports for each impression of the creator, smoothed, 30 days"),
    Feature("creator_follow_rate_30d", "follows for each impression of the creator, smoothed, 30 days"),
    Feature("creator_impressions_30d", "impressions of the creator's pings, 30 days"),
)
USER: Final = (
    Feature("user_points_30d", f"the user's {_POINTS}, 30 days"),
    Feature("user_watch_30d", "mean watch ratio of the user's views, smoothed, 30 days"),
    Feature("user_like_rate_30d", "likes for each impression of the user, smoothed, 30 days"),
    Feature("user_hide_rate_30d", "hides and reports for each impression of the user, smoothed, 30 days"),
    Feature("user_impressions_1d", "impressions that the user had, 1 day, at most 60,000"),
    Feature("user_impressions_30d", "impressions that the user had, 30 days, at most 60,000"),
)
CONTEXT: Final = (
    Feature("context_hour", "hour of the request, UTC, 0 to 23"),
    Feature("country_match", "1 if user and ping are of one country, 0 if not"),
    Feature("language_match", "1 if user and ping share the primary language, 0 if not"),
)
RETRIEVAL: Final = (
    *(Feature(f"source_{name}", f"1 if the source '{name}' offered the candidate") for name in SOURCES),
    Feature("retrieval_score", "collaborative score of the candidate, as the packet carried it"),
)
REALTIME: Final = (
    Feature("trending_now", "the ping's decayed engagement as a share of the hottest ping's in the user's country"),
    Feature("just_followed", "1 if the user's recent acts say that they follow the creator"),
    Feature("session_creator", "engagements with the creator in this session"),
    Feature("session_topic", "engagements in this session with pings that share a topic"),
)


@dataclass(frozen=True)
class FeatureSet:
    """The vector of one installation: the features above plus those that its settings name.

    `facets` are the named lists of a ping that get smoothed rates and affinities, `attributes` its named numbers that
    become features as they are.
    """

    facets: tuple[str, ...] = ("topics",)
    attributes: tuple[str, ...] = ()

    @cached_property
    def ping(self) -> tuple[Feature, ...]:
        """Columns of the ping block (P), as a snapshot row holds them."""
        rates = (
            Feature(f"{f}_points_30d", f"mean over the ping's {f} of their {_POINTS}, 30 days") for f in self.facets
        )
        numbers = (Feature(f"attribute_{a}", f"the ping's attribute {a}") for a in self.attributes)
        return (*PING, *rates, *numbers)

    @property
    def user(self) -> tuple[Feature, ...]:
        """Columns of the user block (U), as a packet holds them."""
        return USER

    @cached_property
    def affinity(self) -> tuple[Feature, ...]:
        """The user x creator and user x facet columns, looked up in the user's strongest affinities."""
        columns = [Feature("user_creator_affinity", "how far the creator's pings beat the average for this user")]
        for facet in self.facets:
            columns.append(Feature(f"user_{facet}_affinity_max", f"the strongest known affinity to one of the {facet}"))
            columns.append(Feature(f"user_{facet}_affinity_mean", f"the mean known affinity to the {facet}"))
        return tuple(columns)

    @cached_property
    def all(self) -> tuple[Feature, ...]:
        """The whole vector (F), in order."""
        return (*self.ping, *self.user, *self.affinity, *CONTEXT, *RETRIEVAL, *REALTIME)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the whole vector, in order."""
        return tuple(feature.name for feature in self.all)

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change with any feature, its order, or the SQL behind it."""
        text = "\n".join([SQL_DIGEST, ",".join(self.facets), *(f"{f.name}: {f.meaning}" for f in self.all)])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class PingBlock:
    """n pings as of a tick."""

    values: Float32  # (n, P)
    creator: UInt32  # (n,) creator numbers
    facets: UInt32  # (n, facets, FACET_WIDTH) value numbers, padded with NO_VALUE
    country: UInt32  # (n,) `place_code`, 0 where unknown
    language: UInt32  # (n,) `language_code`, 0 where unknown


@dataclass(frozen=True)
class UserBlock:
    """m users as their packets hold them (float16 rounding included), and which user each of n rows belongs to.

    Affinities are sorted by key, `affinity_keys(user row, number)`.
    """

    values: Float32  # (m, U)
    country: UInt32  # (m,)
    language: UInt32  # (m,)
    creator_keys: UInt64
    creator_values: Float32
    facet_keys: UInt64
    facet_values: Float32
    row: NDArray[np.intp]  # (n,) in 0..m-1


def assemble(
    features: FeatureSet,
    pings: PingBlock,
    users: UserBlock,
    hour: Float32,
    sources: NDArray[np.uint8],
    retrieval_score: Float32,
    realtime: Float32,
) -> Float32:
    """The vectors of n (user, ping) rows, float32 (n, F).

    `hour`, `sources` and `retrieval_score` are (n,); `realtime` is (n, len(REALTIME)); NaN where unknown.
    """
    n = len(pings.creator)
    out = np.empty((n, len(features.all)), np.float32)
    at = 0
    for block in (
        pings.values,
        users.values[users.row],
        _affinities(pings, users),
        _context(pings, users, hour),
        _retrieval(sources, retrieval_score),
        realtime,
    ):
        out[:, at : at + block.shape[1]] = block
        at += block.shape[1]
    assert at == out.shape[1], "the blocks do not add up to the feature set"
    return out


def affinity_keys(user_row: NDArray[np.intp], number: UInt32) -> UInt64:
    """The sort key of an affinity: the user's row above, the creator's or facet value's number below."""
    return user_row.astype(np.uint64) << np.uint64(32) | number.astype(np.uint64)


def _look_up(keys: UInt64, values: Float32, wanted: UInt64) -> Float32:
    """values[keys == wanted], NaN where there is none; `keys` sorted, any shape of `wanted`."""
    if not len(keys):
        return np.full(wanted.shape, np.nan, np.float32)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], np.float32(np.nan)).astype(np.float32)


def _affinities(pings: PingBlock, users: UserBlock) -> Float32:
    """(n, 1 + 2 * facets): creator; then each facet's strongest and mean among the values that are known."""
    columns = [_look_up(users.creator_keys, users.creator_values, affinity_keys(users.row, pings.creator))]
    for f in range(pings.facets.shape[1]):
        keys = affinity_keys(users.row[:, None], pings.facets[:, f, :])
        found = _look_up(users.facet_keys, users.facet_values, keys)
        known = ~np.isnan(found)
        count = known.sum(axis=1)
        some = count > 0
        strongest = np.where(known, found, -np.inf).max(axis=1, initial=-np.inf)
        # Summed one value after the other in float32: the order is fixed, so every caller gets the same bits.
        addends = np.where(known, found, np.float32(0))
        total = np.zeros(len(found), np.float32)
        for k in range(found.shape[1]):
            total += addends[:, k]
        columns.append(np.where(some, strongest, np.nan).astype(np.float32))
        columns.append(np.where(some, total / np.maximum(count, 1).astype(np.float32), np.nan).astype(np.float32))
    return np.stack(columns, axis=1)


def _context(pings: PingBlock, users: UserBlock, hour: Float32) -> Float32:
    country = users.country[users.row]
    language = users.language[users.row]
    return np.stack([hour, _match(country, pings.country), _match(language, pings.language)], axis=1)


def _match(left: UInt32, right: UInt32) -> Float32:
    known = (left != 0) & (right != 0)
    return np.where(known, left == right, np.nan).astype(np.float32)


_BITS = np.arange(len(SOURCES), dtype=np.uint8)


def _retrieval(sources: NDArray[np.uint8], score: Float32) -> Float32:
    bits = (sources[:, None] >> _BITS & 1).astype(np.float32)
    bits[sources == 0] = np.nan
    return np.concatenate([bits, score[:, None]], axis=1)


def source_bits(names: Iterable[str]) -> int:
    """The source byte of a candidate that these sources offered."""
    return sum(1 << SOURCES.index(name) for name in set(names))


def place_code(country: str | None) -> int:
    """`US` as a number that fits 16 bits, 0 for none."""
    return int.from_bytes(country.encode("ascii"), "big") if country else 0


def language_code(language: str | None) -> int:
    """The primary subtag (`pt` of `pt-BR`) as a number that fits 32 bits, 0 for none."""
    return int.from_bytes(language.split("-")[0].lower().encode("ascii"), "big") if language else 0


def place_name(code: int) -> str | None:
    """Inverse of `place_code`."""
    return code.to_bytes(2, "big").decode("ascii") if code else None
