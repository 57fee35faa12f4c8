"""What both services hold between an accepted request and the sink: the spool, its deliverer, and the signals' replay.

`accept` returns when the rows are durable and their signals applied. Where applying fails the rows stay accepted: their
record is held in the spool, whether it is delivered or not, and applied again in the background until that succeeds;
a process that dies before applies everything that is still spooled when it starts. So the signals are never behind
what left the spool. Applying twice is the same as once, for acts are idempotent and carry their time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

from pingfeed.backoff import Backoff
from pingfeed.delivery.deliver import Counters, Deliverer
from pingfeed.delivery.retry import report_end, until_done
from pingfeed.delivery.spool import Record, Spool
from pingfeed.errors import PingfeedError
from pingfeed.events import Row, decode_rows, encode_rows
from pingfeed.ports import EventSink, SinkCounters

Apply = Callable[[Sequence[Row]], Awaitable[None]]
"""Takes the signals of accepted rows in (user signals, trending); raises Unavailable if that has to be tried again."""

CLOSE_S: Final = 10.0
_REPLAY_RECORDS: Final = 200
_log = logging.getLogger(__name__)


class Delivery:
    """One process's way to the sink. Owns the spool and the sink: `close` closes both.

    delivery = Delivery(Spool(settings.spool_dir / "ingest"), sink, apply=apply, flush_seconds=10)
    await delivery.start()          # before serving
    await delivery.accept(rows)     # 202 once this returns; Unavailable is a 503, nothing was taken
    await delivery.close()
    """

    def __init__(
        self,
        spool: Spool,
        sink: EventSink,
        *,
        apply: Apply,
        flush_seconds: float,
        backoff: Backoff | None = None,
    ) -> None:
        self._spool, self._sink, self._apply = spool, sink, apply
        self._backoff = backoff or Backoff()
        self._counters = Counters()
        self._deliverer = Deliverer(
            spool, sink, flush_seconds=flush_seconds, counters=self._counters, backoff=self._backoff
        )
        self._accepting: set[asyncio.Task[None]] = set()
        self._unapplied: dict[int, None] = {}
        self._has_unapplied = asyncio.Event()
        self._closing = asyncio.Event()
        self._applier: asyncio.Task[None] | None = None

    @property
    def counters(self) -> Counters:
        """The counters as they are now; the same object every time."""
        self._counters.spooled_events, self._counters.spooled_bytes = self._spool.depth()
        self._counters.held = len(self._unapplied)
        return self._counters

    @property
    def sink_counters(self) -> SinkCounters:
        """The sink's counters as they are now."""
        return self._sink.counters

    async def start(self) -> None:
        """Apply everything that is still spooled, then begin to deliver. Await it before serving.

        Where the signals' store is down, serving may begin all the same: the records are held and applied later.
        """
        records = self._spool.spooled()
        while page := await asyncio.to_thread(lambda: list(islice(records, _REPLAY_RECORDS))):
            await self._replay(page)
        self._applier = asyncio.create_task(self._apply_again(), name="applier")
        self._applier.add_done_callback(report_end)
        self._deliverer.start()

    async def accept(self, rows: Sequence[Row]) -> None:
        """Make the rows durable and apply their signals; Unavailable means that none of them was taken.

        Not undone by cancelling the caller (a client that hangs up, a deadline): what is durable must be applied.
        """
        if not rows:
            return
        task = asyncio.create_task(self._accept(rows))
        self._accepting.add(task)
        task.add_done_callback(self._accepted)
        await asyncio.shield(task)

    async def check(self) -> None:
        """Raise Unavailable with a sentence if rows would be refused now, or nobody delivers them."""
        self._deliverer.check()
        await self._spool.check()

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Finish what is being accepted, deliver what is left for at most `timeout_s`, close spool and sink."""
        if self._accepting:
            await asyncio.wait(self._accepting)
        self._closing.set()
        self._has_unapplied.set()
        if self._applier is not None:
            await asyncio.wait([self._applier])
        await self._deliverer.close(timeout_s)
        await self._spool.close()
        await self._sink.close()

    async def _accept(self, rows: Sequence[Row]) -> None:
        received_ms = min(row["received_ms"] for row in rows)
        record_id = await self._spool.append(encode_rows(rows), len(rows), received_ms, held=True)
        self._counters.accepted += len(rows)
        self._deliverer.notice()
        try:
            await self._apply(rows)
        except PingfeedError as error:
            self._apply_failed(error)
            self._postpone([record_id])
        else:
            self._spool.release(record_id)

    def _accepted(self, task: asyncio.Task[None]) -> None:
        self._accepting.discard(task)
        if not task.cancelled():
            task.exception()  # Its caller may be gone: then nobody else asks.

    async def _replay(self, records: Sequence[Record]) -> None:
        """Apply a page of what was spooled; after the first failure the rest is left to the background."""
        if self._unapplied:
            return self._postpone(record.id for record in records)
        try:
            await self._apply([row for record in records for row in decode_rows(record.lines)])
        except PingfeedError as error:
            self._apply_failed(error)
            self._postpone(record.id for record in records)

    def _postpone(self, record_ids: Iterable[int]) -> None:
        """Keep the records until their signals are applied; they are delivered meanwhile."""
        postponed = dict.fromkeys(record_ids)
        self._unapplied.update(postponed)
        self._spool.hold(postponed)
        self._has_unapplied.set()

    async def _apply_again(self) -> None:
        """For as long as the process lives: apply what could not be applied."""
        while True:
            await self._has_unapplied.wait()
            if self._closing.is_set():
                return
            with suppress(PingfeedError):  # Only while closing; told and counted by `_apply_failed`.
                await until_done(self._apply_next, stop=self._closing, backoff=self._backoff, failed=self._apply_failed)

    async def _apply_next(self) -> None:
        """Apply one postponed record; on an error it goes to the end, so that it keeps no other waiting."""
        record_id = next(iter(self._unapplied))
        record = await asyncio.to_thread(self._spool.read, record_id)
        try:
            await self._apply_or_give_up(decode_rows(record.lines) if record else [])
        except PingfeedError:
            self._unapplied[record_id] = self._unapplied.pop(record_id)
            raise
        del self._unapplied[record_id]
        self._spool.release(record_id)
        if not self._unapplied:
            self._has_unapplied.clear()
            self._deliverer.notice()

    async def _apply_or_give_up(self, rows: Sequence[Row]) -> None:
        """Apply rows; where no second try can help (a state that this version cannot read), all but that user's."""
        try:
            await self._apply(rows)
        except PingfeedError as error:
            if error.retryable:
                raise
            await self._apply_apart(rows)

    async def _apply_apart(self, rows: Sequence[Row]) -> None:
        """Apply each user's rows by themselves; give up those that cannot be applied."""
        for user_id in dict.fromkeys(row.get("user_id") for row in rows):
            mine = [row for row in rows if row.get("user_id") == user_id]
            try:
                await self._apply(mine)
            except PingfeedError as error:
                if error.retryable:
                    raise
                self._counters.apply_given_up += len(mine)
                _log.error("signals cannot be applied and are given up", extra={"reason": error.message})

    def _apply_failed(self, error: PingfeedError) -> None:
        self._counters.apply_failures += 1
        _log.warning("signals were not applied, they will be again", extra={"reason": error.message})
