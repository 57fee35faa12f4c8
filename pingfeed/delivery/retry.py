"""Trying again, later and later, with jitter: a whole fleet must not come back in the same moment."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from pingfeed.errors import PingfeedError

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """Pauses that double from `first_s` to `longest_s`, each cut by up to half at random."""

    first_s: float = 0.25
    longest_s: float = 10.0
    jitter: Callable[[], float] = random.random

    def pause_s(self, failures: int) -> float:
        """The pause after the n-th failure in a row, n from 1."""
        whole = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return whole * (1 - self.jitter() / 2)


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
