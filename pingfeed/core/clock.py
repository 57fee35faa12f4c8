"""Time, injected everywhere: int64 epoch milliseconds UTC inside, ISO 8601 only at the edges."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
HOUR_MS = 3_600_000

Clock = Callable[[], int]
"""A clock is a function that gives the present as epoch milliseconds; tests pass their own."""


def system_clock() -> int:
    """Milliseconds since 1970-01-01T00:00Z by this machine's clock."""
    return time.time_ns() // 1_000_000


def machine_ms() -> int:
    """Milliseconds that never jump: since the machine started, suspension included where the system counts it."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1_000_000


class SteadyClock:
    """The machine's clock without its jumps: a receiver's clock, because later acts must get later times.

    When `wall` moves more than `MAX_JUMP_MS` against `machine`, time goes on by `machine`. A jump that lasts for
    `ADOPT_MS` is taken for a correction.
    """

    MAX_JUMP_MS: Final = 60_000
    ADOPT_MS: Final = 10 * 60_000

    def __init__(self, wall: Clock = system_clock, machine: Clock = machine_ms) -> None:
        self._wall, self._machine = wall, machine
        self._offset = wall() - machine()
        self._jumped: tuple[int, int] | None = None
        """The offset after a jump, and when `machine` first saw it."""

    def __call__(self) -> int:
        """Epoch milliseconds."""
        now = self._machine()
        offset = self._wall() - now
        if abs(offset - self._offset) > self.MAX_JUMP_MS and not self._lasts(offset, now):
            return now + self._offset
        self._offset, self._jumped = offset, None
        return now + offset

    def _lasts(self, offset: int, now: int) -> bool:
        if self._jumped is None or abs(offset - self._jumped[0]) > self.MAX_JUMP_MS:
            seconds = (offset - self._offset) / 1000
            log.warning("the clock jumped by %+.0f s; time goes on without the jump unless it lasts", seconds)
            self._jumped = offset, now
        return now - self._jumped[1] >= self.ADOPT_MS


def to_ms(moment: datetime) -> int:
    """Epoch milliseconds of a moment; one without an offset is taken as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def to_iso(ms: int) -> str:
    """`2026-11-22T12:00:00.000Z` for epoch milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day_of(ms: int) -> str:
    """The UTC day of epoch milliseconds as `YYYY-MM-DD`."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%d")
