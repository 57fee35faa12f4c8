"""Blocks of CSV lines as columns of text: fast where lines are as they should be, line by line where they are not.

A record is a line: a quoted field may hold the delimiter, and not a line feed. A line that is broken (another number
of fields, a quotation mark that is never closed, bytes that are not UTF-8) is told apart before it can swallow its
neighbours.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from batch.importers.source import Block, Source
from pingfeed.core.errors import InvalidInput

_QUOTE: Final = b'"'
Broken = tuple[int, bytes, InvalidInput]
"""A line's number, its bytes, and what is wrong."""


@dataclass(frozen=True)
class Texts:
    """n records: `columns` by name, `pyarrow.StringArray`, trimmed, null where there is nothing."""

    numbers: NDArray[np.int64]
    lines: list[bytes]
    columns: Mapping[str, Any]
    broken: list[Broken]


class CsvText:
    """Reads blocks of one file. `wanted` are the columns to read, `names` those that its lines have."""

    def __init__(self, names: Sequence[str], wanted: Sequence[str], delimiter: str, *, header_line: int = 0) -> None:
        self._names = list(names)
        self._wanted = {name: self._names.index(name) for name in wanted}
        self._delimiter = delimiter
        self._header_line = header_line

    def texts(self, block: Block) -> Texts:
        """The block's records; blank lines and the header are none."""
        numbers, lines, broken = self._sound(block)
        columns, kept = self._parsed(lines)
        if kept is None:
            columns, kept = self._one_by_one(lines)
        for at, problem in kept.broken:
            broken.append((numbers[at], lines[at], problem))
        good = kept.good.tolist()
        trimmed = {name: _trimmed(column) for name, column in columns.items()}
        broken.sort(key=lambda one: one[0])
        return Texts(np.array(numbers, np.int64)[kept.good], [lines[at] for at in good], trimmed, broken)

    def _sound(self, block: Block) -> tuple[list[int], list[bytes], list[Broken]]:
        """The lines that can stand beside others in one buffer; the others with what is wrong with them."""
        numbers: list[int] = []
        lines: list[bytes] = []
        broken: list[Broken] = []
        whole = b"\n".join(block.lines)
        plain = _QUOTE not in whole and b"\r" not in whole and _is_utf8(whole)
        for number, line in enumerate(block.lines, block.first):
            if number == self._header_line or not line or line.isspace():
                continue
            problem = None if plain else self._unsound(line)
            if problem is None:
                numbers.append(number)
                lines.append(line)
            else:
                broken.append((number, line, InvalidInput(problem, code="malformed")))
        return numbers, lines, broken

    def _unsound(self, line: bytes) -> str | None:
        if not _is_utf8(line):
            return "the line is not UTF-8"
        if b"\r" in line:
            return "the line holds a carriage return"
        quoted = line.startswith(_QUOTE) or self._delimiter.encode() + _QUOTE in line
        return "a quotation mark is never closed" if quoted and line.count(_QUOTE) % 2 else None

    def _parsed(self, lines: list[bytes]) -> "tuple[dict[str, pa.Array], _Kept | None]":
        """All lines at once; no `_Kept` where the records are not one a line."""
        wrong: list[tuple[int, int]] = []

        def skip(row: Any) -> str:
            wrong.append((row.number - 1, row.actual_columns))
            return "skip"

        body = b"\n".join(lines) + b"\n"
        numbered = [f"c{at}" for at in range(len(self._names))]
        table = pacsv.read_csv(
            pa.BufferReader(body),
            read_options=pacsv.ReadOptions(column_names=numbered, use_threads=False, block_size=len(body) + 1),
            parse_options=pacsv.ParseOptions(
                delimiter=self._delimiter, invalid_row_handler=skip, ignore_empty_lines=False
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=[numbered[at] for at in self._wanted.values()],
                column_types=dict.fromkeys(numbered, pa.string()),
                check_utf8=False,
                strings_can_be_null=False,
            ),
        )
        if table.num_rows + len(wrong) != len(lines):
            return {}, None
        good = np.delete(np.arange(len(lines)), [at for at, _ in wrong])
        columns = {name: table[f"c{at}"].combine_chunks() for name, at in self._wanted.items()}
        return columns, _Kept(good, [(at, self._miscounted(found)) for at, found in wrong])

    def _one_by_one(self, lines: list[bytes]) -> "tuple[dict[str, pa.Array], _Kept]":
        """Each line on its own: a quotation mark somewhere swallows its neighbours otherwise."""
        good: list[int] = []
        rows: list[list[str]] = []
        wrong: list[tuple[int, InvalidInput]] = []
        for at, line in enumerate(lines):
            fields, problem = _fields(line.decode(), self._delimiter), None
            if fields is None:
                problem = InvalidInput("the line's quotation marks do not match", code="malformed")
            elif len(fields) != len(self._names):
                problem = self._miscounted(len(fields))
            if problem is not None:
                wrong.append((at, problem))
            elif fields is not None:
                good.append(at)
                rows.append(fields)
        columns = {name: pa.array([row[at] for row in rows], pa.string()) for name, at in self._wanted.items()}
        return columns, _Kept(np.array(good, np.int64), wrong)

    def _miscounted(self, found: int) -> InvalidInput:
        fields = "field" if found == 1 else "fields"
        return InvalidInput(f"the line has {found} {fields}, the header {len(self._names)}", code="malformed")


@dataclass(frozen=True)
class _Kept:
    """Which of some lines are records, and what is wrong with the others."""

    good: NDArray[np.int64]
    broken: list[tuple[int, InvalidInput]]


def header_of(source: Source, delimiter: str) -> tuple[list[str], int]:
    """The names in the first line that is not blank, and that line's number; InvalidInput if there is none."""
    for block in source.blocks():
        for number, line in enumerate(block.lines, block.first):
            if line.strip():
                names = _fields(line.decode("utf-8", "replace"), delimiter)
                return [name.strip() for name in names or []], number
    raise InvalidInput(f"{source.path} is empty")


def check_columns(wanted: Sequence[str], names: Sequence[str], source: Source) -> None:
    """InvalidInput if a column that the mapping names is not there, or there twice."""
    for name in wanted:
        if names.count(name) == 0:
            there = ", ".join(names)
            raise InvalidInput(
                f"{source.path.name} has no column {name}; its first line names {there}. "
                "Say --delimiter if they are divided otherwise, --header if the first line is no header"
            )
        if names.count(name) > 1:
            raise InvalidInput(f"{source.path.name} has more than one column {name}")


def _fields(line: str, delimiter: str) -> list[str] | None:
    """One line's fields; None if its quotation marks do not match."""
    try:
        return next(csv.reader(io.StringIO(line), delimiter=delimiter, strict=True))
    except csv.Error:
        return None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _trimmed(column: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
