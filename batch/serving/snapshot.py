"""Builds and publishes the snapshot of a tick."""

from collections.abc import Mapping
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from batch.features.catalogue import Catalogue, ids_of
from batch.features.point_in_time import PingRows, PointInTime, servable
from batch.wiring import Batch, move_pointer, read_pointer, update_names
from pingfeed.core.features import NO_VALUE, PING
from pingfeed.core.integrity import SnapshotManifest, seal
from pingfeed.core.ranker import snapshot_key
from pingfeed.core.snapshot import TOPICS, SnapshotContent, write
from pingfeed.ports import Artifacts

_LIST = 500
_KEPT = 8
_COLUMN = {feature.name: index for index, feature in enumerate(PING)}


def build(batch: Batch, catalogue: Catalogue, point_in_time: PointInTime, tick: int) -> SnapshotContent:
    """The features and lists of all servable pings as of the tick."""
    numbers = servable(catalogue, point_in_time, batch.ticks, tick)
    rows = point_in_time.pings(numbers, np.full(len(numbers), tick, np.int64))
    ping_ids, creator_ids = ids_of(catalogue, "ping"), ids_of(catalogue, "creator")
    content = SnapshotContent(
        tick=tick,
        digest=batch.features.digest,
        facets=batch.features.facets,
        ping_ids=[ping_ids[int(number)] for number in numbers],
        numbers=numbers.astype(np.uint32),
        created_tick=rows.created_tick.astype(np.uint32),
        impressions=column(rows, "ping_impressions_30d").astype(np.uint32),
        pings=rows.block,
        creator_ids={int(number): creator_ids[int(number)] for number in np.unique(rows.block.creator)},
        lists=_lists(batch, numbers, rows, tick),
    )
    return replace(content, topics=facet_names(catalogue, content).get(TOPICS, {}))


def column(rows: PingRows, name: str) -> NDArray[np.float32]:
    """One of the fixed ping features."""
    values: NDArray[np.float32] = rows.block.values[:, _COLUMN[name]]
    return values


def _lists(batch: Batch, numbers: NDArray[np.int64], rows: PingRows, tick: int) -> Mapping[str, list[int]]:
    newest = np.lexsort((-numbers, -rows.created_tick))
    evergreen = np.flatnonzero(column(rows, "ping_evergreen") == 1)
    by_points = evergreen[np.argsort(-column(rows, "ping_points_30d")[evergreen], kind="stable")]
    lists = {"fresh": newest[:_LIST].tolist(), "evergreen": by_points[:_LIST].tolist()}
    return lists | _trending(batch, numbers, tick)


def _trending(batch: Batch, numbers: NDArray[np.int64], tick: int) -> dict[str, list[int]]:
    """Rows by the last day's engagement: `trending` for all countries, `trending:<country>` for each."""
    day = batch.ticks.day(tick)
    buckets = batch.tables.aggregate("country_ping_buckets", day - 1, day, tick)
    hot = batch.engine.run("trending", batch.ticks.params(tick), country_ping_buckets=buckets)
    row_of = {int(number): row for row, number in enumerate(numbers)}
    lists: dict[str, list[int]] = {}
    ordered = sorted(zip(*(hot[c].to_pylist() for c in ("country", "ping", "weight")), strict=True), key=_hottest)
    for country, ping, _ in ordered:
        members = lists.setdefault(f"trending:{country}" if country else "trending", [])
        if ping in row_of and len(members) < _LIST:
            members.append(row_of[ping])
    return lists


def _hottest(entry: tuple[str, int, int]) -> tuple[int, int]:
    return -entry[2], entry[1]


def facet_names(catalogue: Catalogue, content: SnapshotContent) -> dict[str, dict[int, str]]:
    """The names of the facet values in the snapshot, by facet and number."""
    names = ids_of(catalogue, "value")
    found: dict[str, dict[int, str]] = {}
    for at, facet in enumerate(content.facets):
        values = np.unique(content.pings.facets[:, at])
        # The catalogue stores a value as `facet=value`.
        found[facet] = {int(v): names[int(v)].partition("=")[2] for v in values[values != NO_VALUE]}
    return found


def publish(batch: Batch, content: SnapshotContent, names: Mapping[str, Mapping[int, str]]) -> None:
    """Store the snapshot and its facet names, then move the pointer; an older tick never replaces a newer one.

    Unless that one is ahead of the clock: it was made while the clock was wrong.
    """

    def is_older(live: str) -> bool:
        return _tick_of(live) <= content.tick or _tick_of(live) > batch.present + 1

    async def put(artifacts: Artifacts) -> None:
        data = write(content)
        folder = str(content.tick)
        if (
            not await artifacts.swap(snapshot_key(folder), data, None)
            and await artifacts.get(snapshot_key(folder)) != data
        ):
            # Of another run, or of another version of the features: during a roll-out, feeds of the old one must still
            # find theirs when they restart.
            folder = f"{content.tick}-{batch.tables.versions.fence}-{content.digest}"
            await artifacts.put(snapshot_key(folder), data)
        await artifacts.put(snapshot_key(folder, "facets.json"), msgspec.json.encode(names))
        about = SnapshotManifest(
            tick=content.tick, digest=content.digest, rows=len(content.numbers), created_ms=batch.clock()
        )
        await artifacts.put(snapshot_key(folder, "manifest.json"), seal(about, data))
        await move_pointer(batch, artifacts, content.digest, "snapshot", folder, is_older)
        await _keep_newest(artifacts, content.digest, folder, batch.present)

    batch.with_artifacts(put)


def _tick_of(folder: str) -> int:
    return int(folder.partition("-")[0])


async def _keep_newest(artifacts: Artifacts, digest: str, folder: str, present: int) -> None:
    """Delete this digest's older snapshots: 96 a day would fill a disk, and a past tick can be made again (`--at`)."""
    expired: list[str] = []

    def with_it(known: list[str]) -> list[str]:
        folders = sorted({*known, folder}, key=lambda one: (_tick_of(one) <= present, _tick_of(one)))
        expired[:] = folders[:-_KEPT]
        return folders[-_KEPT:]

    await update_names(artifacts, f"snapshots/index-{digest}.json", with_it)
    for old in expired:
        for name in ("snapshot.bin", "manifest.json", "facets.json"):
            await artifacts.delete(snapshot_key(old, name))


def live_tick(batch: Batch) -> int | None:
    """The tick of the snapshot that is live, None if there is none."""

    async def read(artifacts: Artifacts) -> int | None:
        pointer = await read_pointer(artifacts, batch.features.digest, "snapshot")
        return None if pointer is None else _tick_of(pointer.current)

    return batch.with_artifacts(read)
