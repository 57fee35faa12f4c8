"""Retries: when to try again, and a loop that retries until it succeeds or the process closes."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from pingfeed.core.errors import PingfeedError

_T = TypeVar("_T")


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
