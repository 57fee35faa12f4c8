"""Time, injected everywhere: int64 epoch milliseconds UTC inside, ISO 8601 only at the edges."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

DAY_MS = 86_400_000
HOUR_MS = 3_600_000

Clock = Callable[[], int]
"""A clock is a function that gives the present as epoch milliseconds; tests pass their own."""


def system_clock() -> int:
    """Milliseconds since 1970-01-01T00:00Z by this machine's clock."""
    return time.time_ns() // 1_000_000


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
