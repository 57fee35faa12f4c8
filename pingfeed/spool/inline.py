"""Delivery without a spool, for Lambda, where nothing may run after the response: the request waits for the sink.

Durable means that the sink has the rows. They go to the sink and into the signals concurrently; if either does not take
them in time, the request fails and the client retries it. Rows may land twice, as always: readers remove duplicates,
and applying signals twice is the same as once. Nothing is kept in this process.

Connections may have died while the process was frozen between two requests, which shows only when a call fails. Sinks
retry by themselves; signals are retried once here, because no background task would.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final

from pingfeed.core.errors import PingfeedError, Unavailable
from pingfeed.core.events import Row, encode_rows
from pingfeed.core.ids import IdMaker, uuid7
from pingfeed.core.retry import twice
from pingfeed.ports import EventSink, SinkCounters
from pingfeed.spool.replay import Apply, OrGiveUp
from pingfeed.spool.stats import Counters

WITHIN_S: Final = 5.0
_RETRY_S: Final = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DirectBatch:
    """One request's rows; satisfies `ports.Batch`."""

    name: str
    lines: Sequence[bytes]
    received_ms: int


class DirectDelivery:
    """Used in place of `Delivery`. Owns the sink: `close` closes it."""

    def __init__(self, sink: EventSink, *, apply: Apply, within_s: float = WITHIN_S, make_id: IdMaker = uuid7) -> None:
        self._sink, self._within_s, self._make_id = sink, within_s, make_id
        self.counters = Counters()
        self._apply = OrGiveUp(apply, self.counters)

    @property
    def sink_counters(self) -> SinkCounters:
        """The sink's counters as they are now."""
        return self._sink.counters

    async def start(self) -> None:
        """Nothing runs in the background."""

    async def accept(self, rows: Sequence[Row]) -> None:
        """Return once the sink has the rows and their signals are applied; Unavailable: they have to be sent again."""
        if not rows:
            return
        received_ms = rows[0]["received_ms"]
        batch = DirectBatch(self._make_id(received_ms), [encode_rows(rows)], received_ms)
        try:
            # `OrGiveUp` only raises errors that a retry can help.
            await self._in_time(self._sink.write(batch), twice(lambda: self._apply(rows)))
        except PingfeedError as error:
            _log.warning("events were not accepted", extra={"events": len(rows), "reason": error.message})
            raise
        self.counters.accepted += len(rows)
        self.counters.delivered += len(rows)

    async def check(self) -> None:
        """Raise Unavailable if the sink does not answer."""
        await self._sink.check()

    async def close(self) -> None:
        """Close the sink."""
        await self._sink.close()

    async def _in_time(self, write: Awaitable[None], apply: Awaitable[None]) -> None:
        """Run both in time, or raise Unavailable; what has finished is not undone."""
        try:
            async with asyncio.timeout(self._within_s):
                written, applied = await asyncio.gather(write, apply, return_exceptions=True)
        except TimeoutError as error:
            self.counters.delivery_failures += 1
            raise Unavailable("the event sink or the signals did not answer in time", retry_after_s=_RETRY_S) from error
        self.counters.delivery_failures += written is not None
        self.counters.apply_failures += applied is not None
        if failure := written or applied:
            raise failure
