"""Decode a request's body: rows of the valid events, and the rejected ones with their reasons.

A body of valid events is decoded in one call, straight into structs, and the rest is done for all its events together:
all ids are matched at once, all rows are built in one call. If anything is wrong, or a field is unknown, the events are
decoded one by one (`events.to_rows`), which explains what is wrong with each. The rows are the same either way, except
that an integer in a double column gets a decimal point.

A byte order mark is skipped. A body that is not JSON is rejected as a whole (400). If it is JSON, but holds an event
that cannot be represented (a number beyond a double, bytes that are not UTF-8), only that event is rejected. Half a
surrogate pair, left by a client that cut a string inside an emoji, reads as U+FFFD, as in browsers.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from pingfeed.core.clock import to_ms
from pingfeed.core.context import CONTEXT_FIELDS, SHORT, normalised_short
from pingfeed.core.errors import InvalidInput, MalformedBody, TooLarge
from pingfeed.core.events import (
    CLIENT_TYPES,
    MAX_EVENTS,
    ONE_TARGET,
    Dropped,
    EventId,
    Id,
    Reference,
    RejectedEvent,
    Row,
    check_size,
    check_target,
    happened_ms,
    tidy,
    to_rows,
)
from pingfeed.core.ids import IdMaker
from pingfeed.core.integrity import UNREADABLE

Check = Callable[[Any], None]
"""Raises InvalidInput for an event (a row, or decoded JSON) that the caller may not send."""

_MAYBE_LARGE: Final = frozenset({"ping_created", "user_updated"})
_CHECKED: Final = _MAYBE_LARGE | ONE_TARGET.keys()
_ID_FIELDS: Final = ("user_id", "ping_id", "creator_id", "request_id")
_IDS: Final = re.compile(r"(?:[A-Za-z0-9._:@-]{1,128}\n)*")
_UUIDS: Final = re.compile(r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\n)*")


def _fast_struct(struct: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """A struct of `events.py` for the fast path: unknown fields are errors, lists that are not given stay absent.

    Patterns are left out: matching field by field takes four times as long as all other decoding (see `_is_valid`).
    """
    hints = get_type_hints(struct, include_extras=True)
    plain: dict[Any, Any] = dict.fromkeys((Id, EventId, Reference), str)
    plain |= {kind | None: str | None for kind in plain}
    hints |= dict.fromkeys(CONTEXT_FIELDS, Annotated[str, msgspec.Meta(max_length=SHORT)] | None)
    fields: list[Any] = []
    for field in msgspec.structs.fields(struct):
        hint = plain.get(hints[field.name], hints[field.name])
        if field.required:
            fields.append((field.name, hint))
        elif field.default is msgspec.NODEFAULT:
            fields.append((field.name, hint | UnsetType, UNSET))
        else:
            fields.append((field.name, hint, field.default))
    return msgspec.defstruct(
        f"Fast{struct.__name__}",
        fields,
        tag=struct.__struct_config__.tag,
        tag_field="event_type",
        kw_only=True,
        omit_defaults=True,
        forbid_unknown_fields=True,
        gc=False,
    )


_Event: Final[Any] = reduce(or_, map(_fast_struct, CLIENT_TYPES.values()))
_ONE: Final = msgspec.json.Decoder(_Event)
_MANY: Final = msgspec.json.Decoder(msgspec.defstruct("_Events", [("events", list[_Event])]))


class _Body(msgspec.Struct):
    """The body of `/track-events`; other keys are passed over, so they need not even be UTF-8."""

    events: msgspec.Raw = msgspec.Raw(b"")


_ANY: Final = msgspec.json.Decoder()
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_OBJECT: Final = msgspec.json.Decoder(_Body)
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""One escape of a JSON string; group 1 is half a surrogate pair."""


def decode(
    body: bytes,
    received_ms: int,
    make_id: IdMaker,
    *,
    many: bool,
    check: Check | None = None,
    dropped: Dropped = lambda _field: None,
) -> tuple[list[Row], list[RejectedEvent]]:
    """The rows and the rejected events of a body: one event, or with `many` `{"events": [...]}`.

    `dropped` is called with each context field that is not kept. Raises MalformedBody if the body is not JSON, TooLarge
    over `MAX_EVENTS`, InvalidInput naming `events` if there is no list.
    """
    body = body.removeprefix(BOM_UTF8)
    lost: list[str] = []
    rows = _fast(body, received_ms, make_id, many, lost.append)
    if rows is not None and (check is None or _passes(check, rows)):
        for field in lost:
            dropped(field)
        return rows, []
    events = many_events(body) if many else one_event(body)

    def check_each(event: Any) -> None:
        if isinstance(event, msgspec.Raw):
            raise _unreadable(event)
        if check is not None and isinstance(event, dict):
            check(event)

    return to_rows(events, received_ms, make_id, check_each, dropped)


def _passes(check: Check, rows: Sequence[Row]) -> bool:
    try:
        for row in rows:
            check(row)
    except InvalidInput:
        return False
    return True


def _fast(
    body: bytes, received_ms: int, make_id: IdMaker, many: bool, dropped: Dropped = lambda _field: None
) -> list[Row] | None:
    """The rows of a body of valid events; None if it has to be decoded event by event."""
    try:
        events: list[Any] = _MANY.decode(body).events if many else [_ONE.decode(body)]  # type: ignore[attr-defined]
        if not 0 < len(events) <= MAX_EVENTS:
            return None
        times = [happened_ms(event.timestamp, event.sent_at, received_ms) for event in events]
    except (*UNREADABLE, InvalidInput):
        return None
    for event in events:
        event.timestamp = None
    rows: list[Row] = msgspec.to_builtins(events)
    for seq, (row, timestamp_ms) in enumerate(zip(rows, times, strict=True)):
        given = row.get("event_id")
        row["event_id"] = make_id(received_ms) if given is None else given.lower()
        row["received_ms"], row["seq"] = received_ms, seq
        row["timestamp_ms"] = timestamp_ms
        if "sent_at" in row:
            row["sent_ms"] = to_ms(datetime.fromisoformat(row.pop("sent_at")))
        tidy(row, dropped, normalised_short)
    return rows if _is_valid(rows) else None


def _is_valid(rows: Sequence[Row]) -> bool:
    """Whether all ids match the patterns of `events.py`, targets are given once, and no row is too large."""
    try:
        for row in rows if _CHECKED & {row["event_type"] for row in rows} else ():
            check_target(row)
            if row["event_type"] in _MAYBE_LARGE:
                check_size(row)
    except InvalidInput:
        return False
    ids = [value for name in _ID_FIELDS for row in rows if (value := row.get(name)) is not None]
    return _all_match(_IDS, ids) and _all_match(_UUIDS, [row["event_id"] for row in rows])


def _all_match(pattern: re.Pattern[str], values: Sequence[str]) -> bool:
    """Whether a pattern of lines matches the values, one line each: no value may hold a line feed."""
    lines = "\n".join((*values, ""))
    return lines.count("\n") == len(values) and pattern.fullmatch(lines) is not None


def one_event(body: bytes) -> list[Any]:
    """The body of `/track-event` as a list of one; a `msgspec.Raw` if it cannot be read. MalformedBody."""
    return [_event(_json(body))]


def many_events(body: bytes) -> list[Any]:
    """The events in the body of `/track-events`, those that cannot be read as `msgspec.Raw`. Raises as `decode`."""
    try:
        found = _OBJECT.decode(_json(body))
    except msgspec.ValidationError as error:
        raise InvalidInput('the body must be an object: {"events": [...]}', code="invalid_type") from error
    if not bytes(found.events):
        raise InvalidInput("events is required", field="events", code="missing_field")
    try:
        events = _LIST.decode(found.events)
    except msgspec.ValidationError as error:
        raise InvalidInput("events must be a list", field="events", code="invalid_type") from error
    if len(events) > MAX_EVENTS:
        raise TooLarge(f"events has {len(events)} entries; a request takes at most {MAX_EVENTS}", field="events")
    if not events:
        raise InvalidInput(f"events is empty; send 1 to {MAX_EVENTS}", field="events", code="out_of_range")
    return [_event(bytes(raw)) for raw in events]


def _json(body: bytes) -> bytes:
    """The body with half surrogate pairs replaced; MalformedBody says where it stops being JSON."""
    repaired = _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], body)
    try:
        _RAW.decode(repaired)
    except UNREADABLE as error:
        raise MalformedBody(_sentence(error)) from error
    return repaired


def _event(body: bytes) -> Any:
    try:
        return _ANY.decode(body)
    except UNREADABLE:
        return msgspec.Raw(body)


def _unreadable(event: msgspec.Raw) -> InvalidInput:
    """Why an event cannot be decoded."""
    try:
        _ANY.decode(event)
    except UNREADABLE as error:
        code = "out_of_range" if isinstance(error, msgspec.ValidationError) else "malformed"
        return InvalidInput(_sentence(error), code=code)
    raise AssertionError("it was kept as bytes because it cannot be decoded")


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
