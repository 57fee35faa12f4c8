"""Delivery where nothing may run after the answer (Lambda): no spool, the request itself waits for the sink.

Durable means here that the sink has it. Rows go to the sink and into the signals at the same time; where either does
not take them in time the request is refused, and the client sends it again. So rows may land twice, as always: readers
remove duplicates, and acts are the same applied twice. Nothing is kept in this process.

A process that stood still between two requests finds connections that died meanwhile, and learns of it by a call that
fails. A sink tries again by itself; signals are applied a second time here, for nobody would in the background.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final

from pingfeed.core.errors import PingfeedError, Unavailable
from pingfeed.core.events import Row, encode_rows
from pingfeed.core.ids import IdMaker, uuid7
from pingfeed.ports import EventSink, SinkCounters
from pingfeed.spool.apply import Apply, OrGiveUp
from pingfeed.spool.counters import Counters

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
    """Stands where `Delivery` stands. Owns the sink: `close` closes it."""

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
        """Return once the sink has the rows and their signals are applied; Unavailable: send them again."""
        if not rows:
            return
        received_ms = rows[0]["received_ms"]
        batch = DirectBatch(self._make_id(received_ms), [encode_rows(rows)], received_ms)
        try:
            await self._in_time(self._sink.write(batch), self._applied(rows))
        except PingfeedError as error:
            _log.warning("events were refused", extra={"events": len(rows), "reason": error.message})
            raise
        self.counters.accepted += len(rows)
        self.counters.delivered += len(rows)

    async def check(self) -> None:
        """Raise Unavailable if the sink does not answer."""
        await self._sink.check()

    async def close(self) -> None:
        """Close the sink."""
        await self._sink.close()

    async def _applied(self, rows: Sequence[Row]) -> None:
        try:
            await self._apply(rows)
        except PingfeedError:  # All that `OrGiveUp` lets through can be tried again.
            await self._apply(rows)

    async def _in_time(self, *steps: Awaitable[None]) -> None:
        """All of the steps, or Unavailable; what one has done meanwhile stays done."""
        try:
            async with asyncio.timeout(self._within_s):
                outcomes = await asyncio.gather(*steps, return_exceptions=True)
        except TimeoutError as error:
            self.counters.delivery_failures += 1
            raise Unavailable("the event sink or the signals did not answer in time", retry_after_s=_RETRY_S) from error
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, BaseException):
                if number:
                    self.counters.apply_failures += 1
                else:
                    self.counters.delivery_failures += 1
                raise outcome
