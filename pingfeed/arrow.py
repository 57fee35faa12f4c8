"""The wide table as Arrow columns, derived from `events.COLUMNS`, and rows as such a table.

What the disk sink writes and what the lake reads have this schema, so a Glue table of the same columns reads the files.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from pingfeed.errors import FormatError
from pingfeed.events import COLUMNS, Row

_TYPES: Final[Mapping[str, Any]] = {
    "string": pa.string(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "array<string>": pa.list_(pa.string()),
    "array<bigint>": pa.list_(pa.int64()),
    "array<double>": pa.list_(pa.float64()),
    "map<string,double>": pa.map_(pa.string(), pa.float64()),
    "map<string,array<string>>": pa.map_(pa.string(), pa.list_(pa.string())),
}

EVENT_SCHEMA: Final = pa.schema([pa.field(column.name, _TYPES[column.kind]) for column in COLUMNS])
"""The `pyarrow.Schema` of every events file: `events.COLUMNS` in order, all nullable."""


def _doubles(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else float(value) for value in values]


def _named_doubles(values: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in values.items()]


_CONVERTERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    # JSON writes 1.0 as 1 and a client may send an integer that no int64 holds: Arrow wants doubles to be doubles.
    "double": float,
    "array<double>": _doubles,
    "map<string,double>": _named_doubles,
    "map<string,array<string>>": lambda value: list(value.items()),
}


def table_of_rows(rows: Sequence[Row]) -> Any:
    """Rows as a `pyarrow.Table` of `EVENT_SCHEMA`, in order; a column that a row lacks is null there.

    Raises FormatError if a value is not of its column's kind; rows of `events.to_row` and `served_row` always are.
    """
    return pa.Table.from_arrays([_array(rows, column.name, column.kind) for column in COLUMNS], schema=EVENT_SCHEMA)


def _array(rows: Sequence[Row], name: str, kind: str) -> Any:
    values = [row.get(name) for row in rows]
    convert = _CONVERTERS.get(kind)
    try:
        if convert is not None:
            values = [None if value is None else convert(value) for value in values]
        return pa.array(values, _TYPES[kind])
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise FormatError(f"the column {name} holds a value that is not of its kind, {kind}: {error}") from error
