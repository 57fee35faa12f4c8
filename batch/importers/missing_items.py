"""Pings that a log mentions and no event introduces: each gets a `ping_created`, one tick before its first mention.

A ping counts as introduced if a `ping_created` of it is in the log, in the catalogue, or in a raw file that no run has
read yet.
"""

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from batch.importers.ids import event_id
from batch.importers.staging import Staging
from batch.lake.ledger import Ledger
from batch.lake.raw_files import read_events
from batch.lake.tables import Tables

UNKNOWN: Final = "unknown"
"""The creator of a ping for which the log names none."""
_MISSING: Final = f"""
    SELECT ping_id, min(received_ms) - $1 AS received_ms, min(received_ms) - $1 AS timestamp_ms,
        'ping_created' AS event_type, coalesce(arg_min(creator_id, seq), '{UNKNOWN}') AS creator_id,
        arg_min(topics, seq) AS topics, arg_min(duration_ms, seq) AS duration_ms,
        arg_min(attributes, seq) FILTER (cardinality(attributes) > 0) AS attributes,
        arg_min(facets, seq) FILTER (cardinality(facets) > 0) AS facets
    FROM placed
    WHERE ping_id IS NOT NULL AND event_type <> 'ping_deleted' AND ping_id NOT IN (SELECT ping_id FROM known)
        AND ping_id NOT IN (SELECT ping_id FROM events WHERE event_type = 'ping_created')
    GROUP BY ping_id ORDER BY received_ms, ping_id"""  # noqa: S608


def introduction_id(ping_id: str) -> str:
    """The event id of a ping's introduction: the same in whichever log the ping is first met."""
    return event_id(b"ping_created", ping_id.encode())


def missing_items(staging: Staging, tick_ms: int, known: Any) -> pa.Table:
    """The missing `ping_created` events; `known` are the pings that the lake has met, a `pyarrow.StringArray`."""
    found = staging.table(_MISSING, tick_ms, known=pa.table({"ping_id": known}))
    ids = [introduction_id(ping_id) for ping_id in found["ping_id"].to_pylist()]
    return found.append_column("event_id", pa.array(ids, pa.string()))


def known_pings(tables: Tables, ledger: Ledger, own: str) -> Any:
    """Ids of the pings that the lake has met. Files whose names begin with `own` do not count: what an interrupted run
    of this import wrote must not change what this run writes."""
    ping = tables.catalogue("numbers").filter(pc.field("kind") == "ping")
    learned = ping.filter(pc.is_in(ping["number"], value_set=pc.unique(tables.catalogue("versions")["ping"])))
    unread = ledger.unread(0, everything=True)
    paths = [path for path in (*unread.live, *unread.history) if not path.rsplit("/", 1)[1].startswith(own)]
    found = [learned["id"].combine_chunks()]
    for path in paths:  # One by one: memory holds a file.
        rows = read_events(tables.lake, [path]).rows
        found.append(pc.unique(rows.filter(pc.field("event_type") == "ping_created")["ping_id"]))
    return pa.concat_arrays(found)
