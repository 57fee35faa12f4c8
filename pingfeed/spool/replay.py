"""Replay: signals that could not be applied when their rows were accepted are retried until that succeeds.

Signals are idempotent and carry their time, so applying them twice is the same as once. Replay therefore works on
whole segments, a page of records at a time, and on the whole segment again if a record of it fails. A record that fails
on its own does not hold up others; if a whole page fails, the store is down and everything waits.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from pingfeed.core.errors import PingfeedError
from pingfeed.core.events import Row, decode_rows
from pingfeed.core.retry import Backoff, until_done
from pingfeed.spool.segment import Record
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import Counters
from pingfeed.spool.tasks import Background

Apply = Callable[[Sequence[Row]], Awaitable[None]]
"""Applies the signals of accepted rows; raises Unavailable if a retry can help."""

PAGE: Final = 200
_TRIED_ALONE: Final = 3
_log = logging.getLogger(__name__)


class OrGiveUp:
    """An `Apply` that gives up signals that no retry can apply, such as a state that this version cannot read."""

    def __init__(self, apply: Apply, counters: Counters) -> None:
        self._apply, self._counters = apply, counters

    async def __call__(self, rows: Sequence[Row]) -> None:
        """Apply rows, except those of users whose signals cannot be applied; raises errors that a retry can help."""
        try:
            await self._apply(rows)
        except Exception as error:
            if _can_be_retried(error):
                raise
            await self._apply_by_user(rows)

    async def _apply_by_user(self, rows: Sequence[Row]) -> None:
        for user_id in dict.fromkeys(row.get("user_id") for row in rows):
            mine = [row for row in rows if row.get("user_id") == user_id]
            try:
                await self._apply(mine)
            except Exception as error:
                if _can_be_retried(error):
                    raise
                self._counters.apply_given_up += len(mine)
                _log.error("signals cannot be applied and are given up", extra={"reason": str(error)})


def _can_be_retried(error: Exception) -> bool:
    return isinstance(error, PingfeedError) and error.retryable


class Replay:
    """Applies the unapplied signals of a spool, and calls `caught_up` once there are none left."""

    def __init__(
        self, spool: Spool, apply: Apply, *, counters: Counters, backoff: Backoff, caught_up: Callable[[], None]
    ) -> None:
        self._spool, self._apply, self._counters, self._backoff = spool, OrGiveUp(apply, counters), counters, backoff
        self._caught_up = caught_up
        self._wanted = asyncio.Event()
        self._closing = asyncio.Event()
        self._background = Background("signal replay", self._run)
        spool.on_requeued = self._wanted.set

    async def run_all(self) -> None:
        """Apply everything that is spooled, once; after a failure the background task does the rest."""
        for segment in self._spool.segments():
            self._spool.replay(segment)
        try:
            await self._round()
        except PingfeedError as error:
            self.failed(error)

    def start(self) -> None:
        """Start to apply in the background."""
        self._background.start()

    def failed(self, error: PingfeedError) -> None:
        """Count and log a failure."""
        self._counters.apply_failures += 1
        _log.warning("signals were not applied, will retry", extra={"reason": error.message})

    def check(self) -> None:
        """Raise Unavailable if the background task is not running."""
        self._background.check()

    async def close(self, timeout_s: float) -> None:
        """Stop after a last round of at most `timeout_s`; the next start applies what is left."""
        self._closing.set()
        self._wanted.set()
        await self._background.stop(timeout_s)

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._wanted.wait()
            self._wanted.clear()
            with suppress(PingfeedError):  # Only while closing; `failed` has logged and counted it.
                await until_done(self._round, stop=self._closing, backoff=self._backoff, failed=self.failed)

    async def _round(self) -> None:
        """Try every unapplied segment once; raises the last failure, at once if the store is down."""
        failure: PingfeedError | None = None
        for segment in self._spool.unapplied():
            requeued = segment.requeued  # More may be requeued while these are applied.
            records = await asyncio.to_thread(self._spool.records, segment)
            error = await self._apply_records(records)
            if error is None:
                segment.replayed = requeued
            failure = error or failure
        if failure is not None:
            raise failure
        self._caught_up()

    async def _apply_records(self, records: Sequence[Record]) -> PingfeedError | None:
        """The last error of records that failed on their own, if any did; raises if the store is down."""
        failure: PingfeedError | None = None
        for at in range(0, len(records), PAGE):
            page = records[at : at + PAGE]
            try:
                await self._apply(_rows(page))
            except PingfeedError as error:
                failure = await self._apply_singly(page, error) or failure
        return failure

    async def _apply_singly(self, page: Sequence[Record], error: PingfeedError) -> PingfeedError | None:
        """The last error of records that fail on their own, if any do; raises `error` if the first few all do."""
        failures: list[PingfeedError] = []
        for tried, record in enumerate(random.sample(page, len(page)), 1):
            try:
                await self._apply(_rows([record]))
            except PingfeedError as failure:
                failures.append(failure)
                if len(failures) == tried == _TRIED_ALONE < len(page):
                    raise error from None
        return failures[-1] if failures else None


def _rows(records: Sequence[Record]) -> list[Row]:
    return [row for record in records for row in decode_rows(record.lines)]
