"""The training set: the pings that were shown, with their features at that time, and the outcome.

A request's rows use the ping features at the logged snapshot tick and the user features at the logged packet tick, or,
if unlogged, those at the tick before the request became known. Retrieval and real-time values, and the user's country
and language, come from the log or are unknown; retrieval that no log of these features holds (written and imported
history) is recomputed from the factors of that day, country and language from that tick. A day whose label windows are
closed is stored under `training/day=`, so that each nightly job costs one day.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batch.features import catalogue
from batch.features.collaborative import quantiles_as_of
from batch.features.point_in_time import PointInTime, codes_of
from batch.lake.quarantine import Quarantine
from batch.lake.tables import parquet_of
from batch.ticks import day_name
from batch.wiring import Batch
from pingfeed.core.clock import HOUR_MS
from pingfeed.core.errors import Unavailable
from pingfeed.core.features import REALTIME, Float32, UserBlock, assemble, language_code, place_code, retrieval_values
from pingfeed.core.words import counted

_T = TypeVar("_T")
_EVENTS: Final = [
    *("user_id", "event_type", "request_id", "ping_id", "position", "watch_time_ratio", "known_tick", "received_ms"),
    *("timestamp_ms", "seq", "event_id"),
    *("snapshot_tick", "packet_tick", "served_pings", "served_sources", "served_scores", "served_realtime"),
    *("feature_digest", "country", "language"),
]
MAX_GROUP: Final = 500
"""Rows of a request that are trained on; LightGBM rejects a set in which one has over 10,000."""
_MENTION: Final = ["user_id", "request_id", "known_tick", "received_ms"]
_LATE_DAYS: Final = 7
CLOCK: Final = "first_tick"
"""The time column by which a deletion request covers a row."""
_META: Final = ("user_id", "request_id", "ping_id", "position", "grade", "first_tick")


@dataclass(frozen=True)
class TrainingSet:
    """n rows grouped by request, requests in the order in which they became known."""

    table: pa.Table  # the columns of _META
    matrix: Float32  # (n, F)

    @property
    def grades(self) -> NDArray[np.int64]:
        """(n,) grades, 0 to 8."""
        grades: NDArray[np.int64] = self.table["grade"].to_numpy().astype(np.int64)
        return grades

    @property
    def starts(self) -> NDArray[np.int64]:
        """The index at which each request's rows begin, and n."""
        return _starts(self.table)

    def rows(self, first: int, last: int) -> "TrainingSet":
        """Rows first to last, last excluded."""
        return TrainingSet(self.table.slice(first, last - first), self.matrix[first:last])


def collect(batch: Batch, cutoff_tick: int, days: int) -> TrainingSet:
    """The rows of up to `days` days before the cut-off whose label windows are closed."""
    last = batch.ticks.day(cutoff_tick)
    learned = [day for day in batch.tables.clean_days() if last - days < day <= last]
    missing = [day for day in learned if not _exists(batch, _path(batch, day))]
    if missing:
        with batch.progress.step(f"training rows of {counted(len(missing), 'day')}"):
            _make(batch, missing[0], missing[-1], cutoff_tick)
    parts = [_load(batch, day, cutoff_tick) for day in learned]
    names = list(batch.features.names)
    table = pa.concat_tables([part for part in parts if part is not None] or [_schema(names).empty_table()])
    matrix = np.empty((table.num_rows, len(names)), np.float32)
    for index, name in enumerate(names):
        matrix[:, index] = table[name].to_numpy()
    kept = first_of_group(table)  # Days of an earlier version may hold larger groups.
    return TrainingSet(table.select(_META).filter(pa.array(kept)), matrix[kept])


def _starts(table: pa.Table) -> NDArray[np.int64]:
    change = np.zeros(max(table.num_rows - 1, 0), bool)
    for name in ("request_id", "user_id"):
        codes = table[name].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        change |= np.diff(codes) != 0
    return np.unique(np.concatenate([[0], np.flatnonzero(change) + 1, [table.num_rows]]))


def first_of_group(table: pa.Table) -> NDArray[np.bool_]:
    """Which rows are among the first `MAX_GROUP` of their request, as served; of one place, the best outcome first."""
    starts = _starts(table)
    sizes = np.diff(starts)
    if not (sizes > MAX_GROUP).any():
        return np.ones(table.num_rows, bool)
    place = table["position"].fill_null(np.iinfo(np.int64).max).to_numpy()
    order = np.lexsort((-table["grade"].to_numpy(), place, np.repeat(np.arange(len(sizes)), sizes)))
    rank = np.arange(table.num_rows) - np.repeat(starts[:-1], sizes)
    kept = np.empty(table.num_rows, bool)
    kept[order] = rank < MAX_GROUP
    return kept


def build(batch: Batch, first_tick: int, until_tick: int, cutoff_tick: int, *, as_of_day: bool = False) -> TrainingSet:
    """Rows of the requests that became known from `first_tick` to before `until_tick`.

    `as_of_day` uses features as of the start of the request's day: what a feed without ticks would know.
    """
    first, last = batch.ticks.day(first_tick), batch.ticks.day(until_tick - 1)
    is_known = pc.field("known_tick") <= cutoff_tick
    known = is_known & pc.field("request_id").is_valid()
    labelled = is_known & (pc.field("request_id").is_valid() | pc.field("event_type").isin(["unlike", "unhide"]))
    # Label windows extend past the last day.
    events = batch.tables.clean(first, last + 1 + label_ticks(batch) // batch.ticks.day_ticks, _EVENTS).filter(labelled)
    # An act that arrives days after its request must not count as a separate request.
    mentions = batch.tables.clean(first - _LATE_DAYS, last, _MENTION).filter(known)
    catalog = catalogue.load(batch)
    params = batch.ticks.params(cutoff_tick) | {
        "label_ticks": label_ticks(batch),
        "from_tick": first_tick,
        "until_tick": until_tick,
        "cutoff_tick": cutoff_tick,
    }
    served = served_items(events, batch.features.digest)
    plain = events.select(_EVENTS[:11])
    labels = batch.engine.run("labels", params, events=plain, mentions=mentions, served=served, numbers=catalog.numbers)
    labels = _with_places(labels.filter(pa.array(first_of_group(labels))), events)
    labels = _as_of_day(labels, batch.ticks.day_ticks) if as_of_day else labels

    def featured(groups: list[Group]) -> TrainingSet:
        first, last = groups[0][0], groups[-1][1]
        return with_features(batch, catalog, _with_retrieval(batch, labels.slice(first, last - first)))

    return joined(each_group(batch, labels, featured), batch.features.names)


Group = tuple[int, int]
"""The rows of a request: the first, and the one after the last."""


def each_group(batch: Batch, table: pa.Table, take: Callable[[list[Group]], _T]) -> list[_T]:
    """What `take` makes of the requests in a table, without those that it cannot take: they are quarantined."""

    def named(group: Group) -> str:
        first = table.slice(group[0], 1).to_pylist()[0]
        return f"request {first['request_id']} of user {first['user_id']}"

    groups = [(int(first), int(last)) for first, last in pairwise(_starts(table))]
    quarantine = Quarantine(batch.tables.lake, batch.clock())
    return quarantine.each("training", groups, take, name=named, raises=Unavailable) if groups else []


def joined(parts: Sequence[TrainingSet], names: Sequence[str]) -> TrainingSet:
    """Several sets as one."""
    if len(parts) == 1:
        return parts[0]
    empty = _schema(list(names)).empty_table().select(_META)
    matrices = [np.empty((0, len(names)), np.float32), *(part.matrix for part in parts)]
    table = pa.concat_tables([empty, *(part.table for part in parts)], promote_options="permissive")
    return TrainingSet(table, np.concatenate(matrices))


def _with_retrieval(batch: Batch, labels: pa.Table) -> pa.Table:
    """The rows with the retrieval that was not logged, from the factors of each row's own day."""
    values, packet_tick = _floats(labels["retrieval_score"]), labels["packet_tick"].fill_null(-1).to_numpy()
    missing = labels["retrieval_score"].is_null().to_numpy() & (packet_tick >= 0)
    users = labels["user_id"].filter(pa.array(missing))
    found = quantiles_as_of(batch, users, labels["ping"].to_numpy()[missing], packet_tick[missing])
    values[missing] = retrieval_values(found)
    return labels.set_column(labels.column_names.index("retrieval_score"), "retrieval_score", pa.array(values))


def _with_places(labels: pa.Table, events: pa.Table) -> pa.Table:
    """The rows with the country and language that the feed logged for their request, null where it logged none."""
    logged = events.filter(pc.field("event_type") == "feed_served")
    keys = [pc.binary_join_element_wise(one["user_id"], one["request_id"], "/") for one in (labels, logged)]
    at = pc.index_in(keys[0], value_set=keys[1].combine_chunks())
    for name in ("country", "language"):
        labels = labels.append_column(name, pc.take(logged[name].combine_chunks(), at))
    return labels


def _as_of_day(labels: pa.Table, day_ticks: int) -> pa.Table:
    for name in ("snapshot_tick", "packet_tick"):
        ticks = labels[name].to_numpy()
        labels = labels.set_column(labels.column_names.index(name), name, pa.array(ticks // day_ticks * day_ticks))
    return labels


def with_features(batch: Batch, catalog: catalogue.Catalogue, labels: pa.Table) -> TrainingSet:
    """The vectors of labelled (or logged) rows, each as of its own ticks, without rows whose ping was unknown."""
    if not labels.num_rows:
        return TrainingSet(labels.select(_META), np.empty((0, len(batch.features.names)), np.float32))
    snapshot_tick = labels["snapshot_tick"].to_numpy()
    packet_tick = labels["packet_tick"].fill_null(-1).to_numpy()
    asked = np.concatenate([snapshot_tick, packet_tick[packet_tick >= 0]])
    source = PointInTime(batch, catalog, int(asked.min()), int(asked.max()))
    pings = source.pings(labels["ping"].to_numpy(), snapshot_tick)
    matrix = assemble(
        batch.features,
        pings.block,
        _at_request(source.users(labels["user_id"].combine_chunks(), packet_tick), labels),
        hour=(labels["request_ms"].to_numpy() // HOUR_MS % 24).astype(np.float32),
        sources=labels["source"].fill_null(0).to_numpy().astype(np.uint8),
        retrieval_score=_floats(labels["retrieval_score"]),
        realtime=np.stack([_floats(labels[f"realtime_{i}"]) for i in range(len(REALTIME))], axis=1),
    )
    return TrainingSet(labels.select(_META).filter(pa.array(pings.known)), matrix[pings.known])


def _at_request(users: UserBlock, labels: pa.Table) -> UserBlock:
    """The users with the country and language of each request, which their profile or a hint may have said."""
    rows = np.arange(labels.num_rows)
    country, language = codes_of(labels, "country", rows, place_code), codes_of(labels, "language", rows, language_code)
    own = users.country[users.row], users.language[users.row]
    return replace(users, places=(np.where(country, country, own[0]), np.where(language, language, own[1])))


def served_items(events: pa.Table, digest: str) -> pa.Table:
    """One row for each item of each logged response, with its logged values.

    A retrieval score that was not logged, or under another feature digest, is null; one logged as unknown is NaN.
    """
    logged = events.filter(pc.field("event_type") == "feed_served").combine_chunks()
    lists = logged["served_pings"].combine_chunks()
    counts = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    parent = pa.array(np.repeat(np.arange(len(counts)), counts))
    starts = np.cumsum(counts) - counts
    realtime = _item_values(logged["served_realtime"], counts * len(REALTIME)).reshape(-1, len(REALTIME))
    columns: dict[str, Any] = {
        name: pc.take(logged[name], parent) for name in ("user_id", "request_id", "snapshot_tick", "packet_tick")
    }
    columns |= {
        "served_ms": pc.take(logged["received_ms"], parent),
        "ping_id": pc.list_flatten(lists),
        "position": np.arange(len(parent)) - np.repeat(starts, counts),
        "source": np.nan_to_num(_item_values(logged["served_sources"], counts)).astype(np.int64),
        "retrieval_score": pa.array(
            _item_values(logged["served_scores"], counts), mask=~np.repeat(_has_scores(logged, digest), counts)
        ),
    }
    return pa.table(columns | {f"realtime_{i}": realtime[:, i] for i in range(len(REALTIME))})


def _has_scores(logged: pa.Table, digest: str) -> NDArray[np.bool_]:
    same = pc.equal(logged["feature_digest"], digest).fill_null(True)
    has: NDArray[np.bool_] = pc.and_(same, logged["served_scores"].is_valid()).to_numpy()
    return has


def _item_values(lists: pa.ChunkedArray, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logged lists of numbers, concatenated; NaN for a response whose list is missing or of another length."""
    given = pc.list_value_length(lists).fill_null(-1).to_numpy()
    whole = given == lengths
    out = np.full(int(lengths.sum()), np.nan)
    flat = pc.list_flatten(lists.filter(pa.array(whole))).cast(pa.float64())
    out[np.repeat(whole, lengths)] = flat.fill_null(float("nan")).to_numpy()
    return out


def _floats(column: pa.ChunkedArray) -> Float32:
    values: Float32 = column.cast(pa.float64()).fill_null(float("nan")).to_numpy().astype(np.float32)
    return values


def label_ticks(batch: Batch) -> int:
    """The length of the label window in ticks."""
    return max(1, batch.settings.label_window_hours * HOUR_MS // batch.ticks.tick_ms)


def _path(batch: Batch, day: int, *, closed: bool = True) -> str:
    """The file of a day's rows; each training rewrites that of a day that is not closed."""
    return f"training/day={day_name(day)}/{batch.features.digest}{'' if closed else '.open'}.parquet"


def _exists(batch: Batch, path: str) -> bool:
    return path in batch.tables.lake.list(path.rpartition("/")[0])


def _is_closed(batch: Batch, day: int, cutoff_tick: int) -> bool:
    """Whether every request of the day has its whole label window before the cut-off."""
    return batch.ticks.first_of(day + 1) - 1 + label_ticks(batch) <= cutoff_tick


def _make(batch: Batch, first: int, last: int, cutoff_tick: int) -> None:
    """Build these days in one pass and store them; open days are valid for this cut-off only."""
    made = build(batch, batch.ticks.first_of(first), batch.ticks.first_of(last + 1), cutoff_tick)
    days = made.table["first_tick"].to_numpy() // batch.ticks.day_ticks
    for day in range(first, last + 1):
        here = days == day
        columns = {name: made.table[name].filter(pa.array(here)) for name in _META}
        columns |= {name: made.matrix[here, i] for i, name in enumerate(batch.features.names)}
        closed = _is_closed(batch, day, cutoff_tick)
        rows = pa.table(columns, schema=_schema(list(batch.features.names)))
        batch.tables.lake.write(_path(batch, day, closed=closed), parquet_of(rows))
        if closed:
            batch.tables.lake.delete(_path(batch, day, closed=False))


def _load(batch: Batch, day: int, cutoff_tick: int) -> pa.Table | None:
    schema = _schema(list(batch.features.names))
    paths = [path for closed in (True, False) if _exists(batch, path := _path(batch, day, closed=closed))]
    if not paths:
        return None
    table = batch.tables.file(paths[0], schema)
    if table is None:  # It was damaged.
        _make(batch, day, day, cutoff_tick)
        table = batch.tables.lake.dataset(paths[:1], schema).to_table()
    # A stored day may be newer than the cut-off if the past is replayed (`--at`).
    closed = cutoff_tick - label_ticks(batch)
    return batch.tables.pending().without(table, CLOCK).filter(pc.field("first_tick") <= closed)


def _schema(features: list[str]) -> pa.Schema:
    texts, longs = _META[:3], _META[3:]
    meta = [*((name, pa.string()) for name in texts), *((name, pa.int64()) for name in longs)]
    return pa.schema([*meta, *((name, pa.float32()) for name in features)])
