"""Reads raw files as rows: those that sinks write under `events/`, and Firehose's failed records under `errors/`.

    events/year=/month=/day=/<any name>    Parquet (disk sink, Firehose with format conversion, imported history), or
                                           JSON documents, one a line or concatenated (Firehose without conversion)
    errors/<kind>/year=/month=/day=/<any name>    JSON lines: `rawData` (a record, base64), `arrivalTimestamp`, and
                                           `lastErrorCode`, `errorCode` or `ErrorCode` with the `...Message`

Either may be gzip; a JSON file whose documents were all deleted is a line feed. The content determines the format,
because Firehose chooses the object names; each file is read once and whole, because S3 bills requests. Missing columns
are null, unknown columns are dropped, other types are cast. An unreadable file is left out as a whole. A document that
is not a valid row is returned as `Rejected`; the other documents of its file are kept.
"""

import base64
import gzip
import hashlib
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.ticks import day_number, day_of_path
from pingfeed.core.arrow import EVENT_SCHEMA, table_of_rows
from pingfeed.core.clock import DAY_MS, day_of
from pingfeed.core.errors import FormatError
from pingfeed.core.events import Row
from pingfeed.core.glue_rows import NEEDED, documents_in, row_of
from pingfeed.ports import Lake

READERS: Final = 8
"""Files fetched in parallel."""
PARQUET, GZIP = b"PAR1", b"\x1f\x8b"
UNREADABLE: Final = (pa.ArrowException, OSError, EOFError, zlib.error, KeyError, ValueError, FormatError)
"""Errors of a damaged or archived raw file."""


class Rejected(msgspec.Struct, frozen=True):
    """A document that is not a valid row: a line under `rejected/` in the ingest service's format, plus its source.

    `received_ms` is the time of arrival, or the start of the day of arrival if only that is known.
    """

    received_ms: int
    code: str
    field: str | None
    message: str
    body: str
    source: str


@dataclass
class Read:
    """The contents of some raw files."""

    rows: pa.Table
    files: list[str] = field(default_factory=list)
    """Files that were read."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Unreadable files with the reason."""
    rejected: list[Rejected] = field(default_factory=list)


_Parsed = tuple[pa.Table, list[Rejected]]
_Document = tuple[bytes, int, str | None]
"""A document, its time of arrival, and Firehose's error."""


def read_events(lake: Lake, paths: Iterable[str]) -> Read:
    """The rows of raw files, in the order of the files. Raises Unavailable.

    Of a file under `errors/`, these are the valid rows among the records that Firehose could not convert.
    """
    found = Read(EVENT_SCHEMA.empty_table())
    tables: list[pa.Table] = []
    for one in each_events(lake, paths):
        tables.append(one.rows)
        found.files += one.files
        found.left_out |= one.left_out
        found.rejected += one.rejected
    found.rows = pa.concat_tables([found.rows, *tables])
    return found


def each_events(lake: Lake, paths: Iterable[str]) -> Iterator[Read]:
    """Like `read_events`, one file at a time: memory holds one file and the bytes of those fetched ahead."""
    for path, fetched in _fetched(lake, paths):
        try:
            data = fetched.result()
            rows, rejected = _parse(path, gzip.decompress(data) if data.startswith(GZIP) else data)
        except UNREADABLE as error:
            yield Read(EVENT_SCHEMA.empty_table(), left_out={path: str(error)})
        else:
            yield Read(rows, files=[path], rejected=rejected)


def rejected_path(source: str, rejected: list[Rejected]) -> str:
    """The file for the rejected documents of a raw file; a repeated run writes the same one."""
    day = day_of_path(source) or day_of(rejected[0].received_ms)
    return f"rejected/day={day}/raw-{hashlib.blake2b(source.encode(), digest_size=12).hexdigest()}.jsonl"


def _fetched(lake: Lake, paths: Iterable[str]) -> Iterator[tuple[str, "Future[bytes]"]]:
    """Each file's bytes, in order; a few files are fetched ahead."""
    ahead: deque[tuple[str, Future[bytes]]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for path in paths:
            ahead.append((path, pool.submit(lake.read, path)))
            if len(ahead) > READERS:
                yield ahead.popleft()
        yield from ahead


def _parse(path: str, data: bytes) -> _Parsed:
    is_error = path.startswith("errors/")
    if data.startswith(PARQUET) and not is_error:
        table = as_events(pq.read_table(pa.BufferReader(data), page_checksum_verification=True))
        table.validate(full=True)
        return _split(path, table)
    if not _is_json(data):
        raise FormatError("it is not a list of JSON documents" if is_error else "it is neither Parquet nor JSON")
    if is_error:
        return _rows_of(path, [found for line in documents_in(data) for found in _documents_of(path, line)])
    return _rows_of(path, [(document, day_ms(path), None) for document in documents_in(data)])


def _is_json(data: bytes) -> bool:
    """Whether this looks like JSON documents, or like none (a line feed); an empty file is truncated."""
    return data.lstrip().startswith(b"{") or (bool(data) and not data.strip())


def _documents_of(path: str, line: bytes) -> Iterator[_Document]:
    """The documents of the record in an error line; a line without a record is itself the document."""
    try:
        error = {name.lower(): value for name, value in msgspec.json.decode(line, type=dict[str, Any]).items()}
        record = base64.b64decode(error["rawdata"], validate=True)
        arrived_ms = int(error.get("arrivaltimestamp") or day_ms(path))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        yield line, day_ms(path), None
        return
    said = [str(error.get(f"last{name}") or error.get(name) or "") for name in ("errorcode", "errormessage")]
    for document in documents_in(record):
        yield document, arrived_ms, ": ".join(filter(None, said))


def _rows_of(path: str, documents: Iterable[_Document]) -> _Parsed:
    rows: list[Row] = []
    rejected: list[Rejected] = []
    for document, arrived_ms, said in documents:
        try:
            rows.append(row_of(document))
        except FormatError as error:
            message = f"{error.message} (Firehose: {said})" if said else error.message
            body = document.decode("utf-8", "backslashreplace")
            rejected.append(Rejected(arrived_ms, error.code, error.field, message, body, path))
    return table_of_rows(rows), rejected


def as_events(table: pa.Table) -> pa.Table:
    """The table in the columns, types and order of the schema."""
    columns = [
        table.column(column.name).cast(column.type)
        if column.name in table.column_names
        else pa.nulls(table.num_rows, column.type)
        for column in EVENT_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=EVENT_SCHEMA)


def _split(path: str, table: pa.Table) -> _Parsed:
    """The valid rows; those without an id, a type or a time are rejected."""
    whole = reduce(pc.and_, (pc.is_valid(table[name]) for name in NEEDED))
    if pc.all(whole).as_py() is not False:
        return table, []
    documents = documents_of(table.filter(pc.invert(whole)))
    return table.filter(whole), _rows_of(path, [(document, day_ms(path), None) for document in documents])[1]


def documents_of(table: pa.Table) -> list[bytes]:
    """Rows as JSON documents without nulls."""
    rows = table.to_pylist(maps_as_pydicts="lossy")
    return [msgspec.json.encode({name: value for name, value in row.items() if value is not None}) for row in rows]


def day_ms(path: str) -> int:
    """The start of the day in a raw file's path; 0 if it has none."""
    day = day_of_path(path)
    return day_number(day) * DAY_MS if day else 0
