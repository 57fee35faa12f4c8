"""An import's events in a temporary DuckDB file, until it is known that they may be written: then the lake's files.

    events/year=/month=/day=/history-<name>-<day>-<part>.parquet     by day of arrival

The name says what was imported and how, and the same input gives the same files with the same rows: an existing file
is not written again. The batch side gives rows of `history-*` files the tick after the one in which they arrived.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.importers.csv_rules import HAS
from batch.importers.formats import UNKNOWN, event_id
from batch.lake.ledger import Ledger
from batch.lake.raw_files import as_events, each_events
from batch.lake.tables import Tables
from pingfeed.core.arrow import EVENT_SCHEMA
from pingfeed.core.clock import DAY_MS, day_of
from pingfeed.ports import Lake

PREFIX: Final = "history-"
MAX_ROWS: Final = 200_000
"""Rows of one file."""
_BATCH: Final = 20_000
_EVENT: Final = [field for field in EVENT_SCHEMA if field.name in {*HAS, "event_type"}]
STAGED: Final = pa.schema(
    [("seq", pa.int64()), ("at_ms", pa.int64()), ("time_kind", pa.string()), ("notes", pa.string()), *_EVENT]
)
"""`seq` is the log's order, `at_ms` its own time. Any event type may carry what its record says of the ping."""
_DICTIONARY: Final = [field.name for field in EVENT_SCHEMA if field.name != "event_id" and field.type == pa.string()]
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


class Timeline(msgspec.Struct, frozen=True):
    """A linear map: the log's time `first_ms` becomes `begin_ms`, `last_ms` becomes `begin_ms + length_ms`."""

    first_ms: int
    last_ms: int
    begin_ms: int
    length_ms: int

    @property
    def end_ms(self) -> int:
        """When the log's last event is."""
        return self.begin_ms + self.length_ms

    @property
    def sql(self) -> str:
        """A time of the log, `at_ms`, in our history. Order is kept."""
        since, span = f"(at_ms - {self.first_ms})", self.last_ms - self.first_ms
        if span not in (self.length_ms, 0):
            since = f"CAST(floor(CAST({since} AS HUGEINT) * {self.length_ms} // {span}) AS BIGINT)"
        return f"({self.begin_ms} + {since})"


class Staging:
    """The events of one import; `events` is the table of the staged ones, `placed` the view with their times."""

    def __init__(self, folder: Path) -> None:
        config: dict[str, str | bool | int | float | list[str]] = {
            "threads": 1,
            "memory_limit": "200MB",
            "temp_directory": str(folder),
        }
        self._db = duckdb.connect(str(folder / "staging.duckdb"), config=config)
        self._db.execute("SET enable_progress_bar = false")
        self._db.register("nothing", STAGED.empty_table())
        self._db.execute("CREATE TABLE events AS SELECT * FROM nothing")

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def add(self, events: pa.Table) -> None:
        """Stage events: any columns of `STAGED`, `seq` and `at_ms` among them."""
        known = [name for name in events.column_names if name in STAGED.names]
        self._db.register("piece", events.select(known))
        self._db.execute("INSERT INTO events BY NAME SELECT * FROM piece")

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a small result."""
        return self._db.execute(sql, list(parameters)).fetchall()

    def table(self, sql: str, *parameters: Any, **inputs: Any) -> pa.Table:
        """A result over the staged events and other Arrow tables or datasets."""
        for name, content in inputs.items():
            self._db.register(name, content)
        return self._db.sql(sql, params=list(parameters) or None).to_arrow_table()

    def drop_duplicates(self, existing: Any) -> int:
        """Keep each event once, and none of `existing` (a dataset or table of event and user ids). How many went."""
        same = "e.event_id = k.event_id AND e.user_id IS NOT DISTINCT FROM k.user_id"
        self._db.register("existing", existing)
        self._db.execute(f"""CREATE TEMP TABLE doubled AS
            WITH k AS (SELECT event_id, user_id, min(seq) AS first FROM events GROUP BY ALL HAVING count(*) > 1)
            SELECT seq FROM events e JOIN k ON {same} WHERE seq > first
            UNION SELECT seq FROM events e SEMI JOIN existing k ON {same}""")  # noqa: S608
        self._db.execute("DELETE FROM events WHERE seq IN (SELECT seq FROM doubled)")
        return int(self.query("SELECT count(*) FROM doubled")[0][0])

    def place(self, timeline: Timeline, end_ms: int, items_before_ms: int | None) -> None:
        """Give the events their times; what happens after `end_ms` arrives at `end_ms`.

        With `items_before_ms` pings are known that long before their own time, and before the first act.
        """
        at = timeline.sql
        if items_before_ms is not None:
            item = f"greatest({at}, {timeline.begin_ms}) - {items_before_ms}"
            at = f"CASE WHEN event_type = 'ping_created' THEN {item} ELSE {at} END"
        self._db.execute(f"""CREATE VIEW placed AS SELECT *, least(timestamp_ms, {end_ms}) AS received_ms
            FROM (SELECT *, {at} AS timestamp_ms FROM events)""")  # noqa: S608

    def sample(self, event_type: str, count: int) -> pa.Table:
        """The first events of a type."""
        sql = f"SELECT {_columns()} FROM placed WHERE event_type = ? ORDER BY seq LIMIT {count}"  # noqa: S608
        return self.table(sql, event_type)

    def write(self, lake: Lake, name: str) -> list[str]:
        """Write the events into the lake; the files' paths."""
        rows = self._db.sql(f"SELECT {_columns()} FROM placed ORDER BY received_ms, seq")  # noqa: S608
        return write_history(lake, name, rows.to_arrow_reader(_BATCH))


def write_history(lake: Lake, name: str, batches: Any) -> list[str]:
    """Events in order of arrival (`pyarrow.RecordBatch`es) as files of one day each; their paths."""
    there = set(lake.list("events"))
    paths: list[str] = []
    for date, part, rows in _parts(batches):
        year, month, day = date.split("-")
        path = f"events/year={year}/month={month}/day={day}/{PREFIX}{name}-{date}-{part:03}.parquet"
        if path not in there:
            lake.write(path, _parquet(rows))
        paths.append(path)
    return paths


def _parts(batches: Any) -> Iterator[tuple[str, int, pa.Table]]:
    """The rows of each UTC day, at most MAX_ROWS at once, with the day and the part's number."""
    current, part, waiting, count = None, 1, list[Any](), 0
    for batch in batches:
        days = batch["received_ms"].to_numpy() // DAY_MS
        begin = 0
        while begin < len(days):
            if current is not None and (days[begin] != current or count >= MAX_ROWS):
                yield day_of(current * DAY_MS), part, pa.Table.from_batches(waiting)
                part = part + 1 if days[begin] == current else 1
                waiting, count = [], 0
            current = int(days[begin])
            end = min(int(days.searchsorted(current, "right")), begin + MAX_ROWS - count)
            waiting.append(batch.slice(begin, end - begin))
            count += end - begin
            begin = end
    if current is not None:
        yield day_of(current * DAY_MS), part, pa.Table.from_batches(waiting)


def _columns() -> str:
    """SQL of an event's columns: each type has its own fields, and no others."""
    found = ["received_ms", "timestamp_ms", "event_type", "seq"]
    for field in _EVENT:
        types = HAS.get(field.name)
        if types is not None:
            value = field.name
            listed = ", ".join(f"'{kind}'" for kind in types)
            found.append(f"CASE WHEN event_type IN ({listed}) THEN {value} END AS {field.name}")
    return ", ".join(found)


def _parquet(rows: pa.Table) -> bytes:
    """A Parquet file with all columns of the event schema; columns that the import lacks are null."""
    sink = pa.BufferOutputStream()
    pq.write_table(as_events(rows), sink, compression="zstd", use_dictionary=_DICTIONARY)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def missing_items(staging: Staging, tick_ms: int, known: Any) -> pa.Table:
    """The missing `ping_created` events. A ping gets the same event id in whichever log it is first met.

    `known` are the pings that the lake has met, a `pyarrow.StringArray`.
    """
    found = staging.table(_MISSING, tick_ms, known=pa.table({"ping_id": known}))
    ids = [event_id(b"ping_created", ping_id.encode()) for ping_id in found["ping_id"].to_pylist()]
    return found.append_column("event_id", pa.array(ids, pa.string()))


def known_pings(tables: Tables, ledger: Ledger, own: str) -> Any:
    """Ids of the pings that the lake has met. Files whose names begin with `own` do not count: what an interrupted run
    of this import wrote must not change what this run writes."""
    ping = tables.catalogue("numbers").filter(pc.field("kind") == "ping")
    learned = ping.filter(pc.is_in(ping["number"], value_set=pc.unique(tables.catalogue("versions")["ping"])))
    unread = ledger.unread(0, everything=True)
    paths = [path for path in (*unread.live, *unread.history) if not path.rsplit("/", 1)[1].startswith(own)]
    found = [learned["id"].combine_chunks()]
    for read in each_events(tables.lake, paths):
        found.append(pc.unique(read.rows.filter(pc.field("event_type") == "ping_created")["ping_id"]))
    return pa.concat_arrays(found)
