"""Times of a log: read in whatever form they are written, then placed in our history."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pingfeed.core.clock import DAY_MS, to_iso, to_ms
from pingfeed.core.errors import InvalidInput

EARLIEST_MS: Final = 946_684_800_000  # 2000-01-01
LATEST_MS: Final = 4_102_444_800_000  # 2100-01-01
_CALENDAR_MS: Final = 60_000_000_000_000
"""Python's calendar reaches from year 1 to year 9999, this number from 68 to 3871."""
_SECONDS_BELOW: Final = 100_000_000_000
"""A number below this counts seconds (until the year 5138), any other milliseconds (from 1973)."""
_NUMBER: Final = re.compile(r"-?\d{1,15}(\.\d{1,9})?")
_WHOLE: Final = r"^-?\d{1,15}$"
_ISO: Final = r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,3})?"
_ZONED: Final = _ISO + r"(Z|[+-]\d\d:\d\d)$"
_LENGTH: Final = re.compile(r"(\d+)([smhd])")
_UNITS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}


@dataclass(frozen=True)
class Timeline:
    """A linear map: the log's time `first_ms` becomes `begin_ms`, `last_ms` becomes `begin_ms + length_ms`."""

    first_ms: int
    last_ms: int
    begin_ms: int
    length_ms: int

    def place(self, ms: Any) -> Any:
        """A time of the log, an int or a NumPy array of int64, in our history. Order is kept."""
        since, span = ms - self.first_ms, self.last_ms - self.first_ms
        if span == self.length_ms or span == 0:
            return self.begin_ms + since
        return self.begin_ms + since * self.length_ms // span

    @property
    def end_ms(self) -> int:
        """When the log's last event is."""
        return self.begin_ms + self.length_ms


def read_ms(value: Any, field: str = "timestamp") -> int:
    """Epoch milliseconds of a number (seconds or milliseconds, as its size says), of digits, or of ISO 8601 text.

    InvalidInput for anything else and for what lies outside the years 2000 to 2099: one date that is wrong by decades
    would stretch the whole history.
    """
    ms = _any_ms(value, field)
    if not EARLIEST_MS <= ms < LATEST_MS:
        raise InvalidInput(f"{field} {to_year(ms)}", field=field, code="out_of_range")
    return ms


def read_column(texts: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """`read_ms` of a column of text: epoch milliseconds (0 where there are none), and where there are some."""
    out = np.zeros(len(texts), np.int64)
    whole = pc.match_substring_regex(texts, _WHOLE).fill_null(False).to_numpy(zero_copy_only=False)
    numbers = texts.filter(pa.array(whole)).cast(pa.int64()).to_numpy()
    out[whole] = np.where(np.abs(numbers) < _SECONDS_BELOW, numbers * 1000, numbers)
    others = ~whole & texts.is_valid().to_numpy(zero_copy_only=False)
    out[others] = _iso_column(texts.filter(pa.array(others)))
    return out, (out >= EARLIEST_MS) & (out < LATEST_MS)


def _iso_column(texts: pa.Array) -> NDArray[np.int64]:
    """All at once where they are of one usual form, else one by one; 0 for what is no time."""
    for form, kind in ((_ISO + "$", pa.timestamp("ms")), (_ZONED, pa.timestamp("ms", "UTC"))):
        if pc.all(pc.match_substring_regex(texts, form)).as_py():
            try:
                return np.asarray(texts.cast(kind).cast(pa.int64()), np.int64)
            except pa.ArrowInvalid:  # One of them is no day of the calendar: find out which.
                break
    return np.array([_ms_or_0(text) for text in texts.to_pylist()], np.int64)


def _ms_or_0(text: str) -> int:
    try:
        return read_ms(text)
    except InvalidInput:
        return 0


def to_year(ms: int) -> str:
    """The end of the sentence that refuses a time."""
    shown = to_iso(ms)[:10] if -_CALENDAR_MS < ms < _CALENDAR_MS else "beyond the calendar"
    return f"is {shown}: outside the years 2000 to 2099"


def _any_ms(value: Any, field: str) -> int:
    text = str(value).strip()
    if _NUMBER.fullmatch(text) and not isinstance(value, bool):
        number = float(text) if "." in text else int(text)
        return round(number * 1000) if abs(number) < _SECONDS_BELOW else round(number)
    try:
        return to_ms(datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{field} must be ISO 8601 or epoch seconds or milliseconds", field=field, code="invalid_value"
        ) from error


def length_ms(text: str) -> int:
    """Milliseconds of a length such as `14d`, `36h` or `90m`; InvalidInput for another form and for nothing."""
    found = _LENGTH.fullmatch(text.strip())
    if not found or int(found[1]) == 0:
        raise InvalidInput(f"{text!r} is not a length such as 14d, 36h or 90m")
    return int(found[1]) * _UNITS[found[2]]
