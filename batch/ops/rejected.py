"""Rejected events in the lake: `rejected/day=YYYY-MM-DD/<file>.jsonl`, one JSON object a line.

    {"received_ms": 1795348800000, "code": "out_of_range", "field": "watch_time_ratio", "message": "..", "body": "{..}"}

The ingest service writes them, an importer (`import-*`: import the repaired file again), and the batch side (`raw-*`:
rows of raw files that are malformed; they were accepted, so they are listed but never sent again).
"""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pingfeed.core.clock import day_of, to_iso
from pingfeed.core.errors import Forbidden
from pingfeed.core.events import MAX_BODY_BYTES, MAX_EVENTS
from pingfeed.core.integrity import UNREADABLE
from pingfeed.ports import Lake

_NAMESPACE: Final = uuid.UUID("9d5d7a0e-7c1c-5b0e-8f43-0a6f0d1c2b3e")
_ENVELOPE: Final = len(b'{"events":[]}')


class Line(msgspec.Struct):
    """One rejected event; `body` is what was sent."""

    received_ms: int
    code: str
    field: str | None
    message: str
    body: str

    @property
    def day(self) -> str:
        """The UTC day of arrival."""
        return day_of(self.received_ms)


@dataclass
class Skipped:
    """Rejected events that cannot be sent again."""

    malformed: int = 0
    """The body is not a JSON object."""
    too_large: int = 0
    """The event alone is too large for a request."""
    forbidden: int = 0
    """The caller was not allowed to send it; an API key would be."""


def is_raw(path: str) -> bool:
    """Whether a file holds malformed rows of raw files: accepted events, not what clients sent."""
    return path.rpartition("/")[2].startswith("raw-")


def lines_in(lake: Lake, path: str) -> Iterator[Line]:
    """The lines of a file; an incomplete one, as a kill leaves it, is passed over. Raises Unavailable."""
    for data in lake.read(path).splitlines():
        line = line_of(data)
        if line is not None:
            yield line


def line_of(data: bytes) -> Line | None:
    """One line, decoded; None where it is incomplete."""
    try:
        return msgspec.json.decode(data, type=Line)
    except UNREADABLE:
        return None


def summary(lake: Lake, days: Iterable[str], code: str | None = None) -> dict[tuple[str, str], tuple[int, Line]]:
    """By day and reason: how many events were rejected, and the first of them."""
    found: dict[tuple[str, str], tuple[int, Line]] = {}
    for path in _paths(lake, days):
        for line in lines_in(lake, path):
            if code in (None, line.code):
                count, first = found.get((line.day, line.code), (0, line))
                found[line.day, line.code] = count + 1, first
    return dict(sorted(found.items()))


def bodies(lake: Lake, days: Iterable[str], code: str | None, skipped: Skipped) -> Iterator[bytes]:
    """Request bodies (`{"events":[...]}`) with what was rejected, each within the limits of POST /track-events.

    An event without `event_id` gets one derived from its line, so sending it twice stores it once; one without
    `timestamp` gets its time of arrival. `sent_at` is removed: it would be compared with the time of sending again.
    What a caller was forbidden to send is skipped unless `code` asks for it.
    """
    group: list[bytes] = []
    size = _ENVELOPE
    for event in _events(lake, days, code, skipped):
        if len(event) + _ENVELOPE > MAX_BODY_BYTES:
            skipped.too_large += 1
            continue
        if group and (len(group) == MAX_EVENTS or size + len(event) + 1 > MAX_BODY_BYTES):
            yield _body(group)
            group, size = [], _ENVELOPE
        group.append(event)
        size += len(event) + 1
    if group:
        yield _body(group)


def _body(events: list[bytes]) -> bytes:
    return b'{"events":[' + b",".join(events) + b"]}"


def _events(lake: Lake, days: Iterable[str], code: str | None, skipped: Skipped) -> Iterator[bytes]:
    for path in _paths(lake, days):
        if path.rpartition("/")[2].startswith(("raw-", "import-")):
            continue
        seen: Counter[tuple[int, str]] = Counter()
        for line in lines_in(lake, path):
            if code not in (None, line.code):
                continue
            if line.code == Forbidden.code != code:
                skipped.forbidden += 1
                continue
            # Equal events of one request are equal lines, and two events.
            key = line.received_ms, line.body
            seen[key] += 1
            yield from _completed(line, f"{line.received_ms}/{seen[key]}/{line.body}", skipped)


def _completed(line: Line, name: str, skipped: Skipped) -> Iterator[bytes]:
    """The event of a line, or the events of a request that was rejected as a whole."""
    try:
        found: Any = msgspec.json.decode(line.body.encode())
    except UNREADABLE:
        found = None
    several = isinstance(found, dict) and "event_type" not in found and isinstance(found.get("events"), list)
    for index, event in enumerate(found["events"] if several else [found]):
        if not isinstance(event, dict):
            skipped.malformed += 1
            continue
        given = {key: value for key, value in event.items() if key != "sent_at"}
        if given.get("event_id") is None:
            given["event_id"] = str(uuid.uuid5(_NAMESPACE, f"{index}/{name}"))
        if given.get("timestamp") is None:
            given["timestamp"] = to_iso(line.received_ms)
        yield msgspec.json.encode(given)


def _paths(lake: Lake, days: Iterable[str]) -> Iterator[str]:
    return (path for day in days for path in lake.list(f"rejected/day={day}") if path.endswith(".jsonl"))
