"""Refused events as events again: out of the lake, or out of a file that a person has edited.

A line of such a file is what `rejected list --json` prints, its body an object or the text of one, or an event itself.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from batch.accounting.refused import Refused, id_of, is_of_import, is_of_raw_zone
from pingfeed.core.clock import day_of, to_iso
from pingfeed.core.errors import Forbidden, InvalidInput
from pingfeed.core.events import Row, happened_ms

_FAILURES: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True)
class Repaired:
    """One event to be sent, and the line of the lake that it stood in, where it stood in one."""

    line: str
    path: str | None
    event: Any


@dataclass
class Skipped:
    """Lines that are not sent."""

    lines: int = 0
    """Their body is no JSON: they can be edited."""
    forbidden: int = 0
    """Their sender was not allowed to send them: sent with an operator's key, they would be accepted after all."""


class _Line(NamedTuple):
    """Where an event stood, by the digest of its line, and when it arrived."""

    id: str
    path: str | None
    received_ms: int | None


_Seen = Counter[_Line]
"""How often each line has come so far."""


class _Edited(msgspec.Struct):
    body: Any
    id: str | None = None
    path: str | None = None
    received_ms: int | None = None
    code: str | None = None


def of_lake(found: Iterable[Refused], skipped: Skipped) -> Iterator[Repaired]:
    """The events of refused lines, but for what was forbidden.

    Those of an import were never an app's: they are imported again once repaired.
    """
    for path, lines in groupby(found, key=attrgetter("path")):
        seen: _Seen = Counter()
        for one in () if is_of_import(path) else lines:
            if one.code == Forbidden.code:
                skipped.forbidden += 1
            else:
                yield from _events(one.body, _Line(one.id, path, one.received_ms), skipped, seen)


def of_file(lines: Iterable[bytes], day: str | None, code: str | None, skipped: Skipped) -> Iterator[Repaired]:
    """The events of a file's lines; of those of a day and with a reason if these are given, or that name none.

    What was forbidden is sent only if that very reason is given.
    """
    seen: _Seen = Counter()
    for line in filter(None, map(bytes.strip, lines)):
        edited = _edited(line)
        arrived = None if edited.received_ms is None else day_of(edited.received_ms)
        if (code is None or edited.code in (None, code)) and (day is None or arrived in (None, day)):
            if edited.code == Forbidden.code != code:
                skipped.forbidden += 1
                continue
            body = edited.body.encode() if isinstance(edited.body, str) else msgspec.json.encode(edited.body)
            place = _Line(edited.id or id_of(line), edited.path, edited.received_ms)
            yield from _events(body, place, skipped, seen)


def _edited(line: bytes) -> _Edited:
    try:
        found = msgspec.json.decode(line)
        if isinstance(found, dict) and "body" in found and "event_type" not in found:
            return msgspec.convert(found, _Edited)
    except _FAILURES:
        return _Edited(line.decode("utf-8", "backslashreplace"))
    return _Edited(found)


def _events(body: bytes, line: _Line, skipped: Skipped, seen: _Seen) -> Iterator[Repaired]:
    """The event of a body; the events of one that was a whole request."""
    try:
        found = msgspec.json.decode(body)
    except _FAILURES:
        skipped.lines += 1
        return
    several = isinstance(found, dict) and "event_type" not in found and isinstance(found.get("events"), list)
    is_row = line.path is not None and is_of_raw_zone(line.path)
    # Equal events of one request are equal lines, and two events all the same.
    name = f"{line.id}#{seen[line]}" if seen[line] else line.id
    seen[line] += 1
    for index, event in enumerate(found["events"] if several else [found]):
        given = _from_row(event) if is_row and isinstance(event, dict) else event
        yield Repaired(line.id, line.path, _completed(given, f"{name}/{index}", line.received_ms))


def _completed(event: Any, name: str, received_ms: int | None) -> Any:
    """An event with an id and the time that it would have had: replayed twice, it is stored once."""
    if not isinstance(event, dict):
        return event
    given = dict(event)
    if given.get("event_id") is None:
        given["event_id"] = uuid8(name)
    if given.get("timestamp") is None and received_ms:
        given["timestamp"] = to_iso(received_ms)
    # It says how wrong the client's clock was then; the door would take it for how wrong it is now.
    sent_at = given.pop("sent_at", None)
    if sent_at is not None and received_ms:
        given["timestamp"] = _freed_of_skew(given["timestamp"], sent_at, received_ms)
    return given


def _freed_of_skew(timestamp: Any, sent_at: Any, received_ms: int) -> Any:
    """The time stamp as the door would have corrected it then; as it is where one of the two is no time."""
    try:
        happened, sent = msgspec.convert((timestamp, sent_at), tuple[datetime, datetime])
        return to_iso(happened_ms(happened, sent, received_ms))
    except (msgspec.ValidationError, InvalidInput):
        return timestamp


def _from_row(row: Row) -> dict[str, Any]:
    """A row of the wide table (the sink had it already) as the event that it came from."""
    event = {name: value for name, value in row.items() if name not in ("received_ms", "extra")}
    event.pop("sent_ms", None)
    at_ms = event.pop("timestamp_ms", None)
    if at_ms is not None:
        event["timestamp"] = to_iso(at_ms) if type(at_ms) is int else at_ms
    try:
        return msgspec.json.decode(row.get("extra") or "{}", type=dict[str, Any]) | event
    except (*_FAILURES, TypeError):
        return event


def uuid8(name: str) -> str:
    """A version 8 UUID (RFC 9562, section 5.8) that the name determines."""
    value = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest())
    value = value & ~(0xF << 76) | 0x8 << 76
    text = f"{value & ~(0b11 << 62) | 0b10 << 62:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
