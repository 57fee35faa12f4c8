"""Writing no faster than a table takes it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

BURST_S: Final = 0.1
"""An idle table takes what this long would have: a pause in the work is not lost entirely."""


class Pace:
    """A token bucket of write units, kept as the instant at which the units taken so far are paid off."""

    def __init__(
        self,
        units_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._unit_s = 1 / units_per_second
        self._clock, self._sleep = clock, sleep
        self._paid_off = clock()

    async def take(self, units: int) -> None:
        """Return when `units` may be written. Callers get their turn in the order in which they called."""
        begins = max(self._paid_off, self._clock() - BURST_S)
        self._paid_off = begins + units * self._unit_s
        wait_s = begins - self._clock()
        if wait_s > 0:
            await self._sleep(wait_s)
