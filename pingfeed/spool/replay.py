"""Signals that could not be applied when their rows were accepted: applied again until that succeeds.

Applying twice is the same as once, for acts are idempotent and carry their time. So what waits is a segment, not a
record: all of it is applied, a page at a time. A record that fails alone is tried again later and keeps no other
waiting; where a whole page fails, the store is down and everybody waits.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from pingfeed.core.errors import PingfeedError
from pingfeed.core.events import Row, decode_rows
from pingfeed.core.retry import Backoff, until_done
from pingfeed.spool.apply import Apply, OrGiveUp
from pingfeed.spool.counters import Counters
from pingfeed.spool.segment import Record
from pingfeed.spool.spool import Spool
from pingfeed.spool.spooled import Segment
from pingfeed.spool.tasks import Background

PAGE: Final = 200
_TRIED_ALONE: Final = 3
_log = logging.getLogger(__name__)


class Replay:
    """Applies what the spool says is unapplied; `settled` is told when all of it is."""

    def __init__(
        self, spool: Spool, apply: Apply, *, counters: Counters, backoff: Backoff, settled: Callable[[], None]
    ) -> None:
        self._spool, self._apply, self._counters, self._backoff = spool, apply, counters, backoff
        self._apply_or_give_up = OrGiveUp(apply, counters)
        self._settled = settled
        self._stuck: dict[Segment, set[int]] = {}
        """Records that failed alone, of segments of which all others are applied."""
        self._wanted = asyncio.Event()
        self._closing = asyncio.Event()
        self._background = Background("applier", self._run)
        spool.on_postponed = self._postponed

    async def run_all(self) -> None:
        """Apply everything that is spooled, once; after the first failure the rest is left to the background."""
        failure: PingfeedError | None = None
        for segment in self._spool.segments():
            try:
                if failure is None:
                    for rows in _pages(await asyncio.to_thread(self._spool.records, segment)):
                        await self._apply(_rows(rows))
                    continue
            except PingfeedError as error:
                failure = error
                self.failed(error)
            self._spool.replay(segment)

    def start(self) -> None:
        """Begin to apply in the background."""
        self._background.start()

    def failed(self, error: PingfeedError) -> None:
        """Count and tell a failure."""
        self._counters.apply_failures += 1
        _log.warning("signals were not applied, they will be again", extra={"reason": error.message})

    def check(self) -> None:
        """Raise Unavailable if nobody applies."""
        self._background.check()

    async def close(self, timeout_s: float) -> None:
        """End, after one last round of at most `timeout_s`; what is unapplied then is applied by the next start."""
        self._closing.set()
        self._wanted.set()
        await self._background.ended(timeout_s)

    def _postponed(self, segment: Segment) -> None:
        self._stuck.pop(segment, None)
        self._wanted.set()

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._wanted.wait()
            self._wanted.clear()
            with suppress(PingfeedError):  # Only while closing; told and counted by `failed`.
                await until_done(self._round, stop=self._closing, backoff=self._backoff, failed=self.failed)

    async def _round(self) -> None:
        """Give all that is unapplied a turn; raises the last failure, at once where the store is down."""
        failure: PingfeedError | None = None
        for segment in self._spool.unapplied():
            failure = await self._apply_segment(segment) or failure
        if failure is not None:
            raise failure
        self._settled()

    async def _apply_segment(self, segment: Segment) -> PingfeedError | None:
        """Why some of a segment's records failed alone, if some did; raises where the store is down."""
        stuck, postponed = self._stuck.get(segment), segment.postponed
        found = await asyncio.to_thread(self._spool.records, segment)
        left, failure = await self._apply_records([one for one in found if stuck is None or one.id in stuck])
        if segment.postponed == postponed:  # Else there is more of it than was found.
            self._stuck[segment] = left
        if failure is None:
            self._stuck.pop(segment, None)
            segment.caught_up_to = postponed
        return failure

    async def _apply_records(self, found: Sequence[Record]) -> tuple[set[int], PingfeedError | None]:
        """The records that failed alone, and why the last one did; raises where the store is down."""
        left: set[int] = set()
        failure: PingfeedError | None = None
        for page in _pages(found):
            try:
                await self._apply_or_give_up(_rows(page))
            except PingfeedError as error:
                failure = error
                left |= await self._apply_singly(page, error)
        return left, failure

    async def _apply_singly(self, page: Sequence[Record], error: PingfeedError) -> set[int]:
        """The ids of those that fail alone; raises `error` where the first few all do."""
        failed: set[int] = set()
        for tried, record in enumerate(random.sample(page, len(page)), 1):
            try:
                await self._apply_or_give_up(_rows([record]))
            except PingfeedError:
                failed.add(record.id)
                if len(failed) == tried == _TRIED_ALONE < len(page):
                    raise error from None
        return failed


def _pages(found: Sequence[Record]) -> Iterator[Sequence[Record]]:
    return (found[at : at + PAGE] for at in range(0, len(found), PAGE))


def _rows(found: Sequence[Record]) -> list[Row]:
    return [row for record in found for row in decode_rows(record.lines)]
