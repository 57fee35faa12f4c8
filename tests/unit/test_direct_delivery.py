"""Where nothing runs after the answer: the request waits for the sink, and says 503 where that does not take it."""

import asyncio

import pytest

from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.spool.inline import DirectDelivery
from tests.conformance.samples import NOON_MS, like
from tests.unit.fakes import MemorySink, RowSignals


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def signals() -> RowSignals:
    return RowSignals()


def direct(sink: MemorySink, signals: RowSignals, within_s: float = 5) -> DirectDelivery:
    return DirectDelivery(sink, apply=signals.apply, within_s=within_s)


async def test_what_is_accepted_is_at_the_sink_and_applied(sink: MemorySink, signals: RowSignals) -> None:
    delivery = direct(sink, signals)
    await delivery.start()
    await delivery.accept([like(1), like(2)])
    assert [row["ping_id"] for row in sink.rows] == signals.applied == ["ping-1", "ping-2"]
    assert (delivery.counters.accepted, delivery.counters.delivered, delivery.counters.spooled_events) == (2, 2, 0)
    await delivery.close()
    assert sink.closed


async def test_nothing_is_running_once_the_answer_is_out(sink: MemorySink, signals: RowSignals) -> None:
    delivery = direct(sink, signals)
    await delivery.start()
    await delivery.accept([like(1)])
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_sink_that_refuses_refuses_the_request(sink: MemorySink, signals: RowSignals) -> None:
    delivery = direct(sink, signals)
    sink.down = "throttled"
    with pytest.raises(Unavailable, match="throttled") as refused:
        await delivery.accept([like(1)])
    assert refused.value.retry_after_s >= 1
    assert (delivery.counters.accepted, delivery.counters.delivery_failures) == (0, 1)
    sink.down = ""
    await delivery.accept([like(1)])
    assert len(sink.rows) == 1


async def test_a_sink_that_is_too_slow_refuses_the_request_and_is_let_go(sink: MemorySink, signals: RowSignals) -> None:
    sink.hangs = True
    with pytest.raises(Unavailable, match="in time"):
        await direct(sink, signals, within_s=0.02).accept([like(1)])
    assert sink.cancelled == 1


async def test_signals_that_are_down_refuse_the_request_for_nobody_would_apply_them_later(
    sink: MemorySink, signals: RowSignals
) -> None:
    delivery = direct(sink, signals)
    signals.error = Unavailable("down")
    with pytest.raises(Unavailable):
        await delivery.accept([like(1)])
    assert (delivery.counters.accepted, delivery.counters.apply_failures) == (0, 1)


async def test_signals_that_can_never_be_applied_are_given_up(sink: MemorySink, signals: RowSignals) -> None:
    delivery = direct(sink, signals)
    signals.error = FormatError("a state of another version")
    await delivery.accept([like(1)])
    assert (delivery.counters.accepted, delivery.counters.apply_given_up) == (1, 1)


async def test_its_batches_have_names_of_their_own_and_the_rows_day(sink: MemorySink, signals: RowSignals) -> None:
    names: set[str] = set()

    class Naming(MemorySink):
        async def write(self, batch: "object") -> None:
            names.add(batch.name)  # type: ignore[attr-defined]
            assert batch.received_ms == NOON_MS  # type: ignore[attr-defined]

    delivery = DirectDelivery(Naming(), apply=signals.apply)
    for _ in range(3):
        await delivery.accept([like(1)])
    assert len(names) == 3
