"""CSV records by Python's `csv` module, with recovery: a broken record never takes the following ones with it.

A quoted field may hold delimiters, quotation marks and line feeds. Where a quotation mark is not closed properly, only
the line that opens it is rejected and reading resumes at the next line.
"""

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from batch.importers.formats import Source
from pingfeed.core.errors import InvalidInput

BATCH: Final = 20_000
"""Records that are checked at once."""
_DELIMITERS: Final = ",\t;|"
Broken = tuple[int, int, str, str]
"""A record's number, its first line's, what is wrong with it, and its text."""


@dataclass
class Records:
    """Some records; `rows[i]` has number `numbers[i]` and begins at line `lines[i]` (both begin at 1)."""

    numbers: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows) + len(self.broken)

    def add(self, number: int, line: int, row: list[str], text: str, encoding: str) -> None:
        """Take in one record; reject it if it holds bytes outside the file's encoding."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raw = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            problem = f"the record is not {encoding}; --encoding names another encoding, such as cp1252"
            self.broken.append((number, line, problem, raw))
            return
        self.numbers.append(number)
        self.lines.append(line)
        self.rows.append(row)
        self.texts.append(text)


@dataclass(frozen=True)
class Layout:
    """How a file's records are written."""

    names: Sequence[str]
    """The columns."""
    delimiter: str
    header_line: int = 0
    """The number of the line that names the columns, 0 if none does."""
    encoding: str = "UTF-8"


def find_layout(
    source: Source, encoding: str | None, wanted: Sequence[str], delimiter: str | None, header: Sequence[str]
) -> Layout:
    """Read the header (unless one is given) and, without a given delimiter, recognise it by the wanted columns.

    InvalidInput if a wanted column is missing or is there twice.
    """
    number, line = next(((n, one) for n, one in enumerate(source.text(encoding), 1) if one.strip()), (0, ""))
    if not line:
        raise InvalidInput(f"{source.path} is empty")
    layouts = []
    for one in delimiter or _DELIMITERS:
        cells = _cells(line, one)
        names, header_line = (header, 0) if header else (cells, number)
        layouts.append(Layout(names, one, header_line, encoding or "UTF-8"))
        if len(cells) == len(header) if header else set(wanted) <= set(cells):
            break
    else:
        layouts = layouts[:1]
    _check_columns(wanted, layouts[-1].names, source)
    return layouts[-1]


def read_records(lines: Iterator[str], layout: Layout, time_column: int | None) -> Iterator[Records]:
    """The file's records in batches. Blank lines and the header are not records."""
    found, number, source = Records(), 0, _Lines(lines)
    reader = csv.reader(source, delimiter=layout.delimiter, strict=True)
    width = len(layout.names)
    while True:
        source.begin()
        line = source.before + 1
        try:
            row, problem = next(reader), ""
        except StopIteration:
            break
        except csv.Error as error:
            row, problem = [], _explain(error, source.taken)
        if not problem and len(source.taken) == 1 and (line == layout.header_line or _is_blank(row)):
            continue
        number += 1
        if not problem and len(row) != width:
            fields = "field" if len(row) == 1 else "fields"
            problem = f"the record has {len(row)} {fields}, the header {width}"
        if len(source.taken) > 1 and (problem or _swallowed(source.taken, layout, time_column)):
            problem = "a quotation mark is never closed"
        if problem:
            source.resume_after_first()
            reader = csv.reader(source, delimiter=layout.delimiter, strict=True)
            found.broken.append((number, line, problem, source.taken[0].rstrip("\r\n")))
        else:
            found.add(number, line, row, "".join(source.taken).rstrip("\r\n"), layout.encoding)
        if len(found) >= BATCH:
            yield found
            found = Records()
    if len(found):
        yield found


class _Lines(Iterator[str]):
    """Lines that can be put back: `taken` are those of the current record, `before` counts those before it."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._back: deque[str] = deque()
        self.taken: list[str] = []
        self.before = 0

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.taken.append(line)
        return line

    def begin(self) -> None:
        """Begin a record."""
        self.before += len(self.taken)
        self.taken = []

    def resume_after_first(self) -> None:
        """Put all but the current record's first line back."""
        self._back.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _swallowed(taken: Sequence[str], layout: Layout, time_column: int | None) -> bool:
    """Whether a line within a quoted field looks like a record itself: as wide, with a time.

    The last line, which closes the field, has an odd number of quotation marks and is no record of its own.
    """
    for line in taken[1:] if taken[-1].count('"') % 2 == 0 else taken[1:-1]:
        if line.count(layout.delimiter) >= len(layout.names) - 1:
            cells = _cells(line, layout.delimiter)
            if len(cells) == len(layout.names) and (time_column is None or any(map(str.isdigit, cells[time_column]))):
                return True
    return False


def _cells(line: str, delimiter: str) -> list[str]:
    """The trimmed cells of one line."""
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]


def _is_blank(row: list[str]) -> bool:
    return not row or (len(row) == 1 and not row[0].strip())


def _explain(error: csv.Error, taken: Sequence[str]) -> str:
    if "new-line character" in str(error):
        return "the line holds a carriage return"
    if len(taken) > 1 or "end of data" in str(error):
        return "a quotation mark is never closed"
    return "the record's quotation marks do not match"


def _check_columns(wanted: Sequence[str], names: Sequence[str], source: Source) -> None:
    for name in wanted:
        if name not in names:
            raise InvalidInput(
                f"{source.path.name} has no column {name}; its first line names {', '.join(names)}. "
                "Use --delimiter if another character separates columns, --header if the first line is no header"
            )
        if list(names).count(name) > 1:
            raise InvalidInput(f"{source.path.name} has more than one column {name}")
