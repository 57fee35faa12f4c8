"""From an accepted request to the sink: in order, at least once, through failures and restarts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pingfeed.core.errors import FormatError, PingfeedError, Unavailable
from pingfeed.core.events import Row
from pingfeed.core.retry import Backoff, until_done
from pingfeed.ports import Batch
from pingfeed.spool.deliverer import Deliverer
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.inline import DirectDelivery
from pingfeed.spool.replay import Apply
from pingfeed.spool.segment import SpooledBatch
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import Counters
from pingfeed.spool.tasks import Repeated
from tests.conformance.samples import NOON_MS, eventually, like
from tests.unit.fakes import MemorySink, RowSignals
from tests.unit.spools import OpenSpool, records_in

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
async def spool(open_spool: OpenSpool) -> Spool:
    return await open_spool(segment_events=300)


@asynccontextmanager
async def _delivering(
    spool: Spool, sink: Sink, flush_seconds: float = NEVER_S, close_s: float = 5
) -> AsyncIterator[Deliverer]:
    deliverer = Deliverer(spool, sink, flush_seconds=flush_seconds, counters=Counters(), backoff=QUICK)
    deliverer.start()
    yield deliverer
    await deliverer.close(close_s)


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


async def test_a_full_segment_is_delivered_before_the_flush_and_the_rest_on_close(
    open_spool: OpenSpool, sink: Sink
) -> None:
    spool = await open_spool(segment_events=3)
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


async def test_a_sink_that_was_down_gets_everything_in_order_and_close_delivers_the_rest(
    open_spool: OpenSpool, sink: Sink
) -> None:
    spool = await open_spool(segment_events=4)
    sink.down = "down"
    await _append(spool, 10)
    async with _delivering(spool, sink) as deliverer:
        await eventually(lambda: len(sink.tried) >= 3)
        assert spool.depth()[0] == 10
        await spool.append(b"99\n", 1, NOON_MS)
        sink.down = ""
    failures = deliverer._counters.delivery_failures
    assert set(sink.tried[:failures]) == {sink.batches[0].name}, "the same batch is retried"
    assert sink.lines == [*(b"%d\n" % n for n in range(10)), b"99\n"]
    assert failures == len(sink.tried) - len(sink.batches)
    assert (deliverer._counters.delivered, spool.depth()) == (11, (0, 0))


def _raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [DOWN, FormatError("not a row")])
async def test_rows_that_the_sink_does_not_take_stay_in_the_spool(
    spool: Spool, sink: Sink, error: PingfeedError
) -> None:
    sink.before = _raising(error)
    await _append(spool, 1)
    async with _delivering(spool, sink):
        await eventually(lambda: len(sink.tried) >= 2)
    assert spool.depth()[0] == 1


async def test_delivered_but_not_acked_is_delivered_twice_never_lost(
    spool: Spool, open_spool: OpenSpool, sink: Sink, monkeypatch: pytest.MonkeyPatch
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
    again = await open_spool()
    async with _delivering(again, sink):
        await _empty(again)
    assert [batch.name for batch in sink.batches] == [sink.batches[0].name] * 2, "the same records, the same name"
    assert sink.lines == [b"0\n", b"1\n", b"2\n"] * 2


async def test_close_waits_for_a_hanging_sink_only_until_its_timeout(spool: Spool, sink: Sink) -> None:
    sink.hangs = True
    await _append(spool, 1)
    async with asyncio.timeout(5), _delivering(spool, sink, close_s=0.05):
        pass
    assert spool.depth()[0] == 1


async def test_a_deliverer_survives_a_bug_says_so_once_and_delivers_when_it_is_gone(
    spool: Spool, sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    sink.before = _raising(KeyError("bug"))
    await _append(spool, 1)
    async with _delivering(spool, sink) as deliverer:
        await eventually(lambda: caplog.text.count("delivery failed") >= 3)
        deliverer.check()
        assert caplog.text.count("an unexpected error; it is tried again") == 1
        del sink.before
        await eventually(lambda: spool.depth()[0] == 0)


async def test_a_repeated_task_survives_any_error_says_so_once_and_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = [RuntimeError("a"), RuntimeError("a"), ValueError("b"), None, ValueError("b"), None]
    left = iter(errors)
    ended = asyncio.Event()

    async def repeat() -> None:
        error = next(left, ended)
        if error is ended:
            ended.set()
        elif isinstance(error, Exception):
            raise error

    task = Repeated("trending cache", repeat, 0.001)
    task.start()
    await asyncio.wait_for(ended.wait(), 5)
    task.check()
    assert (task.failures, caplog.text.count("trending cache failed")) == (4, 3)
    await task.stop()


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
    assert len(records_in(spool)) == 3, "delivered, and still kept for the signals"
    signals.error = None
    await eventually(lambda: sorted(signals.applied) == ["ping-0", "ping-1", "ping-2"])
    await eventually(lambda: records_in(spool) == [])
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
        assert [record.count for record in records_in(spool)] == [1]
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


@pytest.mark.parametrize("is_down_at_the_start", [False, True])
async def test_signals_that_were_never_applied_are_applied_at_the_next_start_or_once_their_store_is_up(
    spool: Spool, sink: Sink, signals: RowSignals, is_down_at_the_start: bool
) -> None:
    """Even of delivered records, as after a kill between delivering and applying."""
    pings = [f"ping-{n}" for n in range(450)]
    signals.error = DOWN
    async with _serving(spool, sink, signals.apply) as first:
        await asyncio.gather(*(first.accept([like(number)]) for number in range(450)))
    signals.error = DOWN if is_down_at_the_start else None
    again = Spool(spool.directory)
    async with _serving(again, sink, signals.apply):
        if is_down_at_the_start:
            assert len(records_in(again)) == 450
            signals.error = None
            await eventually(lambda: len(signals.applied) == 450)
        assert signals.applied == pings, "all of them before serving"
        await eventually(lambda: records_in(again) == [])
    assert sink.pings == pings, "and none delivered a second time"


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
        await eventually(lambda: records_in(spool) == [])
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


# Without a spool; test_lambda.py tests its timeouts, failures and retries through the function.


async def test_direct_delivery_gives_up_signals_that_can_never_be_applied(sink: Sink, signals: RowSignals) -> None:
    signals.error = FormatError("a state of another version")
    delivery = DirectDelivery(sink, apply=signals.apply)
    await delivery.accept([like(1)])
    assert (delivery.counters.accepted, delivery.counters.apply_given_up) == (1, 1)


async def test_direct_batches_have_unique_names_and_the_rows_day_and_close_closes_the_sink(
    sink: Sink, signals: RowSignals
) -> None:
    delivery = DirectDelivery(sink, apply=signals.apply)
    for rows in ([like(0)], [like(1)], [like(2)], []):
        await delivery.accept(rows)
    await delivery.close()
    assert len(set(sink.tried)) == len(sink.tried) == 3
    assert {batch.received_ms for batch in sink.batches} == {NOON_MS}
    assert (signals.applied, sink.closed) == (["ping-0", "ping-1", "ping-2"], True)
    assert (delivery.counters.accepted, delivery.counters.delivered) == (3, 3)


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
