"""Lines of Metarank's event format as items, lists and interactions, ids and words already ours.

Of an item's fields the genres become topics and the director the creator; other words are facets, numbers attributes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, TypeAlias

import msgspec

from batch.importers.ids import as_id
from batch.importers.introductions import UNKNOWN
from batch.importers.labels import Labels, as_name
from batch.importers.mapping import LEFT_OUT
from batch.importers.refused import RefusedLines, refused
from batch.importers.source import Block
from batch.importers.times import LATEST_MS, read_ms
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import MAX_AHEAD_MS

REACTIONS: Final = ("impression", "like", "comment", "share", "hide", "report")
"""What an interaction can become. Not a view: Metarank does not say how much was watched."""
TYPES: Final[Mapping[str, str]] = {"click": "like"} | {name: name for name in REACTIONS}
"""An interaction's `type` -> our event type, unless the caller says otherwise."""


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

    line: int
    key: bytes
    at_ms: int
    ping_id: str
    creator_id: str
    topics: list[str]
    facets: dict[str, list[str]]
    attributes: dict[str, float]


@dataclass(frozen=True)
class Ranking:
    """A list that a user was shown, in order."""

    line: int
    key: bytes
    at_ms: int
    request_id: str
    user_id: str
    ping_ids: list[str]


@dataclass(frozen=True)
class Interaction:
    """What a user did with an item; `request_id` is the list that showed it, where the log says."""

    line: int
    key: bytes
    at_ms: int
    event_type: str
    user_id: str
    ping_id: str
    request_id: str | None


Entry: TypeAlias = Item | Ranking | Interaction


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
        self._labels = Labels()
        self._latest_ms = now_ms + MAX_AHEAD_MS
        self.broken = RefusedLines()
        self.left_out = 0
        self.lines = 0

    @property
    def cut(self) -> int:
        """Labels that were cut or left out because of their length or number."""
        return self._labels.cut

    def entries(self, block: Block) -> Iterator[Entry]:
        """The block's entries in the file's order."""
        for number, line in enumerate(block.lines, block.first):
            if not line or line.isspace():
                continue
            self.lines += 1
            try:
                entry = self._entry(number, line)
            except InvalidInput as error:
                self.broken.add([refused(number, error, line)], 1)
                continue
            if entry is None:
                self.left_out += 1
            else:
                yield entry

    def _entry(self, number: int, line: bytes) -> Entry | None:
        key = blake2b(line, digest_size=16).digest()
        match _decoded(line):
            case _Item() as item:
                return self._item(number, key, item)
            case _Ranking() as ranking:
                shown = [as_id(str(one.id), "items") for one in ranking.items]
                request = as_id(str(ranking.id), "id")
                return Ranking(number, key, self._time(ranking.timestamp), request, _user(ranking), shown)
            case _Interaction() as act if self._type(act.type) != LEFT_OUT:
                request_id = None if act.ranking is None else as_id(str(act.ranking), "ranking")
                kind, ping_id = self._type(act.type), as_id(str(act.item), "item")
                return Interaction(number, key, self._time(act.timestamp), kind, _user(act), ping_id, request_id)
            case _:
                return None

    def _item(self, number: int, key: bytes, item: _Item) -> Item:
        values = {one.name: one.value for one in item.fields}
        topics = self._labels.of(values.pop(self._names.topics, None))
        creator = self._labels.of(values.pop(self._names.creator, None))
        found = {as_name(name): value for name, value in values.items()}
        facets = {name: self._labels.of(value) for name, value in found.items()}
        return Item(
            line=number,
            key=key,
            at_ms=self._time(item.timestamp),
            ping_id=as_id(str(item.item), "item"),
            creator_id=as_id(creator[0].replace(" ", "_"), "creator_id") if creator else UNKNOWN,
            topics=topics,
            facets={name: labels for name, labels in facets.items() if labels},
            attributes={name: float(value) for name, value in found.items() if _is_number(value)},
        )

    def _time(self, value: str | int) -> int:
        at_ms = read_ms(value)
        if at_ms > self._latest_ms:
            raise InvalidInput("timestamp is more than 24 hours ahead", field="timestamp", code="timestamp_ahead")
        return at_ms

    def _type(self, name: str) -> str:
        known = self._names.types.get(name)
        if known is None:
            raise InvalidInput(
                f"type {name!r} has no event type; say --events {name}=like, for example", field="type", code="unmapped"
            )
        return known


def _decoded(line: bytes) -> Any:
    try:
        return _DECODER.decode(line)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"is not an event of Metarank's format: {error}", code="invalid_type") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"is not JSON: {error}", code="malformed") from error


def _user(event: _Ranking | _Interaction) -> str:
    return as_id(str(event.user if event.user is not None else event.session or ""), "user")


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float) and math.isfinite(value)
