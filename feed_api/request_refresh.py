"""Refreshes model, snapshot and trending inside requests, for a function: nothing runs between two of its invocations.

- A request that finds them stale starts to read the pointers, beside its own work. What is not done when its response
  is due is counted, and goes on in the next requests.
- A new version is loaded by the request that finds it. It serves the old one, and its response waits for the load at
  most `LOAD_S` beyond the budget: once a version in each environment. A longer load goes on in the next requests.
- If nothing was read for `old_ms`, because the environment was frozen, or the store slower than every budget, a request
  waits before it serves: at most `POINTER_S` for the pointers, then `LOAD_S` for what is new; once in `AGAIN_MS`.
"""

import asyncio
from typing import Final

from feed_api.artifact_loader import ArtifactLoader
from feed_api.metrics import FeedMetrics
from feed_api.trending_cache import TrendingCache
from pingfeed.core.clock import Clock

REFRESH_MS: Final = 10_000
"""How long what was read counts as fresh: two reads of S3 in each environment for each such interval with requests."""
AGAIN_MS: Final = 60_000
POINTER_S: Final = 0.3
LOAD_S: Final = 3.0


class RequestRefresh:
    """The refreshes of one environment; `clock` is the wall clock: a monotonic one may stop while it is frozen."""

    def __init__(
        self, loader: ArtifactLoader, trending: TrendingCache, clock: Clock, metrics: FeedMetrics, *, old_ms: int
    ) -> None:
        self._loader, self._trending, self._clock, self._metrics = loader, trending, clock, metrics
        self._old_ms = old_ms
        self._task: asyncio.Task[None] | None = None
        self._is_new = self._was_awaited = False
        """Whether this request has started the task, and whether a response has waited for what it loads."""
        self._read_ms = self._due_ms = self._wait_ms = 0
        """When the pointers were last read; when to read them again; when a request may wait for that again."""

    async def start(self) -> None:
        """Load everything before the first request, which tries again if that fails."""
        await self._refresh()
        self._due_ms = self._read_ms + REFRESH_MS

    async def begin(self) -> None:
        """Before a request's budget begins: start to refresh what is stale, and wait for it only if it is old."""
        now_ms = self._clock()
        is_old = _is_past(self._read_ms + self._old_ms, now_ms, self._old_ms)
        if must_wait := is_old and _is_past(self._wait_ms, now_ms, AGAIN_MS):
            self._wait_ms = now_ms + AGAIN_MS
            if self._task is not None:  # Its connection may have died while the environment was frozen.
                self._task.cancel()
                self._task = None
        if self._task is None and (must_wait or _is_past(self._due_ms, now_ms, AGAIN_MS)):
            self._due_ms = now_ms + REFRESH_MS
            self._task, self._is_new, self._was_awaited = asyncio.create_task(self._refresh()), True, False
        if must_wait:
            await self.finish(POINTER_S)

    async def finish(self, within_s: float) -> None:
        """Before a response that is due in `within_s`: wait so long for the refresh, or longer for a new version."""
        if self._task is None:
            return
        if self._is_new:
            await asyncio.wait([self._task], timeout=within_s)
        if self._loader.loading and not self._was_awaited:
            self._is_new = self._was_awaited = True
            await asyncio.wait([self._task], timeout=LOAD_S)
            self._due_ms = self._clock() + (REFRESH_MS if self._task.done() else AGAIN_MS)
        if self._is_new and not self._task.done():
            self._metrics.refresh_failures.inc()
        self._is_new = False
        if self._task.done():
            self._task = None

    async def _refresh(self) -> None:
        read, _ = await asyncio.gather(self._loader.refresh(), self._trending.refresh())
        if read:
            self._read_ms = self._clock()


def _is_past(due_ms: int, now_ms: int, within_ms: int) -> bool:
    """Whether a time has come that was set at most `within_ms` before it; it has if the clock was set back."""
    return not due_ms - within_ms <= now_ms < due_ms
