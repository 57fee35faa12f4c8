"""Work that repeats beside the requests, for as long as the service runs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

log = logging.getLogger(__name__)


class Repeated:
    """Awaits `work` every `interval_s`, or at once when `wake` is set. `work` handles its own errors."""

    def __init__(
        self, name: str, work: Callable[[], Awaitable[None]], interval_s: float, wake: asyncio.Event | None = None
    ) -> None:
        self.name = name
        self._work, self._interval_s = work, interval_s
        self._wake = wake or asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs: a bug in `work` would end it."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin; the first work is one interval (or a wake) away."""
        self._task = asyncio.create_task(self._run(), name=self.name)
        self._task.add_done_callback(_report)

    async def stop(self) -> None:
        """End it, in the middle of its work if need be."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._interval_s)
            await self._work()


def _report(task: asyncio.Task[None]) -> None:
    """A task that dies of a bug must not die in silence."""
    if not task.cancelled() and task.exception() is not None:
        log.error("the %s stopped", task.get_name(), exc_info=task.exception())
