"""The deliverer: a background task that carries the spool's segments to the sink, one batch each, oldest first.

A flush closes the open segment and delivers all closed ones. It happens when the oldest record has waited
`flush_seconds`, or when a segment is full. While the sink is down, records wait in the spool and delivery is retried
with growing pauses.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from pingfeed.core.errors import PingfeedError
from pingfeed.core.retry import Backoff, until_done
from pingfeed.ports import EventSink
from pingfeed.spool.segment import Segment
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import Counters
from pingfeed.spool.tasks import Background

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Deliverer:
    """Delivers one spool to one sink, in order, at least once."""

    def __init__(
        self, spool: Spool, sink: EventSink, *, flush_seconds: float, counters: Counters, backoff: Backoff | None = None
    ) -> None:
        self._spool, self._sink = spool, sink
        self._flush_seconds = flush_seconds
        self._counters = counters
        self._backoff = backoff or Backoff()
        self._at_sink: Segment | None = None
        self._due_at: float | None = None
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._background = Background("deliverer", self._run)
        spool.on_appended = self.notice

    def start(self) -> None:
        """Start; what an earlier process left is delivered at once."""
        self._due_at = asyncio.get_running_loop().time()
        self._background.start()

    def notice(self) -> None:
        """The spool has new rows, or rows whose signals have been applied."""
        if self._due_at is None:
            self._due_at = asyncio.get_running_loop().time() + self._flush_seconds
            self._wake.set()
        elif self._spool.has_full():
            self._wake.set()

    def check(self) -> None:
        """Raise Unavailable if the background task is not running."""
        self._background.check()

    async def close(self, timeout_s: float) -> None:
        """Deliver the rest, for at most `timeout_s`; what is left stays in the spool for the next start."""
        self._closing.set()
        self._wake.set()
        await self._background.stop(timeout_s)

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._until_due()
            with suppress(PingfeedError):  # Only while closing; `_failed` has logged and counted it.
                await self._flush()
        with suppress(PingfeedError):  # Rows that arrived during the last flush.
            await self._flush()

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closing.is_set() and not self._spool.has_full():
            self._wake.clear()
            wait = None if self._due_at is None else self._due_at - loop.time()
            if wait is not None and wait <= 0:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait)
        self._due_at = None

    async def _flush(self) -> None:
        """Deliver every record that is in the spool now."""
        last_id = self._spool.seal()
        await self._retry(self._spool.sweep)
        while (batch := await self._retry(self._spool.next_batch)) and batch.segment.first_id <= last_id:
            if batch.segment is not self._at_sink:  # Already there if only its ack failed.
                await self._retry(partial(self._sink.write, batch))
                self._at_sink = batch.segment
                self._counters.delivered += batch.events
            await self._retry(partial(self._spool.ack, batch))

    async def _retry(self, step: Callable[[], Awaitable[_T]]) -> _T:
        return await until_done(step, stop=self._closing, backoff=self._backoff, failed=self._failed)

    def _failed(self, error: PingfeedError) -> None:
        self._counters.delivery_failures += 1
        _log.warning("delivery failed", extra={"reason": error.message, "spooled_events": self._spool.depth()[0]})
