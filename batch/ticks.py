"""Ticks and days as numbers, and the parameters of the SQL statements."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pingfeed.core.clock import DAY_MS, HOUR_MS
from pingfeed.core.packet import TOP_CREATORS, TOP_FACET_VALUES

assert TOP_CREATORS == TOP_FACET_VALUES, "one parameter, top_affinities, serves both"
_EPOCH = date(1970, 1, 1)
_PARTITION = re.compile(r"/(?:year=(\d{4})/month=(\d{2})/)?day=(?:(\d{4}-\d{2})-)?(\d{2})/")


@dataclass(frozen=True)
class Ticks:
    """Arithmetic for one tick length. Days are numbered from 1970-01-01, UTC."""

    tick_ms: int

    @property
    def day_ticks(self) -> int:
        """Ticks in a day."""
        return DAY_MS // self.tick_ms

    def of(self, ms: int) -> int:
        """The tick that contains `ms`."""
        return ms // self.tick_ms

    def start_ms(self, tick: int) -> int:
        """The start of the tick."""
        return tick * self.tick_ms

    def day(self, tick: int) -> int:
        """The day in which the tick begins."""
        return tick // self.day_ticks

    def first_of(self, day: int) -> int:
        """The first tick of a day."""
        return day * self.day_ticks

    def params(self, last_probe: int = 0, first_probe: int = 0) -> dict[str, int]:
        """The table `params` of the statements: lengths in ticks, and the range of ticks to compute."""
        return {
            "tick_ms": self.tick_ms,
            # If ticks are longer than an hour, the shortest window is one tick.
            "hour_ticks": max(1, HOUR_MS // self.tick_ms),
            "day_ticks": self.day_ticks,
            "week_ticks": 7 * self.day_ticks,
            "month_ticks": 30 * self.day_ticks,
            "first_probe": first_probe,
            "last_probe": last_probe,
            "top_affinities": TOP_CREATORS,
        }


def day_name(day: int) -> str:
    """`2026-11-22` for a day number."""
    return (_EPOCH + timedelta(days=day)).isoformat()


def day_number(name: str) -> int:
    """Inverse of `day_name`; ValueError for another form."""
    return (date.fromisoformat(name) - _EPOCH).days


def day_of_path(path: str) -> str:
    """The UTC day that a path's partition names (`year=/month=/day=`, or `day=` with a whole date), "" if none."""
    found = _PARTITION.search(path)
    if not found:
        return ""
    year, month, whole, day = found.groups()
    return f"{whole or f'{year}-{month}'}-{day}"


def hour_of(ms: int) -> int:
    """The UTC hour, 0 to 23."""
    return datetime.fromtimestamp(ms // 1000, UTC).hour
