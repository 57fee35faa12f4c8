"""A segment: one file of the spool, and how it is read whatever has become of it.

    header   8 bytes   b"PFSPOOL2"
             8 bytes   the spool's id
    record  36 bytes   the head, little-endian:
                       4  b"\\xf0PFR"      found again after damage, for no UTF-8 text holds these bytes
                       8  id             ascends by one from the number in the file's name
                       8  received_ms    when the request was accepted
                       4  events         rows in it
                       4  length         of the lines that follow
                       4  CRC-32 of the lines
                       4  CRC-32 of the 32 bytes before
             length    `events.encode_rows` bytes: newline-delimited JSON
    record ...

A file's name is the id of its first record, 16 digits, and `.segment`. Files are only ever appended to, in one process'
life; the next process never appends to what it finds.

A reader takes every record that is whole, wherever it lies, and each id once. What is not (a torn tail, a flipped bit,
a piece that is missing) it jumps over, to the next head that is whole, and reports as `Damage`; it never gives a record
that is not what was written. An empty file is no damage: a process died between making it and writing to it.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"PFSPOOL2"
HEADER_BYTES: Final = 16
SUFFIX: Final = ".segment"
_MARK: Final = b"\xf0PFR"
_HEAD: Final = struct.Struct("<4sQqIII")
_SUM: Final = struct.Struct("<I")
HEAD_BYTES: Final = _HEAD.size + _SUM.size
BEGINNING_BYTES: Final = HEADER_BYTES + HEAD_BYTES


@dataclass(frozen=True, slots=True)
class Record:
    """One accepted request: `count` rows as newline-delimited JSON, accepted at `received_ms`."""

    id: int
    lines: bytes
    count: int
    received_ms: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a file that are no whole record: where they begin and end, and what is wrong with the first of them."""

    start: int
    end: int
    reason: str


def name_of(first_id: int) -> str:
    """The file's name of the segment that begins with this record."""
    return f"{first_id:016d}{SUFFIX}"


def first_id_of(name: str) -> int | None:
    """The record that a file's name says it begins with; None if it is no segment's name."""
    stem = name.removesuffix(SUFFIX)
    return int(stem) if name.endswith(SUFFIX) and len(stem) == 16 and stem.isdecimal() else None


def header(spool_id: str) -> bytes:
    """A segment's first bytes; `spool_id` is 16 hex digits."""
    return MAGIC + bytes.fromhex(spool_id)


def encode_head(record_id: int, lines: bytes, count: int, received_ms: int) -> bytes:
    """What stands before a record's lines."""
    head = _HEAD.pack(_MARK, record_id, received_ms, count, len(lines), zlib.crc32(lines))
    return head + _SUM.pack(zlib.crc32(head))


@dataclass(frozen=True, slots=True)
class Head:
    """A record without its lines, which lie from `start` to `end`."""

    id: int
    received_ms: int
    count: int
    start: int
    end: int
    crc: int


def heads(data: bytes) -> Iterator[Head | Damage]:
    """The heads of a file's records in order, and what lies between them that is none; lines are not looked at."""
    return _found(data, _head_at)


def begins_with(data: bytes) -> int | None:
    """The id that a file begins with, from its first `BEGINNING_BYTES`; None if the head there is not whole."""
    head = _parsed(data, HEADER_BYTES)
    return head.id if isinstance(head, Head) else None


def records(data: bytes) -> Iterator[Record | Damage]:
    """A file's whole records in order, and its damage."""
    seen: set[int] = set()
    for found in _found(data, _whole_at):
        if isinstance(found, Damage):
            yield found
        elif found.id in seen:
            yield Damage(found.start - HEAD_BYTES, found.end, "a record is there twice")
        else:
            seen.add(found.id)
            yield Record(found.id, data[found.start : found.end], found.count, found.received_ms)


def _found(data: bytes, look: Callable[[bytes, int], Head | str]) -> Iterator[Head | Damage]:
    """What `look` makes of a file, from place to place."""
    at, first = HEADER_BYTES, _next_head(data, 0)
    if data and (data[:8] != MAGIC or len(data) < HEADER_BYTES or first < HEADER_BYTES):
        at = first
        yield Damage(0, at, "the file's header is not whole")
    while at < len(data):
        found = look(data, at)
        if isinstance(found, Head):
            yield found
            at = found.end
        else:  # Its length may be wrong too: the next one is looked for from its first byte on.
            end = _next_head(data, at + 1)
            yield Damage(at, end, found)
            at = end


def _whole_at(data: bytes, at: int) -> Head | str:
    """The head that begins there if its lines are whole, or what is wrong."""
    found = _head_at(data, at)
    if isinstance(found, Head) and zlib.crc32(memoryview(data)[found.start : found.end]) != found.crc:
        return "a record's lines are not what was written"
    return found


def _head_at(data: bytes, at: int) -> Head | str:
    """The head that begins there with its lines behind it, or why there is none."""
    found = _parsed(data, at)
    if isinstance(found, Head) and found.end > len(data):
        return "the file ends inside a record"
    return found


def _parsed(data: bytes, at: int) -> Head | str:
    """The head that begins there, wherever its lines end."""
    if len(data) - at < HEAD_BYTES:
        return "the file ends inside a record"
    mark, record_id, received_ms, count, length, crc = _HEAD.unpack_from(data, at)
    (checksum,) = _SUM.unpack_from(data, at + _HEAD.size)
    if mark != _MARK or zlib.crc32(data[at : at + _HEAD.size]) != checksum:
        return "a record's head is not whole"
    start = at + HEAD_BYTES
    return Head(record_id, received_ms, count, start, start + length, crc)


def _next_head(data: bytes, at: int) -> int:
    """Where the next whole head begins; the end of the file if there is none."""
    while (at := data.find(_MARK, at)) >= 0:
        if isinstance(_head_at(data, at), Head):
            return at
        at += 1
    return len(data)
