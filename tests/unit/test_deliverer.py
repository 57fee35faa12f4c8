"""From an accepted request to the sink: in order, at least once, whatever is down, killed or late."""

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pingfeed.adapters.event_sink_disk import DiskEventSink
from pingfeed.adapters.lake_file import FileLake
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.errors import FormatError, PingfeedError, Unavailable
from pingfeed.core.events import Row, decode_rows
from pingfeed.core.retry import Backoff, until_done
from pingfeed.core.signals import acts_of
from pingfeed.ports import Batch, SinkCounters
from pingfeed.spool.deliverer import Deliverer
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.segment import Record, SpooledBatch
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import Counters
from tests.conformance.samples import NOON_MS, eventually, like
from tests.unit.fakes import RowSignals

SOON_S = 0.02
NEVER_S = 3600.0
QUICK = Backoff(first_s=0.005, longest_s=0.02)


class MemorySink:
    """An EventSink that keeps what it got, and refuses while `error` is set."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.error: PingfeedError | None = None
        self.refused: list[str] = []
        self.hangs = False
        self.closed = False
        self.counters = SinkCounters()

    async def write(self, batch: Batch) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            self.refused.append(batch.name)
            raise self.error
        self.batches.append(batch)

    async def check(self) -> None:
        return None

    async def close(self) -> None:
        self.closed = True

    @property
    def lines(self) -> list[bytes]:
        return [line for batch in self.batches for line in batch.lines]

    @property
    def pings(self) -> list[str]:
        return [row["ping_id"] for line in self.lines for row in decode_rows(line)]


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def signals() -> RowSignals:
    return RowSignals()


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    opened = Spool(tmp_path / "spool")
    yield opened
    await opened.close()


@asynccontextmanager
async def _delivering(spool: Spool, sink: MemorySink, flush_seconds: float) -> AsyncIterator[Deliverer]:
    deliverer = Deliverer(spool, sink, flush_seconds=flush_seconds, counters=Counters(), backoff=QUICK)
    deliverer.start()
    yield deliverer
    await deliverer.close(5)


def _delivery(spool: Spool, sink: MemorySink, signals: RowSignals, flush_seconds: float = SOON_S) -> Delivery:
    return Delivery(spool, sink, apply=signals.apply, flush_seconds=flush_seconds, backoff=QUICK)


async def _append(spool: Spool, count: int, received_ms: int = NOON_MS) -> None:
    for number in range(count):
        await spool.append(b"%d\n" % number, 1, received_ms)


def _records(spool: Spool) -> list[Record]:
    """Everything that is in the spool, delivered or not."""
    return [record for segment in spool.segments() for record in spool.records(segment)]


# The deliverer


async def test_what_an_earlier_process_left_goes_first_and_in_order(spool: Spool, sink: MemorySink) -> None:
    await _append(spool, 50)
    async with _delivering(spool, sink, NEVER_S):
        await eventually(lambda: spool.depth() == (0, 0))
    assert sink.lines == [b"%d\n" % n for n in range(50)]
    assert len(sink.batches) == 1


async def test_a_flush_waits_for_its_time(spool: Spool, sink: MemorySink) -> None:
    async with _delivering(spool, sink, SOON_S) as deliverer:
        await eventually(lambda: deliverer._due_at is None)
        await _append(spool, 2)
        assert sink.batches == []
        await eventually(lambda: spool.depth() == (0, 0))
        await _append(spool, 1)
        await eventually(lambda: spool.depth() == (0, 0))
    assert [len(batch.lines) for batch in sink.batches] == [2, 1]


async def test_nothing_goes_before_its_time_but_what_is_full(tmp_path: Path, sink: MemorySink) -> None:
    spool = Spool(tmp_path, segment_events=3)
    async with _delivering(spool, sink, NEVER_S) as deliverer:
        await eventually(lambda: deliverer._due_at is None)
        await _append(spool, 3)
        for _ in range(5):
            await asyncio.sleep(0)
        assert sink.batches == []
        await _append(spool, 1)
        await eventually(lambda: spool.depth() == (0, 0))
    assert [len(batch.lines) for batch in sink.batches] == [3, 1]
    await spool.close()


async def test_a_sink_that_was_down_gets_everything_in_order(tmp_path: Path, sink: MemorySink) -> None:
    spool = Spool(tmp_path, segment_events=4)
    sink.error = Unavailable("down")
    async with _delivering(spool, sink, SOON_S) as deliverer:
        await _append(spool, 10)
        await eventually(lambda: len(sink.refused) >= 3)
        assert spool.depth()[0] == 10
        await spool.append(b"late\n", 1, NOON_MS)
        sink.error = None
        await eventually(lambda: spool.depth() == (0, 0))
    assert len(set(sink.refused)) == 1, "the same batch is asked for again, not another"
    assert sink.batches[0].name == sink.refused[0]
    assert sink.lines == [*(b"%d\n" % n for n in range(10)), b"late\n"]
    assert deliverer._counters.delivery_failures == len(sink.refused)
    assert deliverer._counters.delivered == 11
    await spool.close()


async def test_a_batch_that_the_sink_cannot_read_is_kept_not_dropped(spool: Spool, sink: MemorySink) -> None:
    sink.error = FormatError("not a row")
    await _append(spool, 1)
    async with _delivering(spool, sink, NEVER_S):
        await eventually(lambda: len(sink.refused) >= 2)
    assert spool.depth()[0] == 1


async def test_delivered_but_not_deleted_is_delivered_twice_never_lost(
    spool: Spool, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the process died between the sink's answer and the deletion."""

    async def refuse(_: SpooledBatch) -> None:
        raise Unavailable("no room to count it")

    await _append(spool, 3)
    with monkeypatch.context() as patch:
        patch.setattr(spool, "ack", refuse)
        async with _delivering(spool, sink, NEVER_S) as deliverer:
            await eventually(lambda: deliverer._counters.delivery_failures >= 3)
    assert [len(batch.lines) for batch in sink.batches] == [3], "a sink that took it is not asked again"
    folder = spool.directory
    await spool.close()
    again = Spool(folder)
    async with _delivering(again, sink, NEVER_S):
        await eventually(lambda: again.depth() == (0, 0))
    await again.close()
    assert [batch.name for batch in sink.batches] == [sink.batches[0].name] * 2, "the same records, the same name"
    assert sink.lines == [b"0\n", b"1\n", b"2\n"] * 2


async def test_spools_of_their_own_never_share_a_batch_name(tmp_path: Path, sink: MemorySink) -> None:
    for name in ("ingest", "feed"):
        spool = Spool(tmp_path / name)
        await _append(spool, 1)
        async with _delivering(spool, sink, NEVER_S):
            await eventually(lambda: spool.depth() == (0, 0))  # noqa: B023 - awaited within the loop
        await spool.close()
    assert len({batch.name for batch in sink.batches}) == 2


async def test_closing_delivers_what_is_left(spool: Spool, sink: MemorySink) -> None:
    async with _delivering(spool, sink, NEVER_S) as deliverer:
        await eventually(lambda: deliverer._due_at is None)
        await _append(spool, 5)
    assert sink.lines == [b"%d\n" % n for n in range(5)]
    assert spool.depth() == (0, 0)


async def test_closing_delivers_what_came_during_a_flush(spool: Spool, sink: MemorySink) -> None:
    sink.error = Unavailable("down")
    await _append(spool, 1)
    async with _delivering(spool, sink, NEVER_S):
        await eventually(lambda: bool(sink.refused))
        await _append(spool, 1)
        sink.error = None
    assert spool.depth() == (0, 0)
    assert len(sink.lines) == 2


async def test_closing_gives_a_dead_sink_up_and_keeps_the_records(spool: Spool, sink: MemorySink) -> None:
    sink.error = Unavailable("down")
    await _append(spool, 1)
    async with _delivering(spool, sink, NEVER_S):
        await eventually(lambda: bool(sink.refused))
    assert spool.depth()[0] == 1


async def test_closing_waits_for_a_hanging_sink_only_so_long(spool: Spool, sink: MemorySink) -> None:
    sink.hangs = True
    await _append(spool, 1)
    deliverer = Deliverer(spool, sink, flush_seconds=NEVER_S, counters=Counters())
    deliverer.start()
    await asyncio.wait_for(deliverer.close(0.05), 5)
    assert spool.depth()[0] == 1


async def test_a_deliverer_that_died_of_a_bug_says_so(
    spool: Spool, sink: MemorySink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(_: Batch) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(sink, "write", buggy)
    await _append(spool, 1)
    async with _delivering(spool, sink, NEVER_S) as deliverer:
        deliverer.check()
        await eventually(lambda: "deliverer stopped" in caplog.text)
        with pytest.raises(Unavailable):
            deliverer.check()


# The delivery: what the services hold


async def test_an_accepted_request_is_spooled_applied_and_delivered(
    spool: Spool, sink: MemorySink, signals: RowSignals
) -> None:
    delivery = _delivery(spool, sink, signals)
    await delivery.start()
    await delivery.accept([like(1), like(2)])
    assert signals.applied == ["ping-1", "ping-2"]
    assert delivery.counters.accepted == 2
    await eventually(lambda: delivery.counters.delivered == 2)
    await delivery.close()
    assert sink.pings == ["ping-1", "ping-2"]
    assert sink.batches[0].received_ms == NOON_MS
    assert sink.closed


async def test_no_rows_are_no_record(spool: Spool, sink: MemorySink, signals: RowSignals) -> None:
    delivery = _delivery(spool, sink, signals)
    await delivery.start()
    await delivery.accept([])
    await delivery.close()
    assert sink.batches == []


async def test_a_refused_request_is_neither_counted_nor_applied(
    tmp_path: Path, sink: MemorySink, signals: RowSignals
) -> None:
    delivery = _delivery(Spool(tmp_path, max_bytes=10), sink, signals)
    await delivery.start()
    with pytest.raises(Unavailable):
        await delivery.accept([like(1)])
    assert (delivery.counters.accepted, signals.applied) == (0, [])
    await delivery.close()
    assert sink.batches == []


async def test_rows_stay_accepted_when_applying_fails_and_are_applied_later(
    spool: Spool, sink: MemorySink, signals: RowSignals
) -> None:
    delivery = _delivery(spool, sink, signals)
    await delivery.start()
    signals.error = Unavailable("the signals are down")
    for number in range(3):
        await delivery.accept([like(number)])
    await eventually(lambda: delivery.counters.delivered == 3)
    await eventually(lambda: delivery.counters.apply_failures > 3)
    assert delivery.counters.unapplied >= 1
    assert len(_records(spool)) == 3, "delivered, and still kept for the signals"
    signals.error = None
    await eventually(lambda: sorted(signals.applied) == ["ping-0", "ping-1", "ping-2"])
    await eventually(lambda: delivery.counters.unapplied == 0)
    await eventually(lambda: _records(spool) == [])
    await delivery.close()
    assert sink.pings == ["ping-0", "ping-1", "ping-2"]


async def test_a_record_that_is_still_being_applied_is_delivered_but_not_deleted(
    spool: Spool, sink: MemorySink
) -> None:
    """A kill in this moment must find it at the next start."""
    applying = asyncio.Event()

    async def apply(_: Sequence[Row]) -> None:
        await applying.wait()

    delivery = Delivery(spool, sink, apply=apply, flush_seconds=SOON_S, backoff=QUICK)
    await delivery.start()
    accepting = asyncio.create_task(delivery.accept([like(1)]))
    await eventually(lambda: delivery.counters.delivered == 1 and spool.depth() == (0, 0))
    assert [record.count for record in _records(spool)] == [1]
    assert sink.pings == ["ping-1"]
    applying.set()
    await accepting
    await delivery.close()


async def test_a_record_that_can_never_be_applied_keeps_no_other_waiting(spool: Spool, sink: MemorySink) -> None:
    applied: list[str] = []
    down = True

    async def apply(rows: Sequence[Row]) -> None:
        if down or any(row["ping_id"] == "ping-0" for row in rows):
            raise Unavailable("not now")
        applied.extend(row["ping_id"] for row in rows)

    delivery = Delivery(spool, sink, apply=apply, flush_seconds=SOON_S, backoff=QUICK)
    await delivery.start()
    for number in range(3):
        await delivery.accept([like(number)])
    down = False
    await eventually(lambda: set(applied) == {"ping-1", "ping-2"})  # Again is fine.
    await eventually(lambda: delivery.counters.unapplied == 1)
    await delivery.close()


async def test_signals_that_were_never_applied_are_applied_at_the_next_start(
    spool: Spool, sink: MemorySink, signals: RowSignals
) -> None:
    """Even of records that were delivered, as after a kill between delivering and applying."""
    signals.error = Unavailable("down")
    first = _delivery(spool, sink, signals)
    await first.start()
    for number in range(450):
        await first.accept([like(number)])
    await first.close()
    assert len(sink.pings) == 450
    signals.error = None
    second = _delivery(Spool(spool.directory), sink, signals)
    await second.start()
    assert signals.applied == [f"ping-{n}" for n in range(450)], "all of them before serving"
    await second.close()
    assert len(sink.pings) == 450, "and none delivered a second time"


async def test_a_start_while_the_signals_are_down_holds_what_it_found(
    spool: Spool, sink: MemorySink, signals: RowSignals
) -> None:
    for number in range(250):
        await spool.append(b'{"ping_id":"ping-%d"}\n' % number, 1, NOON_MS)
    signals.error = Unavailable("down")
    delivery = _delivery(spool, sink, signals)
    await delivery.start()
    await eventually(lambda: delivery.counters.delivered == 250)
    assert len(_records(spool)) == 250
    signals.error = None
    await eventually(lambda: len(signals.applied) == 250)
    await eventually(lambda: _records(spool) == [])
    await delivery.close()


async def test_signals_that_no_second_try_can_apply_are_given_up_alone(
    spool: Spool, sink: MemorySink, signals: RowSignals
) -> None:
    """A state that this version cannot read, say: neither the spool nor anybody else's hide waits for it."""

    async def apply(rows: Sequence[Row]) -> None:
        if any(row["user_id"] == "bob" for row in rows):
            raise FormatError("bob's state is of another version")
        await signals.apply(rows)

    delivery = Delivery(spool, sink, apply=apply, flush_seconds=0.01, backoff=QUICK)
    await delivery.start()
    await delivery.accept([like(1), like(2, user="bob"), like(3)])
    await eventually(lambda: signals.applied == ["ping-1", "ping-3"])
    await eventually(lambda: _records(spool) == [])
    assert delivery.counters.apply_given_up == 1
    await delivery.close()
    assert sink.pings == ["ping-1", "ping-2", "ping-3"]


async def test_a_caller_that_goes_away_leaves_nothing_half_done(
    spool: Spool, sink: MemorySink, signals: RowSignals
) -> None:
    delivery = _delivery(spool, sink, signals)
    await delivery.start()
    caller = asyncio.create_task(delivery.accept([like(1)]))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await delivery.close()
    assert signals.applied == sink.pings == ["ping-1"]


async def test_concurrent_requests_all_arrive_once(spool: Spool, sink: MemorySink, signals: RowSignals) -> None:
    delivery = _delivery(spool, sink, signals)
    await delivery.start()
    await asyncio.gather(*(delivery.accept([like(n)]) for n in range(300)))
    await delivery.close()
    everything = sorted(f"ping-{n}" for n in range(300))
    assert sorted(sink.pings) == sorted(signals.applied) == everything
    assert delivery.counters.accepted == delivery.counters.delivered == 300
    assert (delivery.counters.spooled_events, delivery.counters.spooled_bytes, delivery.counters.unapplied) == (0, 0, 0)


async def test_a_delivery_is_ready_once_started_and_refuses_once_the_spool_is_full(
    tmp_path: Path, sink: MemorySink, signals: RowSignals
) -> None:
    delivery = _delivery(Spool(tmp_path, max_bytes=400), sink, signals, NEVER_S)
    with pytest.raises(Unavailable):
        await delivery.check()
    sink.error = Unavailable("down")
    await delivery.start()
    await delivery.check()
    await delivery.accept([like(1)])
    with pytest.raises(Unavailable):
        await delivery.accept([like(2), like(3)])
    await delivery.close()


# Kill -9


SERVICE = """
import asyncio, os, sys
from pathlib import Path
from pingfeed.adapters.event_sink_disk import DiskEventSink
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.spool import Spool
from pingfeed.core.signals import acts_of
from tests.conformance.samples import NOON_MS, like

async def one(delivery, user, worker):
    number = 0
    while True:
        number += 1
        await delivery.accept([like(number, user=user, received_ms=NOON_MS + number)])
        os.write(1, b"%d %d\\n" % (worker, number))

async def main(folder, user):
    signals = SqliteUserSignals(f"sqlite://{folder}/signals.sqlite")
    async def apply(rows):
        await signals.apply([act for row in rows for act in acts_of(row)])
    sink = DiskEventSink(f"disk://{folder}/lake")
    delivery = Delivery(Spool(Path(folder, "spool")), sink, apply=apply, flush_seconds=0.02)
    await delivery.start()
    await asyncio.gather(*(one(delivery, f"{user}-{worker}", worker) for worker in range(4)))

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


async def test_what_was_accepted_before_sigkill_is_in_the_lake_and_in_the_signals(
    tmp_path: Path,
) -> None:
    accepted: set[tuple[str, str]] = set()
    for round_ in range(3):
        accepted |= await asyncio.to_thread(_killed_service, tmp_path, f"user-{round_}")
    stores = SqliteUserSignals(f"sqlite://{tmp_path}/signals.sqlite")

    async def apply(rows: Sequence[Row]) -> None:
        await stores.apply([act for row in rows for act in acts_of(row)])

    disk = DiskEventSink(f"disk://{tmp_path}/lake")
    delivery = Delivery(Spool(tmp_path / "spool"), disk, apply=apply, flush_seconds=SOON_S)
    await delivery.start()
    await delivery.close()
    assert accepted <= _landed(tmp_path)
    for user in {user for user, _ in accepted}:
        seen = (await stores.read(user, NOON_MS)).state.seen
        numbers = sorted(int(ping.removeprefix("ping-")) for by, ping in accepted if by == user)
        assert {f"ping-{number}" for number in numbers[-300:]} <= seen.keys(), "a state keeps the newest few hundred"
    await stores.close()


def _killed_service(folder: Path, user: str) -> set[tuple[str, str]]:
    """User and ping of every row that a service acknowledged before it was killed at a random moment."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SERVICE, str(folder), user]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(random.randint(1, 250))]
        process.kill()
        lines += process.stdout.readlines()  # What was acknowledged before the kill arrived.
    numbers = [line.split() for line in lines if line.endswith(b"\n")]
    return {(f"{user}-{worker.decode()}", f"ping-{number.decode()}") for worker, number in numbers}


def _landed(folder: Path) -> set[tuple[str, str]]:
    """User and ping of every row in the lake; reading fails on a file that is half written."""
    found: set[tuple[str, str]] = set()
    for path in FileLake(f"file://{folder}/lake").list("events"):
        table = pq.read_table(folder / "lake" / path, columns=["user_id", "ping_id"], partitioning=None)
        found |= {(row["user_id"], row["ping_id"]) for row in table.to_pylist()}
    return found


# Trying again


def test_pauses_double_up_to_the_longest_and_are_cut_at_random() -> None:
    whole = Backoff(first_s=1, longest_s=30, jitter=lambda: 0.0)
    assert [whole.pause_s(n) for n in (1, 2, 3, 4, 5, 6, 7, 1000)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert Backoff(first_s=1, jitter=lambda: 1.0).pause_s(3) == 2


async def test_a_step_is_repeated_until_it_is_done() -> None:
    errors: list[PingfeedError] = []
    left = [Unavailable("a"), Unavailable("b")]

    async def step() -> str:
        if left:
            raise left.pop(0)
        return "done"

    done = await until_done(step, stop=asyncio.Event(), backoff=QUICK, failed=errors.append)
    assert (done, [error.message for error in errors]) == ("done", ["a", "b"])


async def test_stopping_ends_a_pause_with_one_last_try() -> None:
    stop = asyncio.Event()
    tries: list[int] = []

    async def step() -> None:
        tries.append(len(tries))
        stop.set()
        raise Unavailable("down")

    with pytest.raises(Unavailable):
        await until_done(step, stop=stop, backoff=Backoff(first_s=NEVER_S), failed=lambda _: None)
    assert len(tries) == 1
