"""What a lost store of signals is rebuilt from: what each user decided and said of themselves, from the lake."""

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from batch.features import catalogue, day_state
from batch.lake.ledger import Ledger
from batch.lake.raw_files import each_events
from batch.lake.tables import FORGOTTEN
from batch.lake.tombstones import every_deleted
from batch.wiring import Batch
from pingfeed.core.events import Row

_AT_ONCE: Final = 10_000
_KINDS: Final = {
    "follow": ("unfollow", "follow", "creator_id"),
    "block": ("unblock", "block", "creator_id"),
    "hide": ("unhide", "hide", "ping_id"),
    "mute": ("unmute", "mute", "creator_id"),
    "mute_topic": ("unmute", "mute", "topic"),
}
"""A relation's kind: the event that takes it back, the one that makes it, and the field of its target."""
_NUMBERED: Final = {"creator_id": "creator", "ping_id": "ping", "topic": "value"}
_SAID: Final = ("country", "language", "interests")
_TYPES: Final = ["report", "user_updated", "ping_deleted"] + [kind for kinds in _KINDS.values() for kind in kinds[:2]]
_KEY: Final = ("received_ms", "seq", "event_id")


def relations_of_lake(batch: Batch) -> Iterator[Row]:
    """Rows with their whole order keys; the signals store applies them like any other, in any order.

    First the greatest act of every user on every target, an event for each value of a profile included; then all
    such events, and deletions of pings, in files that no run has read. Deleted users are left out. A report comes as a
    hide. Raises Unavailable.
    """
    for root in ("events", "errors", FORGOTTEN):  # A tick has changes that are not committed: they count.
        batch.tables.versions.refresh(root)
    ledger, lake = Ledger(batch.tables, batch.ticks), batch.tables.lake
    unread = ledger.unread(0, everything=True)  # Listed first: what a run reads meanwhile is in both.
    runs = ledger.finished()
    if runs:
        day_state.upgrade(batch, runs[-1])
        yield from _decided(batch)
    forgotten = every_deleted(lake)
    for read in each_events(lake, [*unread.history, *unread.live, *unread.errors]):
        rows = read.rows.filter(pc.field("event_type").isin(_TYPES))
        yield from _rows(forgotten.without(rows, "received_ms"))


def _decided(batch: Batch) -> Iterator[Row]:
    relations = day_state.latest(batch, "user_relations")
    known = catalogue.load(batch)
    for kind, (takes_back, makes, field) in _KINDS.items():
        found = relations.filter(pc.field("kind") == kind)
        ids = catalogue.ids_for(known, _NUMBERED[field], found["target"])
        if field == "topic":
            ids = pc.utf8_slice_codeunits(ids, len("topics="))
        types = pc.if_else(pc.equal(found["active"], 1), makes, takes_back)
        yield from _keyed(found, types, **{field: ids})
    for name in _SAID:
        found = relations.filter(pc.field("kind") == name)
        yield from _keyed(found, pa.array(["user_updated"] * found.num_rows, pa.string()), **{name: found[name]})


def _keyed(found: pa.Table, types: Any, **about: Any) -> Iterator[Row]:
    columns = {"event_type": types, "user_id": found["user_id"], "timestamp_ms": found["at_ms"]}
    return _rows(pa.table(columns | {name: found[name] for name in _KEY} | about))


def _rows(table: pa.Table) -> Iterator[Row]:
    for part in table.to_batches(max_chunksize=_AT_ONCE):
        for row in part.to_pylist(maps_as_pydicts="lossy"):
            yield {name: value for name, value in row.items() if value is not None}
