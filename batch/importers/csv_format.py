"""An interaction log in CSV: a record an event, by a mapping that the caller gives."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from batch.importers.csv_mapping import SKIP
from batch.importers.csv_reader import Layout, Records, find_layout, read_records
from batch.importers.csv_rules import IDS, Check, Rules
from batch.importers.formats import Piece, Rejected, Source, as_id, rejected
from pingfeed.core.errors import InvalidInput

_valid_id = lru_cache(100_000)(as_id)


@dataclass(frozen=True)
class CsvFormat(Rules):
    """The format `csv`. A missing `delimiter` is recognised; `header` names the columns of a file without a header."""

    delimiter: str | None = None
    header: Sequence[str] = ()
    encoding: str | None = None
    escape_ids: bool = False
    name: str = "csv"
    items_first: bool = False

    @cached_property
    def options(self) -> dict[str, str]:
        """All that decides what a record becomes."""
        return {
            "format": self.name,
            "map": self.fields.text,
            "events": _text(self.types),
            "default": _text(self.defaults),
            "delimiter": self.delimiter or "",
            "separator": self.separator,
            "header": ",".join(self.header),
            "encoding": self.encoding or "",
            "escape_ids": str(self.escape_ids),
            "time_format": "\n".join(self.time_formats),
            "rating_like": str(self.rating_like),
        }

    def pieces(self, source: Source, now_ms: int) -> Iterator[Piece]:
        """The log's events in batches."""
        columns = list(dict.fromkeys(self.fields.columns.values()))
        layout = find_layout(source, self.encoding, columns, self.delimiter, self.header)
        places = {column: list(layout.names).index(column) for column in columns}
        checks = self.checks(now_ms)
        sql = self.sql(places, checks)
        lines = source.text(self.encoding)
        with duckdb.connect(config={"threads": 1, "memory_limit": "200MB"}) as database:
            database.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            for records in read_records(lines, layout, places.get(self.fields.columns.get("timestamp", ""))):
                yield self._piece(database, sql, checks, records, layout)

    def _piece(self, database: Any, sql: str, checks: Sequence[Check], records: Records, layout: Layout) -> Piece:
        database.register("records", self._table(records, layout))
        made = database.sql(sql).to_arrow_table()
        found = [
            rejected(number, line, InvalidInput(why, code="malformed"), text)
            for number, line, why, text in records.broken
        ]
        for row in made.select(["number", "problem"]).filter(pc.is_valid(made["problem"])).to_pylist():
            at = bisect_left(records.numbers, row["number"])
            found.append(self._rejected(checks[row["problem"]], records, at, layout))
        events = made.filter(pc.is_null(made["problem"])).drop_columns(["problem"])
        kept = events.filter(pc.not_equal(events["event_type"], SKIP))
        return Piece(
            records=len(records),
            events=kept.rename_columns(["seq" if name == "number" else name for name in kept.column_names]),
            rejected=sorted(found, key=lambda one: one.record),
            left_out=events.num_rows - kept.num_rows,
        )

    def _table(self, records: Records, layout: Layout) -> Any:
        """The mapped columns as text, and each record as one text."""
        cells = list(zip(*records.rows, strict=True)) or [()] * len(layout.names)
        columns: dict[str, Any] = {"number": pa.array(records.numbers, pa.int64())}
        columns["record"] = pa.array(["\x1f".join(row) for row in records.rows], pa.string())
        for name, column in self.fields.columns.items():
            place = list(layout.names).index(column)
            texts: Sequence[str] = cells[place]
            if self.escape_ids and name in IDS:
                texts = [_valid_id(text.strip(), name) if text.strip() else "" for text in texts]
            columns[f"c{place}"] = pa.array(texts, pa.string())
        return pa.table(columns)

    def _rejected(self, check: Check, records: Records, at: int, layout: Layout) -> Rejected:
        """The rejection of record `at` by a check."""
        text = self.fields.constants.get(check.field)
        if check.field in self.fields.columns:
            column = self.fields.columns[check.field]
            text = records.rows[at][list(layout.names).index(column)].strip() or self.defaults.get(column)
        error = InvalidInput(check.message(text), field=check.field, code=check.code)
        return rejected(records.numbers[at], records.lines[at], error, records.texts[at])


def _text(pairs: Mapping[str, str]) -> str:
    return ",".join(sorted(f"{name}={value}" for name, value in pairs.items()))
