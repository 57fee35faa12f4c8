"""Retries with exponential backoff: until success or shutdown, or a limited number of attempts."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from pingfeed.core.errors import PingfeedError, Unavailable

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Backoff:
    """Pauses that double from `first_s` to `longest_s`, each shortened by up to half at random."""

    first_s: float = 0.25
    longest_s: float = 10.0
    jitter: Callable[[], float] = random.random

    def pause_s(self, failures: int) -> float:
        """The pause after the n-th failure in a row, n from 1."""
        whole = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return whole * (1 - self.jitter() / 2)


def retry_after_s() -> int:
    """When to tell an overload's clients to come back: in 1 to 3 seconds, by chance, so that not all come at once."""
    return random.randint(1, 3)  # noqa: S311 - not used for security


async def until_done(
    step: Callable[[], Awaitable[_T]], *, stop: asyncio.Event, backoff: Backoff, failed: Callable[[PingfeedError], None]
) -> _T:
    """Retries until success, calling `failed` for each failure, a bug's too; re-raises once `stop` is set."""
    failures, said = 0, ""
    while True:
        try:
            return await step()
        except Exception as error:
            if isinstance(error, PingfeedError):
                failure = error
            else:
                failure = Unavailable(f"an unexpected error: {error!r}")
                if said != repr(error):
                    _log.exception("an unexpected error; it is tried again")
                said = repr(error)
            failed(failure)
            if stop.is_set():
                raise failure from error
        failures += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), backoff.pause_s(failures))


async def twice(call: Callable[[], Awaitable[_T]]) -> _T:
    """Calls once more, at once, after an error: the connection may have died while the process was frozen."""
    try:
        return await call()
    except PingfeedError as error:
        if not error.retryable:
            raise
    return await call()


async def until_true(step: Callable[[bool], Awaitable[bool]], *, backoff: Backoff, tries: int) -> bool:
    """Calls `step` until it returns True, at most `tries` times; its argument says whether this is the last attempt."""
    for attempt in range(1, tries + 1):
        if await step(attempt == tries):
            return True
        if attempt < tries:
            await asyncio.sleep(backoff.pause_s(attempt))
    return False
