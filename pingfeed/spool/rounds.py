"""Work that is done in rounds beside the requests: at the start, now and then, and once more at the end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from pingfeed.core.errors import PingfeedError
from pingfeed.spool.tasks import Background

EVERY_S: Final = 300.0
CLOSE_S: Final = 5.0
_log = logging.getLogger(__name__)


class Rounds:
    """Awaits `work` now, after each pause of `every_s`, and a last time when it closes.

    A round that fails (PingfeedError, OSError) is logged with `failed`, one sentence's beginning; the next tries again.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], *, failed: str, every_s: float) -> None:
        self._work, self._failed, self._every_s = work, failed, every_s
        self._closing = asyncio.Event()
        self._background = Background(name, self._run)

    def start(self) -> None:
        """Begin, in a task of the running loop."""
        self._background.start()

    async def close(self, timeout_s: float) -> None:
        """Finish the round under way and do the last one, for at most `timeout_s`."""
        self._closing.set()
        await self._background.ended(timeout_s)

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
