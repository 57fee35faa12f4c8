"""Trying again until it succeeds or the process closes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from pingfeed.backoff import Backoff
from pingfeed.errors import PingfeedError

_T = TypeVar("_T")


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
