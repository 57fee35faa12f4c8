"""The checkpoint: what one spool has delivered, by UTC day of arrival, in a small file in its directory.

    <spool>/tally.json
    {"spool_id": "9f3c0a51d2e84b76", "service": "ingest", "settled_to": 1234,
     "days": {"2026-11-22": {"delivered": 5000, "delivered_ms": 1795348800000}}, "crc": 2891336453}

`delivered` counts the rows that arrived on that day and are at the sink; `delivered_ms` is when the last of them got
there. `lost`, where it is not 0, counts accepted rows that went with their file. `settled_to` (in the code `acked_to`)
is the id of the last record that is at the sink. Replacing this file marks a segment as delivered: the sink has it
before, its file is removed after. So a crash never counts a row twice, although the sink may receive it twice.
`spool_id` is 16 hex digits, created with the file and part of every batch's name; the file is written before the first
batch. `crc` is the CRC-32 of the same JSON with 0 in its place.
"""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

import msgspec

from pingfeed.core.clock import DAY_MS, day_of
from pingfeed.core.errors import FormatError
from pingfeed.core.integrity import UNREADABLE
from pingfeed.files import write_whole, writing

FILE: Final = "tally.json"
LOCK: Final = "lock"
"""The process that owns the spool holds a lock on this file."""
KEPT_DAYS: Final = 400
"""Older days are dropped; they are never reconciled."""

_ENCODER: Final = msgspec.json.Encoder(order="sorted")

Write = Callable[[Path, bytes], None]
"""Replaces a file atomically and durably; OSError."""


class Delivered(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rows of one day that are at the sink, and those that were lost with files that somebody removed."""

    delivered: int
    delivered_ms: int
    lost: int = 0


class Tally(msgspec.Struct, frozen=True, kw_only=True, rename={"acked_to": "settled_to"}):
    """The delivered rows of one spool."""

    spool_id: str
    service: str
    acked_to: int = 0
    days: dict[str, Delivered] = {}
    crc: int = 0

    @classmethod
    def of(cls, data: bytes, name: str = FILE) -> Self:
        """Parse a file's bytes; FormatError if they are not a tally."""
        try:
            found = msgspec.json.decode(data, type=cls)
            bare = msgspec.json.decode(data) | {"crc": 0}
        except UNREADABLE as error:
            raise FormatError(f"{name} is not a spool's tally: {error}") from error
        if found.crc != zlib.crc32(_ENCODER.encode(bare)):
            raise FormatError(f"{name} is not a spool's tally: its checksum does not match")
        return msgspec.structs.replace(found, crc=0)

    def acked(self, segment_id: int, counts_by_day: Mapping[str, int], now_ms: int, lost: int = 0) -> Self:
        """This tally with one more segment at the sink; unchanged if that segment was counted before."""
        if segment_id <= self.acked_to:
            return self
        oldest = day_of(now_ms - KEPT_DAYS * DAY_MS)
        days = {day: found for day, found in self.days.items() if day >= oldest}
        for day, count in counts_by_day.items():
            before = days.get(day, Delivered(0, 0))
            days[day] = Delivered(before.delivered + count, max(before.delivered_ms, now_ms), before.lost + lost)
        return msgspec.structs.replace(self, acked_to=segment_id, days=days)

    def encode(self) -> bytes:
        """The file's bytes."""
        crc = zlib.crc32(_ENCODER.encode(msgspec.structs.replace(self, crc=0)))
        return _ENCODER.encode(msgspec.structs.replace(self, crc=crc))

    def write(self, path: Path, write: Write = write_whole) -> None:
        """Replace the file; on return its segments count as delivered. Raises Unavailable."""
        with writing(str(path)):
            write(path, self.encode())
