"""An interaction log in CSV: a line an event, by a mapping that the caller gives."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from batch.importers.csv_events import EventMaker
from batch.importers.csv_text import CsvText, check_columns, header_of
from batch.importers.formats import Piece, Times
from batch.importers.mapping import FieldMap
from batch.importers.source import OnRead, Source
from batch.importers.times import read_column
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import MAX_AHEAD_MS


@dataclass(frozen=True)
class CsvLog:
    """The format `csv`. `header` names the columns of a file whose first line does not."""

    fields: FieldMap
    types: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ","
    separator: str = "|"
    header: Sequence[str] = ()
    escape_ids: bool = False
    name: str = "csv"
    needs_span: bool = False

    @cached_property
    def options(self) -> dict[str, str]:
        """All that decides what a line becomes."""
        return {
            "format": self.name,
            "map": self.fields.text,
            "events": ",".join(sorted(f"{word}={kind}" for word, kind in self.types.items())),
            "delimiter": self.delimiter,
            "separator": self.separator,
            "header": ",".join(self.header),
            "escape_ids": str(self.escape_ids),
        }

    def span(self, source: Source, now_ms: int, on_read: OnRead) -> tuple[int, int]:
        """The first and last time in the log, unreadable ones and ones in the future left out."""
        column = self.fields.columns.get("timestamp")
        if column is None:
            raise InvalidInput("a constant timestamp cannot be moved; leave --end-now away")
        reader = self._reader(source, [column])
        found: list[int] = []
        for block in source.blocks(on_read):
            times, readable = read_column(reader.texts(block).columns[column])
            times = times[readable & (times <= now_ms + MAX_AHEAD_MS)]
            if len(times):
                found = [min([*found, int(times.min())]), max([*found, int(times.max())])]
        if not found:
            raise InvalidInput(f"{source.path.name} has no time that can be read in the column {column}")
        return found[0], found[1]

    def pieces(self, source: Source, times: Times, room: int, on_read: OnRead) -> Iterator[Piece]:
        """The log's events, a block at a time."""
        reader = self._reader(source, list(dict.fromkeys(self.fields.columns.values())))
        maker = EventMaker(self.fields, self.types, separator=self.separator, escape_ids=self.escape_ids)
        for block in source.blocks(on_read):
            piece = maker.piece(reader.texts(block), times, room)
            room -= len(piece.refused)
            yield piece

    def _reader(self, source: Source, wanted: Sequence[str]) -> CsvText:
        names, line = (list(self.header), 0) if self.header else header_of(source, self.delimiter)
        check_columns(wanted, names, source)
        return CsvText(names, wanted, self.delimiter, header_line=line)
