"""Pings that a log mentions and nobody introduced: each gets a `ping_created`, one tick before its first mention.

A ping counts as introduced if a `ping_created` of it is in the log, in the catalogue, or in a raw file that no run has
read yet. Memory grows with the number of distinct pings, not with the length of the log.
"""

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from batch.importers.ids import event_id
from batch.importers.rules import labels
from batch.lake.ledger import Ledger
from batch.lake.raw_files import read_events
from batch.lake.tables import Tables

UNKNOWN: Final = "unknown"
"""The creator of a ping of which the log does not say who made it."""
_MENTION: Final = pa.schema(
    [
        *(("ping_id", pa.string()), ("received_ms", pa.int64()), ("creator_id", pa.string())),
        *(("topics", pa.string()), ("duration_ms", pa.int64())),
    ]
)
_WAITING: Final = 500_000


def introduction_id(ping_id: str) -> str:
    """The event id of a ping's introduction: the same in whichever log the ping is first met."""
    return event_id(b"ping_created", ping_id.encode())


class Introductions:
    """Collects mentions; `table` is what is missing in the end."""

    def __init__(self, separator: str = "|") -> None:
        self._separator = separator
        self._mentions: list[Any] = []
        self._created: list[Any] = []

    def add(self, events: Any, mentions: Any) -> None:
        """Take in a block's events, and its mentions (columns of `_MENTION`, `ping_id` and `received_ms` at least)."""
        created = events.filter(pc.field("event_type") == "ping_created")
        if created.num_rows:
            self._created.append(pc.unique(created["ping_id"]))
        self._mentions.append(_first(_complete(mentions)))
        if sum(table.num_rows for table in self._mentions[1:]) > _WAITING:
            self._mentions = [_first(pa.concat_tables(self._mentions))]

    def table(self, tick_ms: int, known: Any) -> Any:
        """The missing `ping_created` events; `known` are the pings that the lake has met, a `pyarrow.StringArray`."""
        there = pa.concat_arrays([known, *self._created])
        found = _first(pa.concat_tables([_MENTION.empty_table(), *self._mentions]))
        found = found.filter(pc.invert(pc.is_in(found["ping_id"], value_set=there))).sort_by("ping_id")
        received = pc.subtract(found["received_ms"], tick_ms)
        ids = [introduction_id(ping_id) for ping_id in found["ping_id"].to_pylist()]
        columns = {
            "event_id": pa.array(ids, pa.string()),
            "event_type": pa.repeat(pa.scalar("ping_created"), found.num_rows),
            "received_ms": received,
            "timestamp_ms": received,
            "ping_id": found["ping_id"],
            "creator_id": found["creator_id"].fill_null(UNKNOWN),
            "topics": labels(found["topics"].combine_chunks(), self._separator)[0],
            "duration_ms": found["duration_ms"],
        }
        return pa.table(columns)


def known_pings(tables: Tables, ledger: Ledger, own: str) -> Any:
    """Ids of the pings that the lake has met. Files whose names begin with `own` do not count: a part of this import
    that an earlier, broken-off run wrote must not change what this run writes."""
    ping = tables.catalogue("numbers").filter(pc.field("kind") == "ping")
    learned = ping.filter(pc.is_in(ping["number"], value_set=pc.unique(tables.catalogue("versions")["ping"])))
    unread = ledger.unread(0, everything=True)
    paths = [path for path in (*unread.live, *unread.history) if not path.rsplit("/", 1)[1].startswith(own)]
    found = [learned["id"].combine_chunks()]
    for path in paths:  # One by one: memory holds a file.
        rows = read_events(tables.lake, [path]).rows
        found.append(pc.unique(rows.filter(pc.field("event_type") == "ping_created")["ping_id"]))
    return pa.concat_arrays(found)


def _complete(mentions: Any) -> Any:
    columns = [
        mentions[field.name] if field.name in mentions.column_names else pa.nulls(mentions.num_rows, field.type)
        for field in _MENTION
    ]
    return pa.Table.from_arrays(columns, schema=_MENTION)


def _first(mentions: Any) -> Any:
    """One row a ping: its earliest time, and what the log first says of it."""
    said = ["creator_id", "topics", "duration_ms"]
    grouped = mentions.group_by("ping_id", use_threads=False).aggregate(
        [("received_ms", "min"), *((name, "first") for name in said)]
    )
    names = {"received_ms_min": "received_ms"} | {f"{name}_first": name for name in said}
    return grouped.rename_columns([names.get(name, name) for name in grouped.column_names]).select(_MENTION.names)
