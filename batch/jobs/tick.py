"""One tick: what landed, the snapshot, the packets of whoever was active."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from batch.features import catalogue, day_state
from batch.features.point_in_time import PointInTime
from batch.jobs.landing import wait_for_landing
from batch.jobs.load_events import EventLoader
from batch.serving import packets, snapshot
from batch.wiring import Batch
from pingfeed.adapters._dynamodb.items import packet_write_units


@dataclass(frozen=True)
class TickDone:
    """What a tick came to."""

    tick: int
    events: int
    pings: int
    packets: int
    packet_bytes_p95: int
    packet_write_units: dict[int, int]
    """How many of the packets cost how many write units where DynamoDB stores them, cheapest first."""
    waiting: int
    """Events that were acknowledged before the tick but had not landed when it began; a later tick takes them."""
    read: int = 0
    """Rows in the files that it read; those beyond `events` are duplicates."""
    refused: int = 0
    """Documents in those files that were no rows."""
    left_out: int = 0
    """Files that could not be read."""

    @property
    def packet_write_units_p95(self) -> int:
        """What 95 % of the packets do not exceed; 0 without packets."""
        return p95([units for units, count in self.packet_write_units.items() for _ in range(count)])


def run(batch: Batch, tick: int, *, everyone: bool = False) -> TickDone:
    """Run tick `tick`; again, it publishes the same. `everyone` refreshes all users of 30 days.

    A tick of the past (`--at`) makes its snapshot, and leaves the pointer and the packets, which are newer, alone.
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
    units: Counter[int] = Counter()
    with batch.progress.step(f"packets of {len(users):,} users"), packets.PacketWriter(batch) as shelf:
        for made in packets.make(batch, content, source, users):
            shelf.put(made)
            sizes += [len(packet) for packet in made.values()]
            units.update(packet_write_units(user_id, packet) for user_id, packet in made.items())
        # Users deleted since the tick began: the command removed only the packet that was there before.
        for user_id in batch.tables.pending(anew=True).among(users, "tick", tick):
            shelf.remove(user_id)
    if not is_past:
        _mark_done(batch, tick, len(sizes))
    return TickDone(
        tick=tick,
        events=manifest.kept,
        pings=len(content.numbers),
        packets=len(sizes),
        packet_bytes_p95=p95(sizes),
        packet_write_units=dict(sorted(units.items())),
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

    Marks before the last one are removed: nobody asks for them, and every listing would be longer by 96 a day.
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
