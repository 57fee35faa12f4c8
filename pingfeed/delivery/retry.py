"""Trying again until it succeeds or the process closes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from pingfeed.backoff import Backoff
from pingfeed.errors import PingfeedError

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


async def until_done(
    step: Callable[[], Awaitable[_T]],
    *,
    stop: asyncio.Event,
    backoff: Backoff,
    failed: Callable[[PingfeedError], None],
) -> _T:
    """Repeat `step` until it succeeds, telling `failed` of each error; once `stop` is set an error is raised too."""
    failures = 0
    while True:
        try:
            return await step()
        except PingfeedError as error:
            failed(error)
            if stop.is_set():
                raise
        failures += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), backoff.pause_s(failures))


def report_end(task: asyncio.Task[None]) -> None:
    """A done-callback: a background task that dies of a bug must not die in silence."""
    if not task.cancelled() and task.exception() is not None:
        _log.error("the %s stopped", task.get_name(), exc_info=task.exception())
