"""Metarank's event log (JSON lines of `item`, `ranking` and `interaction`) as our events.

item         ping_created: genres are the topics, the director is the creator, other words are facets, numbers are
             attributes; received one tick before the first list
ranking      an impression for each item, with the list's id as `request_id`, and its position
interaction  a like (or what the caller says) with the list's id
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from typing import Any, Final, TypeAlias

import msgspec
import pyarrow as pa

from batch.importers.csv_mapping import EARLIEST_MS, LATEST_MS, SKIP
from batch.importers.csv_rules import MAX_LABEL
from batch.importers.formats import UNKNOWN, Piece, Rejections, Source, as_id, event_id, rejected
from pingfeed.core.arrow import table_of_rows
from pingfeed.core.clock import to_iso, to_ms
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import MAX_AHEAD_MS, MAX_LIST, Row
from pingfeed.core.integrity import UNREADABLE

REACTIONS: Final = ("impression", "like", "comment", "share", "hide", "report")
"""What an interaction can become. Not a view: Metarank does not say how much was watched."""
TYPES: Final[Mapping[str, str]] = {"click": "like"} | {name: name for name in REACTIONS}
"""An interaction's `type` -> our event type, unless the caller says otherwise."""
_BATCH_LINES: Final = 10_000
_NO_NAME: Final = re.compile(r"[^a-z0-9_]+")
_NUMBER: Final = re.compile(r"-?\d{1,15}(\.\d{1,9})?")
_SECONDS_BELOW: Final = 100_000_000_000
"""A number below this counts seconds (until the year 5138), any other milliseconds (from 1973)."""


class _Field(msgspec.Struct):
    name: str
    value: Any = None


class _Shown(msgspec.Struct):
    id: str | int


class _Item(msgspec.Struct, tag_field="event", tag="item"):
    item: str | int
    timestamp: str | int
    fields: list[_Field] = []


class _Ranking(msgspec.Struct, tag_field="event", tag="ranking"):
    id: str | int
    timestamp: str | int
    items: list[_Shown]
    user: str | int | None = None
    session: str | int | None = None


class _Interaction(msgspec.Struct, tag_field="event", tag="interaction"):
    item: str | int
    timestamp: str | int
    type: str = "click"
    ranking: str | int | None = None
    user: str | int | None = None
    session: str | int | None = None


class _User(msgspec.Struct, tag_field="event", tag="user"):
    """What is known of a user. Left out: none of it has a place in our events."""


_DECODER: Final = msgspec.json.Decoder(_Item | _Ranking | _Interaction | _User)


@dataclass(frozen=True)
class Item:
    """A description of a ping; `key` is the digest of its line."""

    key: bytes
    at_ms: int
    ping_id: str
    creator_id: str
    topics: list[str]
    facets: dict[str, list[str]]
    attributes: dict[str, float]

    def rows(self) -> Iterator[Row]:
        """As a row, still with the log's time."""
        about: Row = {"ping_id": self.ping_id, "creator_id": self.creator_id, "topics": self.topics}
        about |= {"facets": self.facets, "attributes": self.attributes}
        yield {"event_id": event_id(self.key, b"ping_created", b"0"), "event_type": "ping_created", **about}


@dataclass(frozen=True)
class Ranking:
    """A list that a user was shown, in order."""

    key: bytes
    at_ms: int
    request_id: str
    user_id: str
    ping_ids: list[str]

    def rows(self) -> Iterator[Row]:
        """As rows, one for each item, still with the log's time."""
        for position, ping_id in enumerate(self.ping_ids):
            row = _act(self, "impression", ping_id, position)
            yield row | {"request_id": self.request_id, "position": position}


@dataclass(frozen=True)
class Interaction:
    """What a user did with an item; `request_id` is the list that showed it, where the log says."""

    key: bytes
    at_ms: int
    event_type: str
    user_id: str
    ping_id: str
    request_id: str | None

    def rows(self) -> Iterator[Row]:
        """As a row, still with the log's time."""
        row = _act(self, self.event_type, self.ping_id, 0)
        yield row if self.request_id is None else row | {"request_id": self.request_id}


Entry: TypeAlias = Item | Ranking | Interaction


def _act(entry: Ranking | Interaction, event_type: str, ping_id: str, position: int) -> Row:
    made = event_id(entry.key, event_type.encode(), b"%d" % position)
    return {"event_id": made, "event_type": event_type, "user_id": entry.user_id, "ping_id": ping_id}


@dataclass(frozen=True)
class Names:
    """Which of an item's fields say what; `types` turns interactions into our event types."""

    topics: str = "genres"
    creator: str = "director"
    types: Mapping[str, str] = field(default_factory=lambda: TYPES)


class Reader:
    """Reads lines; `broken` has those that could not be read, `left_out` counts what has no counterpart here."""

    def __init__(self, names: Names | None = None, *, now_ms: int = LATEST_MS) -> None:
        self._names = names or Names()
        self._latest_ms = now_ms + MAX_AHEAD_MS
        self.broken = Rejections()
        self.left_out = 0
        self.lines = 0
        self.cut = 0
        """Labels that were longer than 128 characters or beyond the 64th of their list."""

    def entries(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Entry]:
        """The entries of numbered lines, in their order."""
        for number, line in lines:
            if not line or line.isspace():
                continue
            self.lines += 1
            try:
                entry = self._entry(line)
            except InvalidInput as error:
                self.broken.add([rejected(number, number, error, line.decode("utf-8", "backslashreplace"))])
                continue
            if entry is None:
                self.left_out += 1
            else:
                yield entry

    def _entry(self, line: bytes) -> Entry | None:
        key = blake2b(line, digest_size=16).digest()
        match _decoded(line):
            case _Item() as item:
                return self._item(key, item)
            case _Ranking() as ranking:
                shown = [as_id(str(one.id), "items") for one in ranking.items]
                request = as_id(str(ranking.id), "id")
                return Ranking(key, self._time(ranking.timestamp), request, _user(ranking), shown)
            case _Interaction() as act if self._type(act.type) != SKIP:
                request_id = None if act.ranking is None else as_id(str(act.ranking), "ranking")
                kind, ping_id = self._type(act.type), as_id(str(act.item), "item")
                return Interaction(key, self._time(act.timestamp), kind, _user(act), ping_id, request_id)
            case _:
                return None

    def _item(self, key: bytes, item: _Item) -> Item:
        values = {one.name: one.value for one in item.fields}
        topics = self._labels(values.pop(self._names.topics, None))
        creator = self._labels(values.pop(self._names.creator, None))
        found = {_as_name(name): value for name, value in values.items()}
        facets = {name: self._labels(value) for name, value in found.items()}
        return Item(
            key=key,
            at_ms=self._time(item.timestamp),
            ping_id=as_id(str(item.item), "item"),
            creator_id=as_id(creator[0].replace(" ", "_"), "creator_id") if creator else UNKNOWN,
            topics=topics,
            facets={name: labels for name, labels in facets.items() if labels},
            attributes={name: float(value) for name, value in found.items() if _is_number(value)},
        )

    def _labels(self, value: Any) -> list[str]:
        """A text, or a list with texts in it, as distinct labels in order; [] for anything else."""
        given = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        texts = [one.strip() for one in given if isinstance(one, str)]
        labels = list(dict.fromkeys(text[:MAX_LABEL] for text in texts if text))
        self.cut += sum(len(text) > MAX_LABEL for text in texts) + max(0, len(labels) - MAX_LIST)
        return labels[:MAX_LIST]

    def _time(self, value: str | int) -> int:
        at_ms = read_ms(value)
        if at_ms > self._latest_ms:
            raise InvalidInput("timestamp is more than 24 hours ahead", field="timestamp", code="timestamp_ahead")
        return at_ms

    def _type(self, name: str) -> str:
        known = self._names.types.get(name)
        if known is None:
            raise InvalidInput(
                f"type {name!r} has no event type; use --events {name}=like, for example", field="type", code="unmapped"
            )
        return known


@dataclass(frozen=True)
class MetarankFormat:
    """The format `metarank`."""

    names: Names = field(default_factory=Names)
    name: str = "metarank"
    items_first: bool = True

    @cached_property
    def options(self) -> dict[str, str]:
        """All that decides what a line becomes."""
        types = ",".join(sorted(f"{word}={kind}" for word, kind in self.names.types.items()))
        return {"format": self.name, "topics": self.names.topics, "creator": self.names.creator, "events": types}

    def pieces(self, source: Source, now_ms: int) -> Iterator[Piece]:
        """The log's events in batches."""
        lines, seq = enumerate(source.lines(), 1), 0
        while batch := list(islice(lines, _BATCH_LINES)):
            reader = Reader(self.names, now_ms=now_ms)
            pairs = [(entry.at_ms, row) for entry in reader.entries(batch) for row in entry.rows()]
            events = table_of_rows([row for _, row in pairs])
            events = events.drop_columns("seq").append_column("seq", pa.array(range(seq, seq + len(pairs)), pa.int64()))
            events = events.append_column("at_ms", pa.array([at_ms for at_ms, _ in pairs], pa.int64()))
            seq += len(pairs)
            yield Piece(reader.lines, events, reader.broken.kept, reader.left_out, reader.cut)


def read_ms(value: str | int) -> int:
    """Epoch milliseconds of seconds or milliseconds (as their size says) or of ISO 8601 text. InvalidInput."""
    text = str(value).strip()
    if _NUMBER.fullmatch(text):
        number = float(text) if "." in text else int(text)
        ms = round(number * 1000) if abs(number) < _SECONDS_BELOW else round(number)
    else:
        try:
            ms = to_ms(datetime.fromisoformat(text))
        except (ValueError, OverflowError) as error:
            message = "timestamp must be ISO 8601 or epoch seconds or milliseconds"
            raise InvalidInput(message, field="timestamp", code="invalid_value") from error
    if not EARLIEST_MS <= ms < LATEST_MS:
        shown = to_iso(ms)[:10] if 0 <= ms < 2 * LATEST_MS else text
        message = f"timestamp is {shown}: outside the years 2000 to 2099"
        raise InvalidInput(message, field="timestamp", code="out_of_range")
    return ms


def _decoded(line: bytes) -> Any:
    try:
        return _DECODER.decode(line)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"is not an event of Metarank's format: {error}", code="invalid_type") from error
    except UNREADABLE as error:
        raise InvalidInput(f"is not JSON: {error}", code="malformed") from error


def _user(event: _Ranking | _Interaction) -> str:
    return as_id(str(event.user if event.user is not None else event.session or ""), "user")


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float) and math.isfinite(value)


def _as_name(text: str) -> str:
    """A field's name as the name of a facet or attribute: `[a-z][a-z0-9_]*`, at most 32 characters."""
    name = _NO_NAME.sub("_", text.lower()) or "_"
    return (name if name[0].isalpha() else f"f_{name}")[:32]
