"""Writes an import into the lake: `events/year=/month=/day=/history-<name>-<day>-<part>.parquet`, by day of arrival.

The name says what was imported and how, and the same input gives the same files with the same rows: a file that is
there is not written again. The batch side gives rows of `history-*` files the tick after the one in which they arrived.
"""

from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pingfeed.core.arrow import EVENT_SCHEMA
from pingfeed.core.clock import DAY_MS, day_of
from pingfeed.ports import Lake

PREFIX: Final = "history-"
MAX_WAITING: Final = 400_000
"""Rows that wait for their file. When there are more, the day with the most gets one."""
_DICTIONARY: Final = [field.name for field in EVENT_SCHEMA if field.name != "event_id" and field.type == pa.string()]


class Files(Protocol):
    """Where an import's events go."""

    paths: list[str]
    """The files that hold them, relative to the lake."""

    def add(self, events: Any) -> None:
        """Take in events: any columns of the event schema, `received_ms` among them."""

    def close(self) -> None:
        """Nothing waits any more."""


class NoFiles:
    """Events of a dry run."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def add(self, events: Any) -> None:
        """Forget them."""

    def close(self) -> None:
        """Nothing waits."""


class HistoryFiles:
    """The files of one import. Memory holds `MAX_WAITING` rows and the block that came last."""

    def __init__(self, lake: Lake, name: str) -> None:
        self._lake = lake
        self._name = name
        self._there = {path for path in lake.list("events") if f"/{PREFIX}{name}-" in path}
        self._waiting: dict[int, list[Any]] = {}
        self._rows: dict[int, int] = {}
        self._parts: dict[int, int] = {}
        self.paths: list[str] = []

    def add(self, events: Any) -> None:
        """Take in events: any columns of the event schema, `received_ms` among them."""
        for day, rows in _by_day(events):
            self._waiting.setdefault(day, []).append(rows)
            self._rows[day] = self._rows.get(day, 0) + rows.num_rows
        while sum(self._rows.values()) > MAX_WAITING:
            self._write(max(self._rows, key=lambda day: (self._rows[day], day)))

    def close(self) -> None:
        """Write what waits."""
        for day in sorted(self._rows):
            self._write(day)

    def _write(self, day: int) -> None:
        rows = _widened(pa.concat_tables(self._waiting.pop(day), promote_options="default"))
        del self._rows[day]
        self._parts[day] = self._parts.get(day, 0) + 1
        date = day_of(day * DAY_MS)
        path = f"{_partition(date)}/{PREFIX}{self._name}-{date}-{self._parts[day]:03}.parquet"
        if path not in self._there:
            self._lake.write(path, _parquet(rows))
        self.paths.append(path)


def _by_day(events: Any) -> list[tuple[int, Any]]:
    """The rows of each UTC day, as they came. Copies: a slice would keep its whole block in memory."""
    days = events["received_ms"].to_numpy() // DAY_MS
    order = np.argsort(days, kind="stable")
    starts = np.flatnonzero(np.diff(days[order], prepend=-1))
    parts = np.split(order, starts[1:]) if len(order) else []
    return [(int(days[part[0]]), events.take(pa.array(part))) for part in parts]


def _widened(rows: Any) -> Any:
    """All columns of the event schema, in order of arrival; a column that the import has not is null."""
    rows = rows.take(pc.sort_indices(rows, sort_keys=[("received_ms", "ascending")]))
    given = set(rows.column_names)
    columns = [rows[f.name].cast(f.type) if f.name in given else pa.nulls(rows.num_rows, f.type) for f in EVENT_SCHEMA]
    return pa.Table.from_arrays(columns, schema=EVENT_SCHEMA)


def _parquet(rows: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", use_dictionary=_DICTIONARY)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _partition(date: str) -> str:
    year, month, day = date.split("-")
    return f"events/year={year}/month={month}/day={day}"
