"""From an accepted request to the sink: in order, at least once, through failures, kills and restarts."""

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
from pingfeed.core.events import Row
from pingfeed.core.retry import Backoff, until_done
from pingfeed.core.signals import acts_of
from pingfeed.ports import Batch
from pingfeed.spool.deliverer import Deliverer
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.replay import Apply
from pingfeed.spool.segment import Record, SpooledBatch
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import Counters
from tests.conformance.samples import NOON_MS, eventually, like
from tests.unit.fakes import MemorySink, RowSignals

SOON_S = 0.02
NEVER_S = 3600.0
QUICK = Backoff(first_s=0.005, longest_s=0.02)
DOWN = Unavailable("down")


class Sink(MemorySink):
    """Keeps batches, too, and the names of all that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []
        self.tried: list[str] = []

    async def write(self, batch: Batch) -> None:
        self.tried.append(batch.name)
        await super().write(batch)
        self.batches.append(batch)

    @property
    def lines(self) -> list[bytes]:
        return [line for batch in self.batches for line in batch.lines]

    @property
    def pings(self) -> list[str]:
        return [row["ping_id"] for row in self.rows]


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def signals() -> RowSignals:
    return RowSignals()


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    opened = Spool(tmp_path / "spool", segment_events=300)
    yield opened
    await opened.close()


@asynccontextmanager
async def _delivering(spool: Spool, sink: Sink, flush_seconds: float = NEVER_S) -> AsyncIterator[Deliverer]:
    deliverer = Deliverer(spool, sink, flush_seconds=flush_seconds, counters=Counters(), backoff=QUICK)
    deliverer.start()
    yield deliverer
    await deliverer.close(5)


@asynccontextmanager
async def _serving(spool: Spool, sink: Sink, apply: Apply, flush_seconds: float = SOON_S) -> AsyncIterator[Delivery]:
    delivery = Delivery(spool, sink, apply=apply, flush_seconds=flush_seconds, backoff=QUICK)
    await delivery.start()
    yield delivery
    await delivery.close()


@pytest.fixture
async def delivery(spool: Spool, sink: Sink, signals: RowSignals) -> AsyncIterator[Delivery]:
    async with _serving(spool, sink, signals.apply) as started:
        yield started


async def _append(spool: Spool, count: int) -> None:
    for number in range(count):
        await spool.append(b"%d\n" % number, 1, NOON_MS)


async def _empty(spool: Spool) -> None:
    await eventually(lambda: spool.depth() == (0, 0))


def _records(spool: Spool) -> list[Record]:
    """All records in the spool, delivered or not."""
    return [record for segment in spool.segments() for record in spool.records(segment)]


# The deliverer


async def test_rows_of_an_earlier_process_are_delivered_at_once_in_order(spool: Spool, sink: Sink) -> None:
    await _append(spool, 50)
    async with _delivering(spool, sink):
        await _empty(spool)
    assert sink.lines == [b"%d\n" % n for n in range(50)]
    assert len(sink.batches) == 1


async def test_rows_wait_for_the_flush(spool: Spool, sink: Sink) -> None:
    async with _delivering(spool, sink, SOON_S) as deliverer:
        await eventually(lambda: deliverer._due_at is None)
        await _append(spool, 2)
        assert sink.batches == []
        await _empty(spool)
        await _append(spool, 1)
        await _empty(spool)
    assert [len(batch.lines) for batch in sink.batches] == [2, 1]


async def test_a_full_segment_is_delivered_before_the_flush_and_the_rest_on_close(tmp_path: Path, sink: Sink) -> None:
    spool = Spool(tmp_path, segment_events=3)
    async with _delivering(spool, sink) as deliverer:
        await eventually(lambda: deliverer._due_at is None)
        await _append(spool, 3)
        for _ in range(5):
            await asyncio.sleep(0)
        assert sink.batches == []
        await _append(spool, 1)
        await _empty(spool)
        await _append(spool, 2)
    assert [len(batch.lines) for batch in sink.batches] == [3, 1, 2]
    await spool.close()


async def test_a_sink_that_was_down_gets_everything_in_order(tmp_path: Path, sink: Sink) -> None:
    spool = Spool(tmp_path, segment_events=4)
    sink.down = "down"
    async with _delivering(spool, sink, SOON_S) as deliverer:
        await _append(spool, 10)
        await eventually(lambda: len(sink.tried) >= 3)
        assert spool.depth()[0] == 10
        await spool.append(b"99\n", 1, NOON_MS)
        sink.down = ""
        await _empty(spool)
    failures = deliverer._counters.delivery_failures
    assert set(sink.tried[:failures]) == {sink.batches[0].name}, "the same batch is retried"
    assert sink.lines == [*(b"%d\n" % n for n in range(10)), b"99\n"]
    assert failures == len(sink.tried) - len(sink.batches)
    assert deliverer._counters.delivered == 11
    await spool.close()


@pytest.mark.parametrize("error", [DOWN, FormatError("not a row")])
async def test_rows_that_the_sink_does_not_take_stay_in_the_spool(
    spool: Spool, sink: Sink, error: PingfeedError
) -> None:
    def fail() -> None:
        raise error

    sink.before = fail
    await _append(spool, 1)
    async with _delivering(spool, sink):
        await eventually(lambda: len(sink.tried) >= 2)
    assert spool.depth()[0] == 1


async def test_delivered_but_not_acked_is_delivered_twice_never_lost(
    spool: Spool, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the process died between the sink's response and the ack."""

    async def fail(_: SpooledBatch) -> None:
        raise Unavailable("no room for the tally")

    await _append(spool, 3)
    with monkeypatch.context() as patch:
        patch.setattr(spool, "ack", fail)
        async with _delivering(spool, sink) as deliverer:
            await eventually(lambda: deliverer._counters.delivery_failures >= 3)
    assert [len(batch.lines) for batch in sink.batches] == [3], "this process does not write it again"
    await spool.close()
    again = Spool(spool.directory)
    async with _delivering(again, sink):
        await _empty(again)
    await again.close()
    assert [batch.name for batch in sink.batches] == [sink.batches[0].name] * 2, "the same records, the same name"
    assert sink.lines == [b"0\n", b"1\n", b"2\n"] * 2


async def test_close_delivers_rows_that_arrive_during_a_flush(spool: Spool, sink: Sink) -> None:
    sink.down = "down"
    await _append(spool, 1)
    async with _delivering(spool, sink):
        await eventually(lambda: bool(sink.tried))
        await _append(spool, 1)
        sink.down = ""
    assert spool.depth() == (0, 0)
    assert len(sink.lines) == 2


async def test_close_waits_for_a_hanging_sink_only_until_its_timeout(spool: Spool, sink: Sink) -> None:
    sink.hangs = True
    await _append(spool, 1)
    deliverer = Deliverer(spool, sink, flush_seconds=NEVER_S, counters=Counters())
    deliverer.start()
    await asyncio.wait_for(deliverer.close(0.05), 5)
    assert spool.depth()[0] == 1


async def test_a_deliverer_stopped_by_a_bug_fails_its_check(
    spool: Spool, sink: Sink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(_: Batch) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(sink, "write", buggy)
    await _append(spool, 1)
    async with _delivering(spool, sink) as deliverer:
        deliverer.check()
        await eventually(lambda: "deliverer stopped" in caplog.text)
        with pytest.raises(Unavailable):
            deliverer.check()


# Delivery: what the services use


async def test_an_accepted_request_is_spooled_applied_and_delivered(
    delivery: Delivery, sink: Sink, signals: RowSignals
) -> None:
    await delivery.accept([])
    await delivery.accept([like(1), like(2)])
    assert signals.applied == ["ping-1", "ping-2"]
    assert delivery.counters.accepted == 2
    await eventually(lambda: delivery.counters.delivered == 2)
    await delivery.close()
    assert sink.pings == ["ping-1", "ping-2"]
    assert [batch.received_ms for batch in sink.batches] == [NOON_MS]
    assert sink.closed


async def test_a_full_spool_accepts_counts_and_applies_nothing(tmp_path: Path, sink: Sink, signals: RowSignals) -> None:
    with pytest.raises(Unavailable):
        await Delivery(Spool(tmp_path / "other"), sink, apply=signals.apply, flush_seconds=1).check()
    sink.down = "down"
    async with _serving(Spool(tmp_path, max_bytes=400), sink, signals.apply, NEVER_S) as delivery:
        await delivery.check()
        await delivery.accept([like(1)])
        with pytest.raises(Unavailable):
            await delivery.accept([like(2), like(3)])
        assert (delivery.counters.accepted, signals.applied) == (1, ["ping-1"])
        sink.down = ""
    assert sink.pings == ["ping-1"]


async def test_rows_stay_accepted_when_applying_fails_and_are_applied_later(
    delivery: Delivery, spool: Spool, sink: Sink, signals: RowSignals
) -> None:
    signals.error = DOWN
    for number in range(3):
        await delivery.accept([like(number)])
    await eventually(lambda: delivery.counters.delivered == 3)
    await eventually(lambda: delivery.counters.apply_failures > 3)
    assert delivery.counters.unapplied >= 1
    assert len(_records(spool)) == 3, "delivered, and still kept for the signals"
    signals.error = None
    await eventually(lambda: sorted(signals.applied) == ["ping-0", "ping-1", "ping-2"])
    await eventually(lambda: _records(spool) == [])
    assert delivery.counters.unapplied == 0
    assert sink.pings == ["ping-0", "ping-1", "ping-2"]


async def test_a_record_that_is_still_being_applied_is_delivered_but_not_removed(spool: Spool, sink: Sink) -> None:
    """A kill at this moment must find it at the next start."""
    applying = asyncio.Event()

    async def apply(_: Sequence[Row]) -> None:
        await applying.wait()

    async with _serving(spool, sink, apply) as delivery:
        accepting = asyncio.create_task(delivery.accept([like(1)]))
        await eventually(lambda: delivery.counters.delivered == 1 and spool.depth() == (0, 0))
        assert [record.count for record in _records(spool)] == [1]
        applying.set()
        await accepting


async def test_a_record_that_always_fails_blocks_no_other(spool: Spool, sink: Sink) -> None:
    applied: set[str] = set()
    down = True

    async def apply(rows: Sequence[Row]) -> None:
        if down or any(row["ping_id"] == "ping-0" for row in rows):
            raise DOWN
        applied.update(row["ping_id"] for row in rows)

    async with _serving(spool, sink, apply) as delivery:
        for number in range(3):
            await delivery.accept([like(number)])
        down = False
        await eventually(lambda: applied == {"ping-1", "ping-2"})
        await eventually(lambda: delivery.counters.unapplied == 1)


async def test_signals_that_were_never_applied_are_applied_at_the_next_start(
    spool: Spool, sink: Sink, signals: RowSignals
) -> None:
    """Even of delivered records, as after a kill between delivering and applying."""
    signals.error = DOWN
    async with _serving(spool, sink, signals.apply) as first:
        await asyncio.gather(*(first.accept([like(number)]) for number in range(450)))
    assert len(sink.pings) == 450
    signals.error = None
    async with _serving(Spool(spool.directory), sink, signals.apply):
        assert signals.applied == [f"ping-{n}" for n in range(450)], "all of them before serving"
    assert len(sink.pings) == 450, "and none delivered a second time"


async def test_a_start_while_the_signals_are_down_keeps_the_spooled_rows(
    spool: Spool, sink: Sink, signals: RowSignals
) -> None:
    for number in range(250):
        await spool.append(b'{"ping_id":"ping-%d"}\n' % number, 1, NOON_MS)
    signals.error = DOWN
    async with _serving(spool, sink, signals.apply) as delivery:
        await eventually(lambda: delivery.counters.delivered == 250)
        assert len(_records(spool)) == 250
        signals.error = None
        await eventually(lambda: len(signals.applied) == 250)
        await eventually(lambda: _records(spool) == [])


async def test_signals_that_no_retry_can_apply_are_given_up_alone(
    spool: Spool, sink: Sink, signals: RowSignals
) -> None:
    """A state that this version cannot read, say: neither the spool nor another user's hide waits for it."""

    async def apply(rows: Sequence[Row]) -> None:
        if any(row["user_id"] == "bob" for row in rows):
            raise FormatError("bob's state is of another version")
        await signals.apply(rows)

    async with _serving(spool, sink, apply) as delivery:
        await delivery.accept([like(1), like(2, user="bob"), like(3)])
        await eventually(lambda: signals.applied == ["ping-1", "ping-3"])
        await eventually(lambda: _records(spool) == [])
        assert delivery.counters.apply_given_up == 1
    assert sink.pings == ["ping-1", "ping-2", "ping-3"]


async def test_rows_of_a_cancelled_request_are_applied_and_delivered(
    delivery: Delivery, sink: Sink, signals: RowSignals
) -> None:
    caller = asyncio.create_task(delivery.accept([like(1)]))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await delivery.close()
    assert signals.applied == sink.pings == ["ping-1"]


async def test_concurrent_requests_are_delivered_and_applied_once(
    delivery: Delivery, sink: Sink, signals: RowSignals
) -> None:
    await asyncio.gather(*(delivery.accept([like(n)]) for n in range(300)))
    await delivery.close()
    assert sorted(sink.pings) == sorted(signals.applied) == sorted(f"ping-{n}" for n in range(300))
    found = delivery.counters
    assert found.accepted == found.delivered == 300
    assert (found.spooled_events, found.spooled_bytes, found.unapplied) == (0, 0, 0)


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


async def test_rows_accepted_before_sigkill_are_in_the_lake_and_in_the_signals(tmp_path: Path) -> None:
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


# Retries


def test_pauses_double_up_to_the_longest_with_jitter() -> None:
    whole = Backoff(first_s=1, longest_s=30, jitter=lambda: 0.0)
    assert [whole.pause_s(n) for n in (1, 2, 3, 4, 5, 6, 7, 1000)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert Backoff(first_s=1, jitter=lambda: 1.0).pause_s(3) == 2


async def test_a_step_is_retried_until_it_succeeds() -> None:
    errors: list[PingfeedError] = []
    left = [Unavailable("a"), Unavailable("b")]

    async def step() -> str:
        if left:
            raise left.pop(0)
        return "done"

    done = await until_done(step, stop=asyncio.Event(), backoff=QUICK, failed=errors.append)
    assert (done, [error.message for error in errors]) == ("done", ["a", "b"])


async def test_stopping_ends_the_retries() -> None:
    stop = asyncio.Event()
    tries: list[int] = []

    async def step() -> None:
        tries.append(len(tries))
        stop.set()
        raise Unavailable("down")

    with pytest.raises(Unavailable):
        await until_done(step, stop=stop, backoff=Backoff(first_s=NEVER_S), failed=lambda _: None)
    assert len(tries) == 1
