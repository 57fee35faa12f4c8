"""What of each day of arrival lies in the lake, counted from the raw zone itself, not from what anybody noted.

An acceptance is a (`user_id`, `event_id`, `received_ms`). It has landed where it lies under `events/` in whatever form
(`raw_files.py`; written and imported history, `history-*`, was never accepted), under `errors/`, or, once compaction
has taken the file away in which it was refused, under `rejected/day=/raw-*.jsonl`. It counts once however often the
sink got it. A document that is no row counts if it can still be seen whose it is: of a row that no record of Firehose
could hold, and which lies there in pieces, that is the first piece.

Memory is bounded: one file at a time, and a 64-bit hash a row in a database on the disk that spills what is too much.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import duckdb
import msgspec
import pyarrow as pa

from batch.accounting.refused import is_of_raw_zone
from batch.lake.raw_files import Read, Refused, each_errors, each_events, partition_of
from batch.ticks import day_name
from pingfeed.core.clock import DAY_MS
from pingfeed.ports import Lake

_CONFIG: Final[dict[str, str | bool | int | float | list[str]]] = {"threads": 2, "memory_limit": "512MB"}
_KEYS: Final = ["user_id", "event_id", "received_ms"]
_SCHEMA: Final = pa.schema([("user_id", pa.string()), ("event_id", pa.string()), ("received_ms", pa.int64())])
_SEEN: Final = "CREATE TABLE seen (day BIGINT, event UBIGINT, received_ms BIGINT, raw BOOLEAN)"
_ADD: Final = f"""
    INSERT INTO seen SELECT received_ms // {DAY_MS}, hash(user_id, event_id), received_ms, ?
    FROM rows WHERE received_ms >= ? AND received_ms < ?
"""  # noqa: S608
_ROWS: Final = "SELECT day, count(*) FROM seen WHERE raw GROUP BY day"
_EVENTS: Final = "SELECT day, count(*) FROM (SELECT DISTINCT day, event FROM seen WHERE raw) GROUP BY day"
_ACCEPTED: Final = "SELECT day, count(*) FROM (SELECT DISTINCT day, event, received_ms FROM seen) GROUP BY day"
_NAMES: Final = {name: re.compile(rf'"{name}":\s*"([^"\\]*)"') for name in ("user_id", "event_id")}
_RECEIVED: Final = re.compile(r'"received_ms":\s*(\d{1,18})\b')

Key = tuple[str | None, str, int]
"""`user_id`, `event_id`, `received_ms`."""


@dataclass(frozen=True)
class Landed:
    """What lies in the lake of one day of arrival."""

    acceptances: int = 0
    duplicates: int = 0
    """Rows beyond the first of each (`user_id`, `event_id`): sent again by a client, or delivered again."""


class RawZone:
    """Counts what arrived on the days `first` to `last` (numbers, both included) in the partitions that it is told of.

    with RawZone(lake, day, day) as zone:
        zone.read(range(day, day + 2))
        zone.landed(day).acceptances
    """

    def __init__(self, lake: Lake, first: int, last: int) -> None:
        self._lake = lake
        self._first_ms, self._end_ms = first * DAY_MS, (last + 1) * DAY_MS
        self._counts: dict[int, Landed] = {}
        self.left_out: dict[str, str] = {}
        """Files that cannot be read, with the reason."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pingfeed-"))
            self._seen = stack.enter_context(duckdb.connect(Path(folder) / "seen.duckdb", config=_CONFIG))
            self._seen.execute(_SEEN)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def read(self, partitions: Iterable[int]) -> None:
        """Read these partitions too. Raises NotFound where a file went meanwhile, Unavailable."""
        names = {day_name(day) for day in partitions}
        raw = [path for day in sorted(names) for path in self._lake.list(partition_folder(day)) if _is_accepted(path)]
        for found in each_events(self._lake, raw):
            self._take(found)
        errors = [path for path in self._lake.list("errors") if partition_of(path) in names]
        for found in each_errors(self._lake, errors):
            self._take(found)
        for day in sorted(names):
            self._add(_table(_named(self._refused_before(day))), raw=False)
        self._count()

    def landed(self, day: int) -> Landed:
        """What has been found of a day so far."""
        return self._counts.get(day, Landed())

    def _take(self, found: Read) -> None:
        self.left_out |= found.left_out
        self._add(found.rows.select(_KEYS), raw=True)
        self._add(_table(_named(one.body for one in found.refused)), raw=True)

    def _add(self, rows: pa.Table, *, raw: bool) -> None:
        if rows.num_rows:
            self._seen.register("rows", rows)
            self._seen.execute(_ADD, [raw, self._first_ms, self._end_ms])
            self._seen.unregister("rows")

    def _refused_before(self, day: str) -> Iterator[str]:
        """The documents of raw files that earlier runs refused; most of them lie in those files still."""
        for path in self._lake.list(f"rejected/day={day}"):
            if is_of_raw_zone(path):
                yield from (msgspec.json.decode(line, type=Refused).body for line in self._lake.read(path).splitlines())

    def _count(self) -> None:
        rows, events, accepted = (dict(self._seen.execute(sql).fetchall()) for sql in (_ROWS, _EVENTS, _ACCEPTED))
        self._counts = {day: Landed(accepted[day], rows.get(day, 0) - events.get(day, 0)) for day in accepted}


def partition_folder(day: str) -> str:
    """The folder of raw events of a UTC day of arrival."""
    year, month, number = day.split("-")
    return f"events/year={year}/month={month}/day={number}"


def key_of(document: str) -> Key | None:
    """Whose acceptance a document is that is no row; None where it does not say."""
    try:
        found: Any = msgspec.json.decode(document.encode())
    except (msgspec.DecodeError, RecursionError):
        return _key_in(document)
    if not isinstance(found, dict) or type(found.get("received_ms")) is not int:
        return None
    user_id, event_id = found.get("user_id"), found.get("event_id")
    # What has no id of its own is told apart by its bytes, which are the same when it is delivered again.
    return _text(user_id), _text(event_id) or document, found["received_ms"]


def _key_in(torn: str) -> Key | None:
    """The same of a piece of a document: only that which begins it has an id and a time."""
    event, received = _NAMES["event_id"].search(torn), _RECEIVED.search(torn)
    user = _NAMES["user_id"].search(torn)
    return (user[1] if user else None, event[1], int(received[1])) if event and received else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _named(documents: Iterable[str]) -> Iterator[Key]:
    return (key for key in map(key_of, documents) if key is not None)


def _table(keys: Iterable[Key]) -> pa.Table:
    rows = [dict(zip(_KEYS, key, strict=True)) for key in keys if -(1 << 63) <= key[2] < 1 << 63]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _is_accepted(path: str) -> bool:
    return not path.rpartition("/")[2].startswith("history-")
