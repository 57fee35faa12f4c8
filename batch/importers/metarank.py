"""Metarank's event log (JSON lines of `item`, `ranking` and `interaction`) as our events.

    item         ping_created: genres are the topics, the director is the creator, other words are facets, numbers are
                 attributes; received one tick before the first list
    ranking      an impression for each item, with the list's id as `request_id`, and its position
    interaction  a like (or what the caller says) with the list's id

Lists and interactions are stretched together, linearly. An item that lists show and no line describes becomes a
`ping_created` by the creator `unknown`, one tick before its first list.

`to_rows` is pure: the same log with the same times gives the same rows, event ids included.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import Any

from batch.importers.ids import event_id
from batch.importers.introductions import UNKNOWN, introduction_id
from batch.importers.metarank_lines import Entry, Interaction, Item, Names, Ranking, Reader
from batch.importers.refused import RefusedLines
from batch.importers.source import Source
from batch.importers.times import Timeline
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import Row

__all__ = ["Interaction", "Item", "MetarankLog", "Names", "Ranking", "read_metarank", "rows_of", "to_rows"]


@dataclass(frozen=True)
class MetarankLog:
    """A whole log in memory: each list in the file's order, with line numbers. `left_out` has no counterpart here."""

    items: list[Item]
    rankings: list[Ranking]
    interactions: list[Interaction]
    broken: RefusedLines
    left_out: int
    cut: int
    """Labels that were longer than 128 characters or beyond the 64th of their list."""

    @property
    def first_ms(self) -> int:
        """The log's time of its first list or interaction."""
        return min(entry.at_ms for entry in self._acts)

    @property
    def last_ms(self) -> int:
        """The log's time of its last list or interaction."""
        return max(entry.at_ms for entry in self._acts)

    @property
    def _acts(self) -> list[Ranking | Interaction]:
        return [*self.rankings, *self.interactions]


def read_metarank(path: Path, names: Names | None = None) -> MetarankLog:
    """The whole log; a line that is broken is in `broken` and takes no neighbour with it.

    NotFound if there is no such file, InvalidInput for broken gzip and for a log without lists and interactions.
    """
    reader = Reader(names)
    found: dict[type, list[Any]] = {Item: [], Ranking: [], Interaction: []}
    for block in Source(path).blocks():
        for entry in reader.entries(block):
            found[type(entry)].append(entry)
    items, rankings, interactions = found.values()
    if not rankings and not interactions:
        raise InvalidInput(f"{path} holds no list and no interaction of Metarank's format")
    return MetarankLog(items, rankings, interactions, reader.broken, left_out=reader.left_out, cut=reader.cut)


def to_rows(log: MetarankLog, *, begin_ms: int, stretch_ms: int, tick_ms: int) -> Iterator[Row]:
    """The log as rows of the lake: the pings, then lists and interactions in the file's order.

    The first list is at `begin_ms`, the last event `stretch_ms` later. `received_ms` and `timestamp_ms` are equal.
    """
    timeline = Timeline(log.first_ms, log.last_ms, begin_ms, stretch_ms)
    for item in log.items:
        yield from rows_of(item, timeline, tick_ms)
    described = {item.ping_id for item in log.items}
    for ping_id, first_ms in _mentioned(log).items():
        if ping_id not in described:
            yield _introduction(ping_id, timeline.place(first_ms) - tick_ms)
    acts: Iterable[Ranking | Interaction] = merge(log.rankings, log.interactions, key=attrgetter("line"))
    for entry in acts:
        yield from rows_of(entry, timeline, tick_ms)


def rows_of(entry: Entry, timeline: Timeline, tick_ms: int) -> Iterator[Row]:
    """One entry as rows."""
    at_ms = timeline.place(entry.at_ms)
    match entry:
        case Item():
            # Known when the first list was made; a later description is known before what happens at its own time.
            yield _ping_created(entry, max(at_ms, timeline.begin_ms) - tick_ms)
        case Ranking():
            for position, ping_id in enumerate(entry.ping_ids):
                row = _act(entry, "impression", ping_id, at_ms, position)
                yield row | {"request_id": entry.request_id, "position": position}
        case Interaction():
            row = _act(entry, entry.event_type, entry.ping_id, at_ms, 0)
            yield row | ({} if entry.request_id is None else {"request_id": entry.request_id})


def _act(entry: Ranking | Interaction, event_type: str, ping_id: str, at_ms: int, position: int) -> Row:
    return {
        "event_id": event_id(entry.key, event_type.encode(), b"%d" % position),
        "event_type": event_type,
        "user_id": entry.user_id,
        "received_ms": at_ms,
        "timestamp_ms": at_ms,
        "ping_id": ping_id,
    }


def _ping_created(item: Item, received_ms: int) -> Row:
    return {
        "event_id": event_id(item.key, b"ping_created", b"0"),
        "event_type": "ping_created",
        "received_ms": received_ms,
        "timestamp_ms": received_ms,
        "ping_id": item.ping_id,
        "creator_id": item.creator_id,
        "topics": item.topics,
        "facets": item.facets,
        "attributes": item.attributes,
    }


def _introduction(ping_id: str, received_ms: int) -> Row:
    return {
        "event_id": introduction_id(ping_id),
        "event_type": "ping_created",
        "received_ms": received_ms,
        "timestamp_ms": received_ms,
        "ping_id": ping_id,
        "creator_id": UNKNOWN,
    }


def _mentioned(log: MetarankLog) -> dict[str, int]:
    """The log's first time of each item that was shown or acted on."""
    first: dict[str, int] = {}
    for ranking in log.rankings:
        for ping_id in ranking.ping_ids:
            first[ping_id] = min(first.get(ping_id, ranking.at_ms), ranking.at_ms)
    for act in log.interactions:
        first[act.ping_id] = min(first.get(act.ping_id, act.at_ms), act.at_ms)
    return first
