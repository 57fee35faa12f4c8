"""The body's bytes as the list of events in it, each decoded once, to builtins.

A body that is not JSON is refused whole (400). What is JSON, but holds an event that this program cannot represent (a
number beyond a double, bytes that are not UTF-8), loses that event alone: such a body is taken apart and decoded event
by event. Half a surrogate pair, as a client leaves that cut a string inside an emoji, reads as U+FFFD, which is what
browsers make of it.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pingfeed.core.errors import InvalidInput, MalformedBody, TooLarge
from pingfeed.core.events import MAX_EVENTS


@dataclass(frozen=True)
class Undecodable:
    """Stands in the list for an event whose bytes cannot be read."""

    body: bytes
    code: str
    message: str


class _Raw(msgspec.Struct):
    events: list[msgspec.Raw]


_ANY: Final = msgspec.json.Decoder()
_RAW: Final = msgspec.json.Decoder(_Raw)
_FAILURES: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""One escape of a JSON string; group 1 is half a surrogate pair."""


def one_event(body: bytes) -> list[Any]:
    """The body of `/track-event`, as a list of one; MalformedBody if it is not JSON."""
    try:
        return [_ANY.decode(body)]
    except _FAILURES:
        mended = _mended(body)
        _checked_syntax(mended)
        return [_event(mended)]


def many_events(body: bytes) -> list[Any]:
    """The events in the body of `/track-events`; some may be `Undecodable`.

    MalformedBody if it is not JSON, TooLarge over `MAX_EVENTS`, InvalidInput naming `events` where there is no list.
    """
    try:
        events = _events_in(_ANY.decode(body))
    except _FAILURES:
        events = _one_by_one(body)
    if len(events) > MAX_EVENTS:
        raise TooLarge(f"events has {len(events)} entries; at most {MAX_EVENTS} go into one request", field="events")
    if not events:
        raise InvalidInput(f"events is empty; send 1 to {MAX_EVENTS}", field="events", code="out_of_range")
    return events


def _events_in(decoded: Any) -> list[Any]:
    if not isinstance(decoded, dict):
        raise InvalidInput('the body must be an object: {"events": [...]}', code="invalid_type")
    if "events" not in decoded:
        raise InvalidInput("events is required", field="events", code="missing_field")
    events = decoded["events"]
    if not isinstance(events, list):
        raise InvalidInput("events must be a list", field="events", code="invalid_type")
    return events


def _checked_syntax(body: bytes) -> None:
    """MalformedBody says where the bytes stop being JSON; what their values are is not looked at."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except _FAILURES as error:
        raise MalformedBody(_sentence(error)) from error


def _one_by_one(body: bytes) -> list[Any]:
    """The slow way, for a body that did not decode as a whole."""
    mended = _mended(body)
    _checked_syntax(mended)
    try:
        raws = _RAW.decode(mended).events
    except msgspec.ValidationError as error:
        raise InvalidInput("events must be a list", field="events", code="invalid_type") from error
    return [_event(bytes(raw)) for raw in raws]


def _event(body: bytes) -> Any:
    try:
        return _ANY.decode(body)
    except _FAILURES as error:
        code = "out_of_range" if isinstance(error, msgspec.ValidationError) else "malformed"
        return Undecodable(body, code, _sentence(error))


def _mended(body: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], body)


def _sentence(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "the event is not valid UTF-8"
    if isinstance(error, msgspec.ValidationError):
        return "the event holds a number that is out of range"
    where = re.search(r"\(byte (\d+)\)", str(error))
    return (
        f"the body is not valid JSON at byte {where[1]}" if where else "the body is not valid JSON: it ends too early"
    )
