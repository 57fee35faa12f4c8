"""Makes and publishes the snapshot of a tick."""

import asyncio
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from batch.catalogue import Catalogue, ids_of
from batch.point_in_time import PingRows, PointInTime
from batch.servable import servable
from batch.wiring import Batch
from pingfeed.errors import NotFound
from pingfeed.features import PING
from pingfeed.model import Pointer, pointer_key, snapshot_key
from pingfeed.ports import Artifacts
from pingfeed.snapshot import SnapshotContent, write

_LIST = 500
_KEPT = 8
_INDEX = "snapshots/index.json"
_COLUMN = {feature.name: index for index, feature in enumerate(PING)}


def build(batch: Batch, catalogue: Catalogue, point_in_time: PointInTime, tick: int) -> SnapshotContent:
    """What the feed is to know of every servable ping as of the tick."""
    numbers = servable(catalogue, point_in_time, batch.ticks, tick)
    rows = point_in_time.pings(numbers, np.full(len(numbers), tick, np.int64))
    ping_ids, creator_ids = ids_of(catalogue, "ping"), ids_of(catalogue, "creator")
    return SnapshotContent(
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
    """Rows by the last day's engagement: `trending` for everywhere, `trending:<country>` for each country."""
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


def publish(batch: Batch, content: SnapshotContent) -> None:
    """Store the snapshot, then point to it; an older tick never replaces a newer one."""
    asyncio.run(_publish(batch, content))


async def _publish(batch: Batch, content: SnapshotContent) -> None:
    artifacts = batch.open_artifacts()
    try:
        await artifacts.put(snapshot_key(content.tick), write(content))
        about = {
            "tick": content.tick,
            "digest": content.digest,
            "rows": len(content.numbers),
            "created_ms": batch.clock(),
        }
        await artifacts.put(snapshot_key(content.tick, "manifest.json"), msgspec.json.encode(about))
        key = pointer_key(content.digest, "snapshot")
        try:
            live = msgspec.json.decode(await artifacts.get(key), type=Pointer)
        except NotFound:
            live = None
        if live is None or int(live.current) < content.tick:
            pointer = Pointer(str(content.tick), live.current if live else None)
            await artifacts.put(key, msgspec.json.encode(pointer))
        await _keep_newest(artifacts, content.tick)
    finally:
        await artifacts.close()


async def _keep_newest(artifacts: Artifacts, tick: int) -> None:
    """Delete all but the newest snapshots: 96 a day would fill a disk, and what is older can be made again (`--at`)."""
    try:
        known = msgspec.json.decode(await artifacts.get(_INDEX), type=list[int])
    except NotFound:
        known = []
    ticks = sorted({*known, tick})
    for old in ticks[:-_KEPT]:
        for name in ("snapshot.bin", "manifest.json"):
            await artifacts.delete(snapshot_key(old, name))
    await artifacts.put(_INDEX, msgspec.json.encode(ticks[-_KEPT:]))


def published_before(batch: Batch, tick: int) -> int | None:
    """The tick of the snapshot that was live before that of `tick`, None if there was none."""

    async def read() -> int | None:
        artifacts = batch.open_artifacts()
        try:
            pointer = msgspec.json.decode(
                await artifacts.get(pointer_key(batch.features.digest, "snapshot")), type=Pointer
            )
        except NotFound:
            return None
        finally:
            await artifacts.close()
        earlier = pointer.previous if int(pointer.current) >= tick else pointer.current
        return int(earlier) if earlier is not None else None

    return asyncio.run(read())
