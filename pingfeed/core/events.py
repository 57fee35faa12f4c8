"""The one event schema: what a client may send, what the lake keeps, and how bytes become either.

Over HTTP an event is one of the tagged structs below (the tag is `event_type`). In the spool and in the lake it is a
*row*: the same names in one wide table of nullable columns (`COLUMNS`), with times as epoch milliseconds. OpenAPI,
Arrow and Glue columns are derived from this file. Columns are only ever added.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from pingfeed.core.clock import DAY_MS, to_ms
from pingfeed.core.context import CONTEXT_FIELDS, normalised
from pingfeed.core.errors import InvalidInput
from pingfeed.core.ids import IdMaker

MAX_EVENTS: Final = 500
MAX_BODY_BYTES: Final = 1 << 20
MAX_AHEAD_MS: Final = DAY_MS
MAX_LIST: Final = 32
MAX_NAMES: Final = 16
MAX_ROW_BYTES: Final = 16 << 10
"""The largest row that a client's event may become, as JSON with its unknown fields."""
MAX_WATCH: Final = 10.0
"""More full watches count as this many."""

# `$` alone would let a final line feed pass in Python (not in JSON Schema's dialect): hence `(?!\n)$` throughout.
_ID_FORM: Final = r"^[A-Za-z0-9._:@-]{1,128}(?!\n)$"
Id = Annotated[str, Meta(pattern=_ID_FORM, description="1 to 128 bytes of [A-Za-z0-9._:@-]")]
EventId = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?!\n)$", description="a UUID, made by the client"
    ),
]
Time = Annotated[
    datetime, Meta(description="RFC 3339; without an offset it is UTC", extra_json_schema={"format": "date-time"})
]
Label = Annotated[str, Meta(min_length=1, max_length=128)]
Labels = Annotated[list[Label], Meta(max_length=MAX_LIST)]
Number = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""Finite: JSON can write 1e999, which reads as infinity and which no JSON can write again."""
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}(?!\n)$")]


_LENIENT: Final = "other forms are normalised or dropped and never cost the event"
_Country = Annotated[Any, Meta(description=f"ISO 3166-1 alpha-2; {_LENIENT}")]
_Language = Annotated[Any, Meta(description=f"BCP 47; {_LENIENT}")]
_Text = Annotated[Any, Meta(description=f"at most 64 characters; {_LENIENT}")]
LENIENT: Final = "x-lenient"
"""Marks a JSON schema of a value that is dropped, not rejected, where it has another form."""
_DROPPED: Final = {LENIENT: True}
Reference = Annotated[
    str,
    Meta(
        pattern=_ID_FORM,
        description="1 to 128 bytes of [A-Za-z0-9._:@-]; another form is dropped",
        extra_json_schema=_DROPPED,
    ),
]
"""An id that an event does well without."""
Position = Annotated[
    int, Meta(ge=0, le=10_000, description="0 to 10000; another value is dropped", extra_json_schema=_DROPPED)
]
SentAt = Annotated[datetime, Meta(description="RFC 3339; another form is dropped", extra_json_schema=_DROPPED)]


class _Common(msgspec.Struct, tag_field="event_type", kw_only=True, frozen=True):
    """Fields that every event may have."""

    event_id: EventId | None = None
    timestamp: Time | None = None
    sent_at: SentAt | None = None
    country: _Country | None = None
    language: _Language | None = None
    device: _Text | None = None
    app_version: _Text | None = None


class _ByUser(_Common, kw_only=True, frozen=True):
    user_id: Id


class _AboutPing(_ByUser, kw_only=True, frozen=True):
    ping_id: Id
    request_id: Reference | None = None
    position: Position | None = None


class Impression(_AboutPing, tag="impression", frozen=True):
    """The ping was on the user's screen."""


class View(_AboutPing, tag="view", frozen=True, kw_only=True):
    """The user watched or read the ping."""

    watch_time_ratio: Annotated[
        float, Meta(ge=0, description="1 is one full watch; rewatching passes 1; more than 10 counts as 10")
    ]


class Like(_AboutPing, tag="like", frozen=True):
    """The user liked the ping."""


class Comment(_AboutPing, tag="comment", frozen=True):
    """The user commented on the ping."""


class Share(_AboutPing, tag="share", frozen=True):
    """The user passed the ping on."""


class Hide(_AboutPing, tag="hide", frozen=True):
    """The user wants never to see the ping again."""


class Report(_AboutPing, tag="report", frozen=True):
    """The user says that the ping breaks the rules; it is hidden from them too."""


class Unlike(_AboutPing, tag="unlike", frozen=True):
    """The user takes a like back."""


class Unhide(_AboutPing, tag="unhide", frozen=True):
    """The user takes a hide or a report back: the ping may be shown again."""


class _AboutCreator(_ByUser, kw_only=True, frozen=True):
    creator_id: Id
    request_id: Reference | None = None
    ping_id: Reference | None = None


class Follow(_AboutCreator, tag="follow", frozen=True):
    """The user follows the creator; `request_id` and `ping_id` credit the ping that led to it."""


class Unfollow(_AboutCreator, tag="unfollow", frozen=True):
    """The user no longer follows the creator."""


class Block(_AboutCreator, tag="block", frozen=True):
    """The user wants nothing by this creator again."""


class Unblock(_AboutCreator, tag="unblock", frozen=True):
    """The user takes a block back."""


class _Steering(_ByUser, kw_only=True, frozen=True):
    creator_id: Id | None = None
    topic: Label | None = None
    request_id: Reference | None = None
    position: Position | None = None


class Mute(_Steering, tag="mute", frozen=True):
    """The user wants to see nothing of the creator or the topic; exactly one of `creator_id` and `topic` is needed."""


class Unmute(_Steering, tag="unmute", frozen=True):
    """The user takes a mute back; exactly one of `creator_id` and `topic` is needed."""


class More(_Steering, tag="more", frozen=True):
    """The user wants more like this; exactly one of `creator_id`, `topic` and `ping_id` is needed."""

    ping_id: Id | None = None


class Less(_Steering, tag="less", frozen=True):
    """The user wants less like this; exactly one of `creator_id`, `topic` and `ping_id` is needed."""

    ping_id: Id | None = None


class PingCreated(_Common, tag="ping_created", frozen=True, kw_only=True):
    """A ping enters the catalogue, or its creator edits it; its first arrival stays its age."""

    user_id: Id | None = None
    ping_id: Id
    creator_id: Id
    topics: Labels = []
    duration_ms: Annotated[int, Meta(ge=0, le=DAY_MS)] | None = None
    attributes: Annotated[dict[Name, Number], Meta(max_length=MAX_NAMES)] = {}
    facets: Annotated[dict[Name, Labels], Meta(max_length=MAX_NAMES)] = {}


class PingDeleted(_Common, tag="ping_deleted", frozen=True, kw_only=True):
    """The ping leaves every feed at the next request."""

    user_id: Id | None = None
    ping_id: Id


class UserUpdated(_ByUser, tag="user_updated", frozen=True):
    """The user's country, language, device or interests changed."""

    interests: Annotated[Labels, Meta(description="topics that the user chose; they replace those before")] | None = (
        None
    )


_PingEvent = Impression | View | Like | Unlike | Comment | Share | Hide | Unhide | Report
_CreatorEvent = Follow | Unfollow | Block | Unblock
_SteeringEvent = Mute | Unmute | More | Less
ClientEvent = _PingEvent | _CreatorEvent | _SteeringEvent | PingCreated | PingDeleted | UserUpdated
CLIENT_TYPES: Final[Mapping[str, type[_Common]]] = {
    str(struct.__struct_config__.tag): struct for struct in ClientEvent.__args__
}
SYSTEM_TYPES: Final = frozenset({"feed_served"})
ONE_TARGET: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("mute", "unmute"), ("creator_id", "topic")),
    **dict.fromkeys(("more", "less"), ("creator_id", "topic", "ping_id")),
}
"""The types whose target is exactly one of these fields."""


class FeedServed(msgspec.Struct, tag_field="event_type", tag="feed_served", kw_only=True, frozen=True):
    """What one feed response showed, by what, with which values. Written by the feed (and by simulated history) only.

    The `served_*` lists have one entry for every served item, in order; `served_realtime` has
    `len(features.REALTIME)` values an item. An unknown number is null. For a sampled share of requests
    `matrix` holds every row that was scored: base64 of float32 little-endian (len(matrix_pings), F), with the features
    of `feature_digest`.
    """

    event_id: EventId
    user_id: Id
    request_id: Id
    received_ms: int
    timestamp_ms: int
    country: str | None = None
    language: str | None = None
    model_id: str | None = None
    feature_digest: str | None = None
    snapshot_tick: int | None = None
    packet_tick: int | None = None
    served_pings: list[str]
    served_sources: list[int]
    served_scores: list[float | None]
    served_realtime: list[float | None]
    served_propensities: list[float]
    matrix_pings: list[str] | None = None
    matrix: str | None = None


@dataclass(frozen=True)
class Column:
    """One column of the wide table; `kind` is its Glue (Hive) type, from which every other type is derived."""

    name: str
    kind: str


_KINDS: Final[Mapping[Any, str]] = {
    str: "string",
    Any: "string",
    int: "bigint",
    float: "double",
    datetime: "bigint",
    list[str]: "array<string>",
    list[int]: "array<bigint>",
    list[float]: "array<double>",
    dict[str, float]: "map<string,double>",
    dict[str, list[str]]: "map<string,array<string>>",
}


def _without_none(hint: Any) -> Any:
    """`list[float | None] | None` as `list[float]`."""
    args = tuple(_without_none(arg) for arg in get_args(hint) if arg is not type(None))
    origin = get_origin(hint)
    return origin[args] if origin in (list, dict) else args[0] if args else hint


def _row_name(field: str) -> str:
    """Times are milliseconds inside: `timestamp` becomes `timestamp_ms`, `sent_at` becomes `sent_ms`."""
    return {"timestamp": "timestamp_ms", "sent_at": "sent_ms"}.get(field, field)


_LATER: Final = {
    "extra": "string",
    "by_user": "bigint",
    "topic": "string",
    "interests": "array<string>",
    "seq": "bigint",
}
"""The last columns. No client sends `extra` (unknown fields as JSON), `by_user` (1 where a user's token sent a
`ping_created`, else null) and `seq` (the event's place in its request; null in older rows, which counts as 0)."""


def _columns() -> tuple[Column, ...]:
    kinds: dict[str, str] = {"event_id": "string", "event_type": "string", "user_id": "string"}
    kinds |= {"received_ms": "bigint", "timestamp_ms": "bigint"}
    for struct in (*CLIENT_TYPES.values(), FeedServed):
        for field, hint in get_type_hints(struct).items():
            if not field.startswith("__") and field not in _LATER:
                kinds.setdefault(_row_name(field), _KINDS[_without_none(hint)])
    return tuple(Column(name, kind) for name, kind in (kinds | _LATER).items())


COLUMNS: Final = _columns()
Row = dict[str, Any]
"""An event inside: column name to value, absent where null. Decoded JSON types only."""
OrderKey = tuple[int, int, int, str]


def order_key(row: Row) -> OrderKey:
    """What decides between two acts of a user on one target: the greater key wins, whatever arrived last.

    The corrected time, at most the time of receipt; the time of receipt; the place in the request; the event's id.
    """
    received_ms = row["received_ms"]
    return min(row["timestamp_ms"], received_ms), received_ms, row.get("seq") or 0, row["event_id"]


@dataclass(frozen=True)
class RejectedEvent:
    """Why one event of a request was not accepted; `body` is what was sent, as JSON bytes."""

    index: int
    event_id: str | None
    code: str
    field: str | None
    message: str
    body: bytes


_PATH = re.compile(r" - at `(?:key` in `)?\$\.?([^`]*)`$")
_JSON_NAMES: Final[Mapping[str, str]] = {
    "`str`": "a string",
    "`int`": "an integer",
    "`float`": "a number",
    "`bool`": "a boolean",
    "`array`": "a list",
    "`object`": "an object",
    "`null`": "null",
    "`datetime`": "a time such as 2026-11-22T12:00:00Z",
}
_MISSING = re.compile(r"missing required field `(\w+)`")
_PATTERN_RULES: Final[Mapping[str, str]] = {
    "event_id": "must be a UUID",
    "attributes": "must be keyed by names of a-z 0-9 _ that begin with a letter, at most 32 characters",
    "facets": "must be keyed by names of a-z 0-9 _ that begin with a letter, at most 32 characters",
}


def _explain(error: msgspec.ValidationError) -> InvalidInput:
    """msgspec's sentence as ours: the field first, then the rule."""
    text = str(error)
    path = _PATH.search(text)
    rule = _PATH.sub("", text)
    missing = _MISSING.search(rule)
    if missing:
        return InvalidInput(f"{missing[1]} is required", field=missing[1], code="missing_field")
    field = path[1] if path and path[1] else None
    root = re.split(r"[\[.]", field)[0] if field else None
    if "matching regex" in rule:
        rule = _PATTERN_RULES.get(root or "", "must be 1 to 128 of the characters A-Z a-z 0-9 . _ : @ -")
        return InvalidInput(f"{field} {rule}", field=field, code="invalid_value")
    if "RFC3339" in rule:
        return InvalidInput(f"{field} must be a time such as 2026-11-22T12:00:00Z", field=field, code="invalid_value")
    code = "invalid_type" if ", got `" in rule else "out_of_range"
    return InvalidInput(f"{field or 'event'} {_plain(rule)}", field=field, code=code)


def _plain(rule: str) -> str:
    """ "Expected `str | null`, got `int`" as "must be a string, not an integer"."""
    if not rule.startswith("Expected "):
        return f"is not valid: {rule}"
    rule = rule.replace(" | null", "").replace(", got ", ", not ")
    for name, words in _JSON_NAMES.items():
        rule = rule.replace(name, words)
    return f"must be {rule.removeprefix('Expected ')}"


def _struct_for(event: Any) -> type[_Common]:
    if not isinstance(event, dict):
        raise InvalidInput("an event must be a JSON object", code="invalid_type")
    kind = event.get("event_type")
    if kind is None:
        raise InvalidInput("event_type is required", field="event_type", code="missing_field")
    if not isinstance(kind, str):
        raise InvalidInput("event_type must be a string", field="event_type", code="invalid_type")
    if kind in SYSTEM_TYPES:
        raise InvalidInput(f"event_type {kind} is written by the system only", field="event_type", code="not_accepted")
    struct = CLIENT_TYPES.get(kind)
    if struct is None:
        known = ", ".join(CLIENT_TYPES)
        raise InvalidInput(f"event_type is not one of {known}", field="event_type", code="unknown_event_type")
    return struct


Dropped = Callable[[str], None]
_DROPPABLE: Final = {
    name: {field.name for field in msgspec.structs.fields(struct) if field.type in (Reference | None, Position | None)}
    | {"sent_at"}
    for name, struct in CLIENT_TYPES.items()
}
_FIELDS: Final = {kind: frozenset(s.__struct_fields__) | {"event_type"} for kind, s in CLIENT_TYPES.items()}


def to_row(event: Any, received_ms: int, make_id: IdMaker, dropped: Dropped = lambda _field: None, seq: int = 0) -> Row:
    """A decoded JSON event as a row with its id, times and unknown fields; InvalidInput says what is wrong.

    `dropped` is called with the name of each context field that is not kept; `seq` is the event's place in its request.
    """
    struct = _struct_for(event)
    bad = [name for name in _DROPPABLE[event["event_type"]] & event.keys() if not _has_form(name, event[name])]
    event = {name: value for name, value in event.items() if name not in bad} if bad else event
    try:
        checked = msgspec.convert(event, struct)
    except msgspec.ValidationError as error:
        raise _explain(error) from error
    kind = event["event_type"]
    row: Row = {name: value for name, value in event.items() if value is not None and name in _FIELDS[kind]}
    row["event_id"] = checked.event_id.lower() if checked.event_id else make_id(received_ms)
    row["received_ms"], row["seq"] = received_ms, seq
    row["timestamp_ms"] = happened_ms(checked.timestamp, checked.sent_at, received_ms)
    row.pop("timestamp", None)
    if row.pop("sent_at", None) is not None and checked.sent_at is not None:
        row["sent_ms"] = to_ms(checked.sent_at)
    unknown = event.keys() - _FIELDS[kind]
    if unknown:
        row["extra"] = _as_json({name: event[name] for name in sorted(unknown)}).decode()
    check_target(row)
    tidy(row, dropped)
    check_size(row)
    for name in bad:
        dropped(name)
    return row


def check_target(row: Row) -> None:
    """Raise InvalidInput for a row that needs exactly one target and has none or several."""
    fields = ONE_TARGET.get(row["event_type"], ())
    given = [field for field in fields if field in row]
    if fields and len(given) != 1:
        found = " and ".join(given) or "none"
        sentence = f"{' or '.join(fields)}: {row['event_type']} needs exactly one of them, not {found}"
        raise InvalidInput(sentence, field=fields[0], code="invalid_value" if given else "missing_field")


def _has_form(name: str, value: Any) -> bool:
    """Whether an optional reference, position or time of sending can be kept."""
    try:
        msgspec.convert(value, {"position": Position, "sent_at": SentAt}.get(name, Reference) | None)
    except msgspec.ValidationError:
        return False
    return True


def tidy(row: Row, dropped: Dropped, keep: Callable[[str, Any], str | None] = normalised) -> None:
    """Normalise a row's context, or drop it, and cap how often a ping was watched."""
    for name in CONTEXT_FIELDS:
        if name in row:
            value = row[name]
            kept = keep(name, value)
            if kept is None:
                del row[name]
                dropped(name)
            elif kept != value:
                row[name] = kept
    if row.get("watch_time_ratio", 0) > MAX_WATCH:
        row["watch_time_ratio"] = MAX_WATCH


def check_size(row: Row) -> None:
    """Raise InvalidInput for a row that is too large."""
    size = len(_as_json(row))
    if size > MAX_ROW_BYTES:
        sentence = f"the event takes {size:,} bytes with all its fields; at most {MAX_ROW_BYTES:,} are accepted"
        raise InvalidInput(sentence, code="too_large")


def _as_json(value: Any) -> bytes:
    """A decoded value as JSON; InvalidInput if it is nested to the interpreter's limit."""
    try:
        return msgspec.json.encode(value)
    except (RecursionError, ValueError) as error:
        raise InvalidInput("the event is nested too deeply or is not valid JSON", code="malformed") from error


def happened_ms(timestamp: datetime | None, sent_at: datetime | None, received_ms: int) -> int:
    """When an event happened, by this machine's clock.

    `sent_at` shows how wrong the client's clock is: the time stamp is corrected by its difference to `received_ms`.
    Late is fine (offline clients), absent means now; more than a day ahead raises InvalidInput.
    """
    if timestamp is None:
        return received_ms
    at_ms = to_ms(timestamp)
    if sent_at is not None:
        at_ms += received_ms - to_ms(sent_at)
    if at_ms > received_ms + MAX_AHEAD_MS:
        raise InvalidInput("timestamp is more than 24 hours ahead", field="timestamp", code="timestamp_ahead")
    return at_ms


def to_rows(
    events: Iterable[Any],
    received_ms: int,
    make_id: IdMaker,
    check: Callable[[Any], None] = lambda _event: None,
    dropped: Dropped = lambda _field: None,
) -> tuple[list[Row], list[RejectedEvent]]:
    """Rows of the valid events and the rejected ones; `check` rejects an event by raising InvalidInput.

    A bad event never affects its neighbours.
    """
    rows: list[Row] = []
    rejected: list[RejectedEvent] = []
    for index, event in enumerate(events):
        try:
            check(event)
            rows.append(to_row(event, received_ms, make_id, dropped, index))
        except InvalidInput as error:
            rejected.append(_rejected(index, event, error))
    return rows, rejected


def _rejected(index: int, event: Any, error: InvalidInput) -> RejectedEvent:
    given = event.get("event_id") if isinstance(event, dict) else None
    event_id = given if isinstance(given, str) else None
    try:
        body = _as_json(event)
    except InvalidInput:
        body = b"null"
    return RejectedEvent(index, event_id, error.code, error.field, error.message, body)


def encode_rows(rows: Iterable[Row]) -> bytes:
    """Rows as newline-delimited JSON: the spool's record and Firehose's."""
    return msgspec.json.Encoder().encode_lines(rows)


def decode_rows(lines: bytes) -> list[Row]:
    """Inverse of `encode_rows`."""
    return [msgspec.json.decode(line) for line in lines.splitlines()]


def served_row(event: FeedServed) -> Row:
    """A `feed_served` event as a row."""
    row: Row = msgspec.to_builtins(event)
    return {name: value for name, value in row.items() if value is not None}
