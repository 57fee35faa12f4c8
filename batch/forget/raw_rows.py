"""Forgotten users' rows in raw files: which files hold some, and those files without them.

A file keeps its name, for the ledger knows it by that, and its format: Parquet with its columns and its metadata, JSON
documents, Firehose's errors with the record inside them; gzip or not. Where no document is left, a line feed is. To
look, only the columns that say whose a row is are read of a Parquet file; one that Firehose named otherwise, and JSON,
is read whole. A document that is no row goes if it mentions the user and arrived on a day that had begun by then.
"""

import base64
import gzip
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.accounting.landed import Key, key_of
from batch.forget.forgotten import CONTENT, Forgotten, is_content
from batch.forget.rejected_lines import Acceptance, acceptances_of
from batch.lake.raw_files import GZIP, PARQUET, as_events, day_ms, documents_of
from pingfeed.core.arrow import EVENT_SCHEMA
from pingfeed.core.errors import FormatError
from pingfeed.core.glue_rows import documents_in, row_of
from pingfeed.ports import Lake

_KEYS: Final = pa.schema([EVENT_SCHEMA.field(n) for n in ("user_id", "event_id", "event_type", "received_ms")])
_WHOSE: Final = pa.schema([EVENT_SCHEMA.field(name) for name in ("user_id", "received_ms")])
_CLOCK: Final = "received_ms"


@dataclass
class Sifted:
    """Documents without the forgotten ones."""

    kept: list[bytes] = field(default_factory=list)
    gone: list[Acceptance] = field(default_factory=list)
    changed: bool = False


def held(lake: Lake, path: str, forgotten: Forgotten) -> list[Acceptance] | None:
    """The acceptances of forgotten users that a raw file holds; None if it need not be written anew.

    Content keeps its row, so it is no acceptance that goes. Raises one of `raw_files.UNREADABLE`, or Unavailable.
    """
    if path.endswith(".parquet"):
        try:
            return _held_in_columns(lake, path, forgotten)
        except pa.ArrowException:
            pass  # It may be something else by that name.
    data = _unpacked(lake.read(path))
    if data.startswith(PARQUET):
        return _gone(as_events(pq.read_table(pa.BufferReader(data))), forgotten)
    sifted = _sifted(path, data, forgotten)
    return sifted.gone if sifted.changed else None


def remove(lake: Lake, path: str, forgotten: Forgotten) -> None:
    """Write a raw file anew, without the rows of forgotten users."""
    data = lake.read(path)
    unpacked = _unpacked(data)
    if unpacked.startswith(PARQUET):
        lake.write(path, without_rows(unpacked, forgotten, _CLOCK))
        return
    kept = b"".join(document + b"\n" for document in _sifted(path, unpacked, forgotten).kept)
    lake.write(path, gzip.compress(kept or b"\n", mtime=0) if data.startswith(GZIP) else kept or b"\n")


def without_rows(data: bytes, forgotten: Forgotten, clock: str) -> bytes:
    """A Parquet file without the rows of forgotten users; its schema and its metadata are the same."""
    table = pq.read_table(pa.BufferReader(data))
    kept = forgotten.without(table, clock).replace_schema_metadata(table.schema.metadata)
    buffer = pa.BufferOutputStream()
    pq.write_table(kept, buffer, compression="zstd")
    written: bytes = buffer.getvalue().to_pybytes()
    return written


def _held_in_columns(lake: Lake, path: str, forgotten: Forgotten) -> list[Acceptance] | None:
    if forgotten.rows(lake.dataset([path], _WHOSE).to_table(), _CLOCK) is None:
        return None
    keys = lake.dataset([path], _KEYS).to_table()
    if keys["event_id"].null_count:
        keys = lake.dataset([path], EVENT_SCHEMA).to_table()  # What has no id is told apart by all that it says.
    return _gone(keys, forgotten)


def _gone(table: pa.Table, forgotten: Forgotten) -> list[Acceptance] | None:
    rows = forgotten.rows(table, _CLOCK)
    if rows is None:
        return None
    found = table.filter(rows)
    acts = found.filter(pc.invert(is_content(found))) if "event_type" in found.column_names else found
    names = ("user_id", "event_id", _CLOCK)
    keys = list(zip(*(acts[name].to_pylist() for name in names), strict=True))
    if all(None not in key for key in keys):
        return keys
    return [(user_id, key[1], key[2]) for (user_id, *_), key in zip(keys, _keys_of(acts), strict=True) if key]


def _keys_of(acts: pa.Table) -> list[Key | None]:
    """What rows without an id or a time count as, if anything: they are no rows."""
    return [key_of(document.decode()) for document in documents_of(acts)]


def _unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(GZIP) else data


def _sifted(path: str, data: bytes, forgotten: Forgotten) -> Sifted:
    sift = _sift_error if path.startswith("errors/") else _sift
    found = Sifted()
    for document in documents_in(data):
        sift(document, day_ms(path), forgotten, found)
    return found


def _sift(document: bytes, at_ms: int, forgotten: Forgotten, found: Sifted) -> None:
    """Take a document in, or leave it out."""
    try:
        row = row_of(document)
    except FormatError:
        text = document.decode("utf-8", "backslashreplace")
        whose = forgotten.mentioned(text, at_ms)
        if not whose:
            found.kept.append(document)
            return
        found.changed = True
        found.gone += acceptances_of(text, whose)
        return
    user_id: str = row.get("user_id") or ""
    until = forgotten.until(user_id)
    if until is None or row[_CLOCK] > until:
        found.kept.append(document)
        return
    found.changed = True
    if row["event_type"] in CONTENT:
        found.kept.append(_without_user(document))
    else:
        found.gone.append((user_id, row["event_id"], row[_CLOCK]))


def _without_user(document: bytes) -> bytes:
    values = msgspec.json.decode(document, type=dict[str, Any])
    del values["user_id"]
    return msgspec.json.encode(values)


def _sift_error(line: bytes, at_ms: int, forgotten: Forgotten, found: Sifted) -> None:
    """The same for the record that a line of Firehose's errors is about; a line about none is a document itself."""
    try:
        error = msgspec.json.decode(line, type=dict[str, Any])
        name = next(name for name in error if name.lower() == "rawdata")
        record = base64.b64decode(error[name], validate=True)
    except (msgspec.DecodeError, StopIteration, TypeError, ValueError):
        _sift(line, at_ms, forgotten, found)
        return
    inner = _record(documents_in(record), at_ms, forgotten)
    if not inner.changed:
        found.kept.append(line)
        return
    found.changed = True
    found.gone += inner.gone
    if inner.kept:
        packed = base64.b64encode(b"".join(document + b"\n" for document in inner.kept))
        found.kept.append(msgspec.json.encode(error | {name: packed.decode()}))


def _record(documents: Iterable[bytes], at_ms: int, forgotten: Forgotten) -> Sifted:
    found = Sifted()
    for document in documents:
        _sift(document, at_ms, forgotten, found)
    return found
