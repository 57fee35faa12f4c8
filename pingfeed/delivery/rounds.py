"""Work that is done in rounds beside the requests: at the start, now and then, and once more at the end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from pingfeed.delivery.retry import report_end
from pingfeed.errors import PingfeedError

EVERY_S: Final = 300.0
CLOSE_S: Final = 5.0
_log = logging.getLogger(__name__)


class Rounds:
    """Awaits `work` now, after each pause of `every_s`, and a last time when it closes.

    A round that fails (PingfeedError, OSError) is logged with `failed`, one sentence's beginning; the next tries again.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], *, failed: str, every_s: float) -> None:
        self._name, self._work, self._failed, self._every_s = name, work, failed, every_s
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in a task of the running loop."""
        self._task = asyncio.create_task(self._run(), name=self._name)
        self._task.add_done_callback(report_end)

    async def close(self, timeout_s: float) -> None:
        """Finish the round under way and do the last one, for at most `timeout_s`."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout_s)
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            last = self._closing.is_set()
            try:
                await self._work()
            except (PingfeedError, OSError) as error:
                _log.warning("%s: %s", self._failed, error)
            if last:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._every_s)
