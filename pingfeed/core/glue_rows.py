"""Rows for Firehose's format conversion: every value has its column's Glue type.

One document that does not convert sends its whole record to the error prefix, so rows are checked before they are
packed, and read by the same rules when they come back as JSON. A checked row is encoded again: whole numbers of a
double column get their point, unknown columns are left out.

The OpenX SerDe lower-cases keys, also inside maps, and has its own time formats. Neither affects a row: all names are
lower-case, and times are epoch milliseconds in bigint columns.
"""

import re
from collections.abc import Iterator, Mapping
from json import JSONDecoder
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from pingfeed.core.errors import FormatError
from pingfeed.core.events import COLUMNS, Row
from pingfeed.core.integrity import UNREADABLE

_Long = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_TYPES: Final[Mapping[str, Any]] = {
    "string": str,
    "bigint": _Long,
    "double": float,
    "array<string>": list[str | None],
    "array<bigint>": list[_Long | None],
    "array<double>": list[float | None],
    "map<string,double>": dict[str, float],
    "map<string,array<string>>": dict[str, list[str | None]],
}
NEEDED: Final = ("event_id", "event_type", "received_ms", "timestamp_ms")
"""A row without these is not an event."""

_Columns: Final = msgspec.defstruct(
    "_Columns",
    [
        (column.name, _TYPES[column.kind]) if column.name in NEEDED else (column.name, _TYPES[column.kind] | None, None)
        for column in COLUMNS
    ],
    omit_defaults=True,
    kw_only=True,
)
_DECODER: Final = msgspec.json.Decoder(_Columns)
_ENCODER: Final = msgspec.json.Encoder()
_WHERE: Final = re.compile(r" - at `(?:key in )?`?\$\.?(\w*)[^`]*`$")
_PLAIN: Final = JSONDecoder()


def converted(document: bytes) -> bytes:
    """A row's JSON as a line that converts, with its line feed; FormatError names the wrong column."""
    return _ENCODER.encode_lines([_decoded(document)])


def row_of(document: bytes) -> Row:
    """A JSON document as a row of the wide table; FormatError if a value is not of its column's type."""
    values: Row = msgspec.to_builtins(_decoded(document))
    return values


def documents_in(data: bytes) -> Iterator[bytes]:
    """The JSON documents in `data`, one per line or concatenated; the unreadable rest of a line is one piece."""
    for line in data.split(b"\n"):
        if line.strip():
            yield from _one_or_several(line.strip())


def _decoded(document: bytes) -> Any:
    try:
        return _DECODER.decode(document)
    except msgspec.ValidationError as error:
        where = _WHERE.search(str(error))
        raise FormatError(str(error), field=where[1] if where and where[1] else None) from error
    except UNREADABLE as error:
        raise FormatError(f"not a JSON document: {error}") from error


def _one_or_several(line: bytes) -> Iterator[bytes]:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except UNREADABLE:
        yield from _apart(line)
    else:
        yield line


def _apart(line: bytes) -> Iterator[bytes]:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        yield line
        return
    at = 0
    while at < len(text):
        try:
            _, end = _PLAIN.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = len(text)
        yield text[at:end].encode()
        at = end + len(text[end:]) - len(text[end:].lstrip())
