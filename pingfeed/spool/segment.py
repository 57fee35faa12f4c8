"""A segment: one file of the spool, and how to read it even when it is damaged.

    header   8 bytes   b"PFSPOOL2"
             8 bytes   the spool's id
    record  36 bytes   the head, little-endian:
                       4  b"\\xf0PFR"      a mark to find the next record after damage: no UTF-8 text holds it
                       8  id             ascends by one from the number in the file's name
                       8  received_ms    when the request was accepted
                       4  events         rows in it
                       4  length         of the lines that follow
                       4  CRC-32 of the lines
                       4  CRC-32 of the 32 bytes before
             length    `events.encode_rows` bytes: newline-delimited JSON
    record ...

A file's name is the id of its first record, 16 digits, and `.segment`. A file is only ever appended to, by the process
that created it.

A reader returns every whole record, wherever it lies, and each id once. It skips anything else (a torn tail, a flipped
bit, a missing piece) up to the next whole head, and reports it as `Damage`; it never returns a record that was not
written. An empty file is not damage: a process died between creating it and writing to it.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pingfeed.spool.group_commit import LogFile

MAGIC: Final = b"PFSPOOL2"
HEADER_BYTES: Final = 16
SUFFIX: Final = ".segment"
_MARK: Final = b"\xf0PFR"
_HEAD: Final = struct.Struct("<4sQqIII")
_SUM: Final = struct.Struct("<I")
HEAD_BYTES: Final = _HEAD.size + _SUM.size
BEGINNING_BYTES: Final = HEADER_BYTES + HEAD_BYTES
_TORN: Final = "the file ends inside a record"


@dataclass(frozen=True, slots=True)
class Record:
    """One accepted request: `count` rows as newline-delimited JSON, accepted at `received_ms`."""

    id: int
    lines: bytes
    count: int
    received_ms: int

    @property
    def size(self) -> int:
        """Its bytes on disk."""
        return HEAD_BYTES + len(self.lines)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a file that belong to no whole record: where they start and end, and what is wrong at their start."""

    start: int
    end: int
    reason: str


@dataclass(eq=False, slots=True)
class Segment:
    """What the spool knows about one segment; to its callers a token for `done` and `requeue`."""

    first_id: int
    day: int
    """The UTC day on which its records arrived, as days since the epoch."""
    file: LogFile
    last_id: int = 0
    events: int = 0
    bytes: int = 0
    """Size of its records with their heads. Like `events` it includes what is still being written."""
    writing: int = 0
    """Appends that are not durable yet."""
    in_flight: int = 0
    """Appends whose signals are being applied right now."""
    requeued: int = 0
    """How many times its signals were left to be replayed."""
    replayed: int = 0
    """How many of those have been replayed."""
    delivered: bool = False


@dataclass(frozen=True)
class SpooledBatch:
    """A segment's records; satisfies `ports.Batch`."""

    name: str
    lines: Sequence[bytes]
    received_ms: int
    events: int
    segment: Segment
    lost: int = 0
    """Accepted events that are no longer in the segment's file."""


def name_of(first_id: int) -> str:
    """The file name of the segment whose first record has this id."""
    return f"{first_id:016d}{SUFFIX}"


def first_id_of(name: str) -> int | None:
    """The id of the first record according to a file's name; None if that is not a segment's name."""
    stem = name.removesuffix(SUFFIX)
    return int(stem) if name.endswith(SUFFIX) and len(stem) == 16 and stem.isdecimal() else None


def header(spool_id: str) -> bytes:
    """A segment's first bytes; `spool_id` is 16 hex digits."""
    return MAGIC + bytes.fromhex(spool_id)


def encode_head(record_id: int, lines: bytes, count: int, received_ms: int) -> bytes:
    """The head that precedes a record's lines."""
    head = _HEAD.pack(_MARK, record_id, received_ms, count, len(lines), zlib.crc32(lines))
    return head + _SUM.pack(zlib.crc32(head))


def begins_with(data: bytes) -> int | None:
    """The id of the first record, from a file's first `BEGINNING_BYTES`; None if its head is damaged."""
    head = _head_at(data, HEADER_BYTES)
    return head.id if isinstance(head, _Head) else None


def records(data: bytes) -> Iterator[Record | Damage]:
    """A file's whole records and its damage, in order."""
    at, first = HEADER_BYTES, _next_head(data, 0)
    if data and (data[:8] != MAGIC or len(data) < HEADER_BYTES or first < HEADER_BYTES):
        at = first
        yield Damage(0, at, "the file's header is damaged")
    seen: set[int] = set()
    while at < len(data):
        found = _record_at(data, at)
        if isinstance(found, str):  # The length may be wrong too, so search from the next byte on.
            end = _next_head(data, at + 1)
            yield Damage(at, end, found)
        else:
            end = at + found.size
            yield Damage(at, end, "the record is a duplicate") if found.id in seen else found
            seen.add(found.id)
        at = end


class _Head(NamedTuple):
    id: int
    received_ms: int
    events: int
    length: int
    crc: int


def _record_at(data: bytes, at: int) -> Record | str:
    """The whole record at this offset, else what is wrong."""
    head = _head_at(data, at)
    if isinstance(head, str):
        return head
    lines = data[at + HEAD_BYTES : at + HEAD_BYTES + head.length]
    if len(lines) < head.length:
        return _TORN
    if zlib.crc32(lines) != head.crc:
        return "a record's lines do not match their checksum"
    return Record(head.id, lines, head.events, head.received_ms)


def _head_at(data: bytes, at: int) -> _Head | str:
    """The head at this offset, wherever its lines end, else what is wrong."""
    if len(data) - at < HEAD_BYTES:
        return _TORN
    mark, *fields = _HEAD.unpack_from(data, at)
    (checksum,) = _SUM.unpack_from(data, at + _HEAD.size)
    if mark != _MARK or zlib.crc32(data[at : at + _HEAD.size]) != checksum:
        return "a record's head is damaged"
    return _Head(*fields)


def _next_head(data: bytes, at: int) -> int:
    """The offset of the next whole head whose lines fit into the file, or the end of the file."""
    while (at := data.find(_MARK, at)) >= 0:
        head = _head_at(data, at)
        if isinstance(head, _Head) and at + HEAD_BYTES + head.length <= len(data):
            return at
        at += 1
    return len(data)
