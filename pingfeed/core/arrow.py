"""The wide table as Arrow columns, derived from `events.COLUMNS`, and rows as such a table.

What the disk sink writes and what the lake reads have this schema, so a Glue table of the same columns reads the files.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import pyarrow as pa
import pyarrow.json as pa_json

from pingfeed.core.errors import FormatError
from pingfeed.core.events import CLIENT_TYPES, COLUMNS, Row, decode_rows

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
_MAPPED: Final = [column.name for column in COLUMNS if column.kind.startswith("map")]
_MAPS: Final = [f'"{name}":'.encode() for name in _MAPPED]
_PLAIN_SCHEMA: Final = pa.schema([field for field in EVENT_SCHEMA if field.name not in _MAPPED])
_USUAL: Final = {"extra", "sent_ms", "seq"}.union(
    *(CLIENT_TYPES[kind].__struct_fields__ for kind in ("view", "follow"))
)
_USUAL_SCHEMA: Final = pa.schema(
    [field for field in _PLAIN_SCHEMA if field.name in _USUAL | {"event_type", "received_ms", "timestamp_ms"}]
)
"""The columns of what users do: reading costs by the column, whether it is there or not."""


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


def table_of_lines(lines: bytes) -> Any:
    """Rows as newline-delimited JSON (`events.encode_rows`) as a `pyarrow.Table` of `EVENT_SCHEMA`. FormatError.

    Arrow parses them ten times faster than Python but cannot read objects as maps: rows with such columns (events of
    the catalogue only) go through Python and come last.
    """
    plain, mapped = _apart(lines)
    tables = [_read(plain)] if plain else []
    if mapped or not tables:
        tables.append(table_of_rows(decode_rows(mapped)))
    return pa.concat_tables(tables)


def _apart(lines: bytes) -> tuple[bytes, bytes]:
    """Lines whose rows have no map, and the others (and some that only look so)."""
    if not any(name in lines for name in _MAPS):
        return lines, b""
    plain: list[bytes] = []
    mapped: list[bytes] = []
    for line in lines.splitlines(keepends=True):
        (mapped if any(name in line for name in _MAPS) else plain).append(line)
    return b"".join(plain), b"".join(mapped)


def _read(lines: bytes) -> Any:
    for schema in (_USUAL_SCHEMA, _PLAIN_SCHEMA):
        with suppress(pa.ArrowException):
            return _widened(_read_as(schema, lines))
    return table_of_rows(decode_rows(lines))  # It says which column holds what it may not.


def _read_as(schema: Any, lines: bytes) -> Any:
    return pa_json.read_json(
        pa.BufferReader(lines),
        pa_json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
    )


def _widened(table: Any) -> Any:
    """The table with every column of `EVENT_SCHEMA`."""
    for field in EVENT_SCHEMA:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(EVENT_SCHEMA.names)


def _array(rows: Sequence[Row], name: str, kind: str) -> Any:
    values = [row.get(name) for row in rows]
    convert = _CONVERTERS.get(kind)
    try:
        if convert is not None:
            values = [None if value is None else convert(value) for value in values]
        return pa.array(values, _TYPES[kind])
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise FormatError(f"the column {name} holds a value that is not of its kind, {kind}: {error}") from error
