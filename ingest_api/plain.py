"""The short way of a plain request: one whose events are all valid and hold nothing that the schema does not know.

Such a body is decoded once, straight into structs, and everything else is done for all of its events at once: ids are
matched in one go, rows are made in one call. `None` says that a request is not plain: then it takes the way event by
event (`decode.py`, `events.to_rows`), which says what is wrong with which. The rows are the same either way, but that a
whole number of a double column has its point.

The structs are those of `events.py`, made anew: what they do not know is an error, patterns are left out (matching them
field by field costs four times as much as all the rest of decoding), a list that is not given stays away.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any, Final, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from pingfeed.core.clock import to_ms
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import CLIENT_TYPES, MAX_EVENTS, Country, EventId, Id, Language, Row, happened_ms
from pingfeed.core.ids import IdMaker

_PATTERNED: Final = (Id, EventId, Country, Language)
"""Matched by `_fit`: their fields are plain strings here."""
_ID_FIELDS: Final = ("user_id", "ping_id", "creator_id", "request_id")


def _plain_field(field: msgspec.structs.FieldInfo, hint: Any) -> tuple[Any, ...]:
    """A field without its pattern, and unset rather than an empty list or mapping where it is not given."""
    for patterned in _PATTERNED:
        if hint == patterned:
            hint = str
        elif hint == patterned | None:
            hint = str | None
    if field.required:
        return field.name, hint
    if field.default is msgspec.NODEFAULT:
        return field.name, hint | UnsetType, UNSET
    return field.name, hint, field.default


def _plain_struct(struct: type[msgspec.Struct]) -> type[msgspec.Struct]:
    hints = get_type_hints(struct, include_extras=True)
    fields: list[Any] = [_plain_field(field, hints[field.name]) for field in msgspec.structs.fields(struct)]
    return msgspec.defstruct(
        f"Plain{struct.__name__}",
        fields,
        tag=struct.__struct_config__.tag,
        tag_field="event_type",
        kw_only=True,
        omit_defaults=True,
        forbid_unknown_fields=True,
        gc=False,
    )


_STRUCTS: Final = tuple(_plain_struct(struct) for struct in CLIENT_TYPES.values())
_Event: Final[Any] = reduce(or_, _STRUCTS)
_Events: Final = msgspec.defstruct("_Events", [("events", list[_Event])])  # What else the object holds is passed over.
_ONE: Final = msgspec.json.Decoder(_Event)
_MANY: Final = msgspec.json.Decoder(_Events)
_FAILURES: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_IDS: Final = re.compile(r"(?:[A-Za-z0-9._:@-]{1,128}\n)*")
_UUIDS: Final = re.compile(r"(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\n)*")


def one_row(body: bytes, received_ms: int, make_id: IdMaker) -> list[Row] | None:
    """The row of a plain body of `/track-event`, in a list; None if it is not plain."""
    try:
        return _rows([_ONE.decode(body)], received_ms, make_id)
    except _FAILURES:
        return None


def many_rows(body: bytes, received_ms: int, make_id: IdMaker) -> list[Row] | None:
    """The rows of a plain body of `/track-events`, in order; None if it is not plain."""
    try:
        events = _MANY.decode(body).events  # type: ignore[attr-defined]
    except _FAILURES:
        return None
    return _rows(events, received_ms, make_id) if 0 < len(events) <= MAX_EVENTS else None


def _rows(events: list[Any], received_ms: int, make_id: IdMaker) -> list[Row] | None:
    times: list[int] = []
    for event in events:
        try:
            times.append(happened_ms(event.timestamp, event.sent_at, received_ms))
        except InvalidInput:
            return None
        event.timestamp = None
    rows: list[Row] = msgspec.to_builtins(events)
    for row, timestamp_ms in zip(rows, times, strict=True):
        given = row.get("event_id")
        row["event_id"] = make_id(received_ms) if given is None else given.lower()
        row["received_ms"] = received_ms
        row["timestamp_ms"] = timestamp_ms
        if "sent_at" in row:
            row["sent_ms"] = to_ms(datetime.fromisoformat(row.pop("sent_at")))
    return rows if _fit(rows) else None


def _fit(rows: Sequence[Row]) -> bool:
    """Whether all ids, countries and languages are of the form that `events.py` asks for."""
    ids = [value for name in _ID_FIELDS for row in rows if (value := row.get(name)) is not None]
    return (
        _all(_IDS, ids)
        and _all(_UUIDS, [row["event_id"] for row in rows])
        and all(map(_is_country, {row.get("country") for row in rows}))
        and all(map(_is_language, {row.get("language") for row in rows}))
    )


def _all(pattern: re.Pattern[str], values: Sequence[str]) -> bool:
    """Whether a pattern of lines matches the values, a line each: no value may be two."""
    lines = "\n".join((*values, ""))
    return lines.count("\n") == len(values) and pattern.fullmatch(lines) is not None


def _is_country(value: str | None) -> bool:
    return _is_of(value, Country)


def _is_language(value: str | None) -> bool:
    return _is_of(value, Language)


def _is_of(value: str | None, kind: Any) -> bool:
    """Whether a value is of that kind, or absent."""
    try:
        msgspec.convert(value, kind | None)
    except msgspec.ValidationError:
        return False
    return True
