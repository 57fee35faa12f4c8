"""One tick: load the events that landed, publish the snapshot, refresh the packets of active users."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from batch.features import catalogue, day_state
from batch.features.point_in_time import PointInTime
from batch.jobs import rebuild
from batch.jobs.load_events import EventLoader
from batch.ops import signals_rebuild
from batch.serving import packets, snapshot
from batch.training.models import live_ranker
from batch.wiring import Batch
from pingfeed.core.words import counted
from pingfeed.spool.stats import wait_landed


@dataclass(frozen=True)
class TickDone:
    """The result of a tick."""

    tick: int
    events: int
    pings: int
    packets: int
    packet_bytes_p50: int
    packet_bytes_p95: int
    waiting: int
    """Events that were acknowledged before the tick but had not landed when it began; a later tick loads them."""
    read: int = 0
    """Rows in the files that it read; those beyond `events` are duplicates."""
    rejected: int = 0
    """Documents in those files that are not valid rows."""
    left_out: int = 0
    """Unreadable files."""
    quarantined: int = 0
    """Rows that a step could not take."""
    quarantined_users: int = 0
    """Users whose packet could not be made."""


def run(batch: Batch, tick: int, *, everyone: bool = False) -> TickDone:
    """Run a tick; running it again publishes the same. `everyone` refreshes all users of 30 days.

    A past tick (`--at`) builds its snapshot but leaves the live pointer and the packets, which are newer, unchanged.
    """
    rebuild.enable(batch)
    waiting = wait_for_landing(batch, tick)
    manifest = EventLoader(batch).run(tick, batch.clock())
    day_state.ensure(batch, tick, manifest.run)
    signals_rebuild.ensure(batch)
    known = catalogue.load(batch)
    with batch.progress.step("features and snapshot"):
        source = PointInTime(batch, known, tick, tick)
        content = snapshot.build(batch, known, source, tick)
        snapshot.publish(batch, content, snapshot.facet_names(known, content))
    is_past = snapshot.live_tick(batch) != tick
    users = (
        [] if is_past else packets.users_to_refresh(batch, tick, None if everyone else _refreshed_before(batch, tick))
    )
    with batch.progress.step(f"packets of {counted(len(users), 'user')}"):
        sizes = packets.refresh(batch, content, source, users, live_ranker(batch))
    if not is_past:
        _mark_done(batch, tick, len(sizes))
    batch.tables.versions.commit()
    return TickDone(
        tick=tick,
        events=manifest.kept,
        pings=len(content.numbers),
        packets=len(sizes),
        packet_bytes_p50=percentile(sizes, 50),
        packet_bytes_p95=percentile(sizes, 95),
        waiting=waiting,
        read=manifest.read,
        rejected=manifest.rejected,
        left_out=manifest.left_out,
        quarantined=manifest.quarantined,
        quarantined_users=len(users) - len(sizes),
    )


def wait_for_landing(batch: Batch, tick: int) -> int:
    """Wait until the events acknowledged before the tick have landed; the number still on their way.

    Waits at most twice the services' flush interval, and only for a sink that lands events at once. Firehose buffers
    for minutes: a later tick loads those events.
    """
    lands_at_once = urlsplit(batch.settings.events_url).scheme == "disk"
    seconds = 2 * batch.settings.sink_flush_seconds + 5 if lands_at_once else 0
    with batch.progress.step("waiting for acknowledged events to land"):
        return wait_landed(batch.settings.spool_dir, batch.ticks.start_ms(tick), seconds)


def percentile(values: Iterable[int], percent: int) -> int:
    """The smallest value that `percent` % of the values do not exceed; 0 for no values."""
    ordered = sorted(values)
    return ordered[-(-percent * len(ordered) // 100) - 1] if ordered else 0


def _mark_done(batch: Batch, tick: int, count: int) -> None:
    """Record that all packets of a tick are stored: a later tick refreshes the users active since then.

    Removes the marks before the last one: they are no longer needed and would lengthen every listing by 96 a day.
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
