"""One tick: new events, the snapshot, and the packets of active users."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from batch.features import catalogue, day_state
from batch.features.point_in_time import PointInTime
from batch.jobs.load_events import EventLoader
from batch.serving import packets, snapshot
from batch.wiring import Batch
from pingfeed.core.urls import scheme_of
from pingfeed.spool.stats import wait_landed


@dataclass(frozen=True)
class TickDone:
    """The outcome of a tick."""

    tick: int
    events: int
    pings: int
    packets: int
    packet_bytes_p95: int
    waiting: int
    """Events accepted before the tick that had not landed when it began; a later tick reads them."""
    read: int = 0
    """Rows in the files that were read; those beyond `events` are duplicates."""
    refused: int = 0
    """Documents in those files that were no rows."""
    left_out: int = 0
    """Files that could not be read."""


def run(batch: Batch, tick: int, *, everyone: bool = False) -> TickDone:
    """Run a tick; running it again publishes the same. `everyone` refreshes every user of the last 30 days.

    A past tick (`--at`) writes its snapshot but leaves the pointer and the newer packets alone.
    """
    waiting = wait_for_landing(batch, tick)
    manifest = EventLoader(batch.tables, batch.engine, batch.ticks, batch.progress).run(tick, batch.clock())
    day_state.ensure(batch.tables, batch.engine, batch.ticks, tick, manifest.run)
    known = catalogue.load(batch.tables, batch.engine, batch.ticks)
    with batch.progress.step("features and snapshot"):
        source = PointInTime(batch.tables, batch.engine, batch.ticks, batch.features, known, tick, tick)
        content = snapshot.build(batch, known, source, tick)
        snapshot.publish(batch, content, snapshot.facet_names(known, content))
    is_past = snapshot.live_tick(batch) != tick
    users = (
        [] if is_past else packets.users_to_refresh(batch, tick, None if everyone else _refreshed_before(batch, tick))
    )
    sizes: list[int] = []
    with batch.progress.step(f"packets of {len(users):,} users"), packets.PacketWriter(batch) as writer:
        for made in packets.make(batch, content, source, users):
            writer.put(made)
            sizes += [len(packet) for packet in made.values()]
        # Users deleted since the tick began: the command removed only the packet that was there before.
        for user_id in batch.tables.pending(anew=True).among(users, "tick", tick):
            writer.remove(user_id)
    if not is_past:
        _mark_done(batch, tick, len(sizes))
    return TickDone(
        tick=tick,
        events=manifest.kept,
        pings=len(content.numbers),
        packets=len(sizes),
        packet_bytes_p95=p95(sizes),
        waiting=waiting,
        read=manifest.read,
        refused=manifest.refused,
        left_out=manifest.left_out,
    )


def p95(values: Iterable[int]) -> int:
    """What 95 % of the values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[-(-95 * len(ordered) // 100) - 1] if ordered else 0


def _mark_done(batch: Batch, tick: int, count: int) -> None:
    """Remember that all of a tick's packets are stored: a later tick refreshes whoever was active since.

    Marks before the last one are removed: they are never read, and would lengthen every listing by 96 a day.
    """
    batch.tables.lake.write(_mark(tick), msgspec.json.encode({"packets": count}))
    last = _refreshed_before(batch, tick)
    for earlier in _marked(batch):
        if last is not None and earlier < last:
            batch.tables.lake.delete(_mark(earlier))


def _mark(tick: int) -> str:
    return f"ticks/{tick}/packets.json"


def _marked(batch: Batch) -> list[int]:
    return [int(path.split("/")[1]) for path in batch.tables.lake.list("ticks") if path.endswith("/packets.json")]


def _refreshed_before(batch: Batch, tick: int) -> int | None:
    """The last tick before this one whose packets were all stored, None if there was none."""
    return max((done for done in _marked(batch) if done < tick), default=None)


def wait_for_landing(batch: Batch, tick: int) -> int:
    """Wait for events accepted before the tick to land; returns how many have not (a later tick reads them).

    Waits two flush intervals and five seconds at most, and only for the disk sink: Firehose holds events for minutes.
    """
    lands_at_once = scheme_of(batch.settings.events_url) == "disk"
    seconds = 2 * batch.settings.sink_flush_seconds + 5 if lands_at_once else 0
    with batch.progress.step("waiting for accepted events to land"):
        return wait_landed(batch.settings.spool_dir, batch.ticks.start_ms(tick), seconds)
