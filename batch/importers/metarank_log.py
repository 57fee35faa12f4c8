"""Metarank's log as a format of the importer: read in blocks, so that a long one needs no memory either."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from batch.importers.formats import Piece, Times
from batch.importers.metarank import rows_of
from batch.importers.metarank_lines import Item, Names, Reader
from batch.importers.source import OnRead, Source
from pingfeed.core.arrow import table_of_rows
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import Row


@dataclass(frozen=True)
class MetarankFormat:
    """The format `metarank`."""

    names: Names = field(default_factory=Names)
    name: str = "metarank"
    separator: str = "|"
    needs_span: bool = True

    @cached_property
    def options(self) -> dict[str, str]:
        """All that decides what a line becomes."""
        types = ",".join(sorted(f"{word}={kind}" for word, kind in self.names.types.items()))
        return {"format": self.name, "topics": self.names.topics, "creator": self.names.creator, "events": types}

    def span(self, source: Source, now_ms: int, on_read: OnRead) -> tuple[int, int]:
        """The times of the first and the last list or interaction."""
        reader, found = Reader(self.names, now_ms=now_ms), list[int]()
        for block in source.blocks(on_read):
            times = [entry.at_ms for entry in reader.entries(block) if not isinstance(entry, Item)]
            found = [min(found + times), max(found + times)] if times else found
        if not found:
            raise InvalidInput(f"{source.path.name} holds no list and no interaction of Metarank's format")
        return found[0], found[1]

    def pieces(self, source: Source, times: Times, room: int, on_read: OnRead) -> Iterator[Piece]:
        """The log's events, a block at a time."""
        for block in source.blocks(on_read):
            reader = Reader(self.names, now_ms=times.now_ms)
            entries = reader.entries(block)
            rows = [row for entry in entries for row in rows_of(entry, times.timeline, times.tick_ms)]
            events = _table(rows, times.end_ms)
            broken = reader.broken.kept[:room]
            room -= len(broken)
            yield Piece(
                lines=reader.lines,
                events=events,
                mentions=events.select(["ping_id", "received_ms"]),
                refused=broken,
                refused_count=reader.broken.count,
                left_out=reader.left_out,
                cut=reader.cut,
            )


def _table(rows: list[Row], end_ms: int) -> pa.Table:
    """Rows as a table; none is known after the end of history."""
    table = table_of_rows(rows)
    at = table.column_names.index("received_ms")
    return table.set_column(at, "received_ms", pc.min_element_wise(table["received_ms"], end_ms))
