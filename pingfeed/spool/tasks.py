"""Background tasks that run beside the requests for as long as a service lives."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from pingfeed.core.errors import Unavailable

_log = logging.getLogger(__name__)


class Background:
    """Runs `work` once, as a named task. Telling `work` to stop is up to its owner."""

    def __init__(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.name, self._work = name, work
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the task is running: it is not before `start`, nor after a bug ended it."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the task in the running loop."""
        self._task = asyncio.create_task(self._work(), name=self.name)
        self._task.add_done_callback(_log_crash)

    def check(self) -> None:
        """Raise Unavailable if the task is not running."""
        if not self.alive:
            raise Unavailable(f"the {self.name} is not running")

    async def stop(self, timeout_s: float = 0) -> None:
        """Wait up to `timeout_s` for the task to end by itself, then cancel it."""
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=timeout_s)
        self._task.cancel()
        await asyncio.wait([self._task])


class Repeated(Background):
    """Awaits `repeat` every `interval_s`, or as soon as `wake` is set; an error is counted and logged once."""

    def __init__(
        self, name: str, repeat: Callable[[], Awaitable[object]], interval_s: float, wake: asyncio.Event | None = None
    ) -> None:
        super().__init__(name, self._run)
        self._repeat, self._interval_s = repeat, interval_s
        self._wake = wake or asyncio.Event()
        self.failures = 0

    async def _run(self) -> None:
        said = ""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._interval_s)
            try:
                await self._repeat()
            except Exception as error:  # noqa: BLE001  # whatever it is, the task goes on
                self._wake.clear()
                self.failures += 1
                if said != repr(error):
                    _log.exception("the %s failed and tries again", self.name)
                said = repr(error)
            else:
                said = ""


def _log_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("the %s stopped", task.get_name(), exc_info=task.exception())
