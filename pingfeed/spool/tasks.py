"""A task that works beside the requests for as long as its service lives."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from pingfeed.core.errors import Unavailable

_log = logging.getLogger(__name__)


class Background:
    """Runs `work` once, under a name. What tells `work` that it shall end is its owner's."""

    def __init__(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._name, self._work = name, work
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in a task of the running loop."""
        self._task = asyncio.create_task(self._work(), name=self._name)
        self._task.add_done_callback(report_end)

    def check(self) -> None:
        """Raise Unavailable if it was not begun, or has ended."""
        if self._task is None or self._task.done():
            raise Unavailable(f"the {self._name} is not running")

    async def ended(self, timeout_s: float) -> None:
        """Wait until it has ended by itself, for at most `timeout_s`; then end it."""
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=timeout_s)
        self._task.cancel()
        await asyncio.wait([self._task])


def report_end(task: asyncio.Task[None]) -> None:
    """A done-callback: a background task that dies of a bug must not die in silence."""
    if not task.cancelled() and task.exception() is not None:
        _log.error("the %s stopped", task.get_name(), exc_info=task.exception())
