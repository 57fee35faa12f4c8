"""What lies in a spool, and its delivery."""

from collections.abc import Awaitable, Callable

from pingfeed.spool.segment import Record, SpooledBatch
from pingfeed.spool.spool import Spool

OpenSpool = Callable[..., Awaitable[Spool]]
"""The fixture `open_spool` of tests/unit/conftest.py; takes a spool's options."""


def records_in(spool: Spool) -> list[Record]:
    """All records, delivered or not."""
    return [record for segment in spool.segments() for record in spool.records(segment)]


def lines_in(spool: Spool) -> list[bytes]:
    """The lines that are not delivered."""
    return [r.lines for segment in spool.segments() if not segment.delivered for r in spool.records(segment)]


async def sealed_batch(spool: Spool) -> SpooledBatch:
    """The next batch, the open segment closed before."""
    spool.seal()
    batch = await spool.next_batch()
    assert batch is not None
    return batch


async def deliver_all(spool: Spool) -> list[SpooledBatch]:
    """Ack every batch; what a sink would have got."""
    spool.seal()
    found = []
    while (batch := await spool.next_batch()) is not None:
        found.append(batch)
        await spool.ack(batch)
    return found
