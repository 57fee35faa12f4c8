"""The clock goes an hour back and a day ahead: each event lands under the day of its `received_ms`."""

import asyncio
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from pingfeed.adapters.event_sink_disk import DiskEventSink, partition_of
from pingfeed.adapters.lake_file import FileLake
from pingfeed.core.clock import DAY_MS, day_of
from pingfeed.core.errors import Unavailable
from pingfeed.ports import Batch
from pingfeed.spool.checkpoint import FILE, Tally
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import wait_landed
from tests.conformance.samples import NOON_MS
from tests.faults.checks import reconcile
from tests.journeys.conftest import Services
from tests.unit.ingest_world import ingest_world

HOUR_MS = 3_600_000
MIDNIGHT_MS = NOON_MS - NOON_MS % DAY_MS
JUMPS = (NOON_MS, NOON_MS - HOUR_MS, NOON_MS + DAY_MS, NOON_MS + 1, MIDNIGHT_MS - 1, MIDNIGHT_MS, MIDNIGHT_MS - 1)


class Sink(DiskEventSink):
    """Down while a test looks at what waits."""

    is_down = False

    async def write(self, batch: Batch) -> None:
        if self.is_down:
            raise Unavailable("not yet")
        await super().write(batch)


async def test_events_land_under_their_day_of_arrival_when_the_clock_jumps(tmp_path: Path) -> None:
    now_ms, sent = NOON_MS, list[tuple[int, str]]()
    sink = Sink(f"disk://{tmp_path}/lake")
    sink.is_down = True
    async with ingest_world(tmp_path, clock=lambda: now_ms, sink=sink) as world:
        spool = world.spool
        for number, now_ms in enumerate(JUMPS):
            events = [_like(number, place) for place in range(number + 1)]
            answer = await world.send(*events)
            assert answer.json()["accepted"] == number + 1
            sent += [(now_ms, event["event_id"]) for event in events]
            for before_ms in (now_ms, now_ms + 1, MIDNIGHT_MS, NOON_MS):
                waiting = await asyncio.to_thread(wait_landed, spool.directory, before_ms, 0)
                assert waiting == len([1 for arrived_ms, _ in sent if arrived_ms < before_ms])
        sink.is_down = False
    assert sorted(_landed(tmp_path)) == sorted((partition_of(ms), ms, event_id) for ms, event_id in sent)
    by_day = Counter(day_of(arrived_ms) for arrived_ms, _ in sent)
    tally = Tally.of((spool.directory / FILE).read_bytes())
    assert {day: found.delivered for day, found in tally.days.items()} == by_day
    assert wait_landed(spool.directory, NOON_MS + 2 * DAY_MS, 0) == 0
    for day, count in by_day.items():
        code, said = reconcile(Services(tmp_path), day)
        assert (code, said["delivered"], said["landed"], said["missing"]) == (0, count, count, 0)


async def test_a_restart_after_the_clock_went_back_loses_nothing_and_reuses_no_id(tmp_path: Path) -> None:
    now_ms, names = NOON_MS, list[str]()

    def clock() -> int:
        return now_ms

    for now_ms in (NOON_MS, NOON_MS + DAY_MS, NOON_MS - HOUR_MS, NOON_MS):
        spool = Spool(tmp_path, clock=clock)
        await spool.append(b"%d" % now_ms, 1, now_ms)
        spool.seal()
        batch = await spool.next_batch()
        assert batch is not None
        assert batch.lines == [b"%d" % now_ms]
        names.append(batch.name)
        await spool.ack(batch)
        await spool.close()
    assert len(set(names)) == len(names)


def _like(number: int, place: int) -> dict[str, str]:
    event_id = f"{number:08x}-0000-7000-8000-{place:012x}"
    return {"event_type": "like", "user_id": "u1", "ping_id": "p1", "event_id": event_id}


def _landed(folder: Path) -> list[tuple[str, int, str]]:
    """Partition, arrival and id of every row in the lake."""
    found = []
    for path in FileLake(f"file://{folder}/lake").list("events"):
        rows = pq.read_table(folder / "lake" / path, columns=["received_ms", "event_id"], partitioning=None).to_pylist()
        found += [(path.rpartition("/")[0], row["received_ms"], row["event_id"]) for row in rows]
    return found
