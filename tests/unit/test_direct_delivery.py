"""Delivery without a spool; test_lambda_handler.py tests its timeouts, failures and retries through the function."""

from dataclasses import dataclass, field

from pingfeed.core.errors import FormatError
from pingfeed.ports import Batch
from pingfeed.spool.inline import DirectDelivery
from tests.conformance.samples import NOON_MS, like
from tests.unit.fakes import MemorySink, RowSignals


@dataclass
class NamingSink(MemorySink):
    batches: list[Batch] = field(default_factory=list)

    async def write(self, batch: Batch) -> None:
        self.batches.append(batch)


async def test_signals_that_can_never_be_applied_are_given_up() -> None:
    signals = RowSignals()
    signals.error = FormatError("a state of another version")
    delivery = DirectDelivery(MemorySink(), apply=signals.apply)
    await delivery.accept([like(1)])
    assert (delivery.counters.accepted, delivery.counters.apply_given_up) == (1, 1)


async def test_batches_have_unique_names_and_the_rows_day_and_close_closes_the_sink() -> None:
    sink, signals = NamingSink(), RowSignals()
    delivery = DirectDelivery(sink, apply=signals.apply)
    for number in range(3):
        await delivery.accept([like(number)])
    await delivery.accept([])
    await delivery.close()
    assert len({batch.name for batch in sink.batches}) == len(sink.batches) == 3
    assert {batch.received_ms for batch in sink.batches} == {NOON_MS}
    assert (signals.applied, sink.closed) == (["ping-0", "ping-1", "ping-2"], True)
    assert (delivery.counters.accepted, delivery.counters.delivered) == (3, 3)
