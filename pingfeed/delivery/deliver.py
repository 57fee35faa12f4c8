"""The deliverer: a background task that carries the spool's records to the sink in batches.

A batch holds records in order of id: at most `MAX_EVENTS` rows or `MAX_BYTES` bytes (a single larger record is a batch
of its own), all of one UTC day of arrival. It goes when the oldest record has waited `flush_seconds` or enough wait for
a full one. A sink that is down is asked again with growing pauses; records wait in the spool meanwhile.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from pingfeed.backoff import Backoff
from pingfeed.clock import DAY_MS
from pingfeed.delivery.retry import report_end, until_done
from pingfeed.delivery.spool import Record, Spool
from pingfeed.errors import PingfeedError, Unavailable
from pingfeed.ports import EventSink

MAX_EVENTS: Final = 50_000
MAX_BYTES: Final = 16 << 20

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass
class Counters:
    """What happened since the process began, and what waits now: plain numbers for metrics."""

    accepted: int = 0
    """Events that are durable: in the spool or past it."""
    delivered: int = 0
    """Events that the sink took. Those of an earlier process count too, so it may pass `accepted`."""
    delivery_failures: int = 0
    """Times that the sink refused a batch, or the spool refused to delete one."""
    apply_failures: int = 0
    """Times that the signals of accepted events could not be applied; they are tried again."""
    apply_given_up: int = 0
    """Events whose signals no second try can apply; they are delivered all the same."""
    spooled_events: int = 0
    """Undelivered events now."""
    spooled_bytes: int = 0
    """Undelivered bytes now."""
    held: int = 0
    """Records now whose signals still have to be applied."""


@dataclass(frozen=True)
class SpooledBatch:
    """Consecutive undelivered records; satisfies `ports.Batch`."""

    name: str
    lines: Sequence[bytes]
    received_ms: int
    events: int
    last_id: int


class Deliverer:
    """Delivers one spool to one sink, in order, at least once."""

    def __init__(
        self,
        spool: Spool,
        sink: EventSink,
        *,
        flush_seconds: float,
        counters: Counters,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        backoff: Backoff | None = None,
    ) -> None:
        self._spool, self._sink = spool, sink
        self._flush_seconds = flush_seconds
        self._counters = counters
        self._max_events, self._max_bytes = max_events, max_bytes
        self._backoff = backoff or Backoff()
        self._delivered_to = spool.settled_to
        self._due_at: float | None = None
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; what an earlier process left goes at once."""
        self._due_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._run(), name="deliverer")
        self._task.add_done_callback(report_end)

    def notice(self) -> None:
        """Say that the spool has something new (or something released)."""
        if self._due_at is None:
            self._due_at = asyncio.get_running_loop().time() + self._flush_seconds
            self._wake.set()
        elif self._full():
            self._wake.set()

    def check(self) -> None:
        """Raise Unavailable if nobody delivers."""
        if self._task is None or self._task.done():
            raise Unavailable("delivery is not running")

    async def close(self, timeout_s: float) -> None:
        """Deliver what is left, for at most `timeout_s`; the rest stays in the spool for the next start."""
        self._closing.set()
        self._wake.set()
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=timeout_s)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._until_due()
            with suppress(PingfeedError):  # Only while closing; told and counted by `_failed`.
                await self._flush()
        with suppress(PingfeedError):  # What came while the last flush was under way.
            await self._flush()

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closing.is_set() and not self._full():
            self._wake.clear()
            wait = None if self._due_at is None else self._due_at - loop.time()
            if wait is not None and wait <= 0:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait)
        self._due_at = None

    def _full(self) -> bool:
        events, size = self._spool.depth()
        return events >= self._max_events or size >= self._max_bytes

    async def _flush(self) -> None:
        """Deliver every record that is in the spool by now."""
        last_id = self._spool.last_id
        read = partial(asyncio.to_thread, self._next_batch, last_id)
        await self._settle()  # What was released, or could not be deleted, since it was delivered.
        while batch := await self._persist(read):
            await self._persist(partial(self._sink.write, batch))
            self._delivered_to = batch.last_id
            self._counters.delivered += batch.events
            await self._settle()

    async def _settle(self) -> None:
        if self._delivered_to:
            await self._persist(partial(self._spool.settle, self._delivered_to))

    async def _persist(self, step: Callable[[], Awaitable[_T]]) -> _T:
        return await until_done(step, stop=self._closing, backoff=self._backoff, failed=self._failed)

    def _failed(self, error: PingfeedError) -> None:
        self._counters.delivery_failures += 1
        _log.warning("delivery failed", extra={"reason": error.message, "spooled_events": self._spool.depth()[0]})

    def _next_batch(self, last_id: int) -> SpooledBatch | None:
        """The oldest undelivered records up to `last_id` that fit one batch; None if there are none."""
        chosen: list[Record] = []
        events = size = 0
        for record in self._spool.pending():
            events += record.count
            size += len(record.lines)
            full = chosen and (events > self._max_events or size > self._max_bytes)
            if record.id > last_id or full or (chosen and not _same_day(chosen[0], record)):
                break
            chosen.append(record)
        return self._batch(chosen) if chosen else None

    def _batch(self, records: Sequence[Record]) -> SpooledBatch:
        first, last = records[0].id, records[-1].id
        return SpooledBatch(
            name=f"{self._spool.spool_id}-{first:012d}-{last:012d}",
            lines=[record.lines for record in records],
            received_ms=min(record.received_ms for record in records),
            events=sum(record.count for record in records),
            last_id=last,
        )


def _same_day(one: Record, other: Record) -> bool:
    return one.received_ms // DAY_MS == other.received_ms // DAY_MS
