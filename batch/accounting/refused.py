"""The refused events in the lake, as they lie under `rejected/day=YYYY-MM-DD/<file>.jsonl`, a line each.

The ingest service wrote them (`ingest_api/rejected.py`), or a run of the batch side did for a document of the raw zone
that is no row (`raw-*.jsonl`, `batch/lake/raw_files.py`); the body of the second kind is a row, not an event. A line
that cannot be read, as a kill leaves the last one, is passed over.

For a person and for `replay` each is one JSON object a line, with the body as it was sent, so that it can be edited:

    {"id": "5f0c...", "path": "rejected/day=2026-11-22/x.jsonl", "received_ms": 1795348800000, "code": "out_of_range",
     "field": "watch_time_ratio", "message": "...", "body": {"event_type": "view", ...}}

`id` is a digest of the line in the lake, and with `path` says which line that is. A body that is no JSON is a string.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from batch.rejected_files import keep_lines
from pingfeed.core.clock import day_of
from pingfeed.ports import Lake

_ROOT: Final = "rejected"
_FILE: Final = re.compile(r"rejected/day=\d{4}-\d{2}-\d{2}/[^/]+\.jsonl")


class _Line(msgspec.Struct):
    received_ms: int
    code: str
    field: str | None
    message: str
    body: str


class _Shown(msgspec.Struct):
    """One refused event as `rejected list --json` prints it."""

    id: str
    path: str
    received_ms: int
    code: str
    field: str | None
    message: str
    body: msgspec.Raw


@dataclass(frozen=True)
class Refused:
    """One refused event."""

    id: str
    path: str
    received_ms: int
    code: str
    field: str | None
    message: str
    body: bytes

    @property
    def day(self) -> str:
        """The UTC day of its arrival."""
        return day_of(self.received_ms)


def refused(lake: Lake, day: str | None = None, code: str | None = None) -> Iterator[Refused]:
    """What lies there, of a day and with a reason if these are given, oldest day first. Raises Unavailable."""
    for path in lake.list(f"{_ROOT}/day={day}" if day else _ROOT):
        for line in lake.read(path).splitlines() if path.endswith(".jsonl") else ():
            try:
                found = msgspec.json.decode(line, type=_Line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if code is None or found.code == code:
                body = found.body.encode()
                yield Refused(id_of(line), path, found.received_ms, found.code, found.field, found.message, body)


def is_of_import(path: str) -> bool:
    """Whether a file of refused events holds lines of somebody's log that could not be imported."""
    return path.rpartition("/")[2].startswith("import-")


def summarised(found: Iterable[Refused]) -> dict[tuple[str, str], tuple[int, Refused]]:
    """How many were refused by day and reason, and the first of each."""
    summary: dict[tuple[str, str], tuple[int, Refused]] = {}
    for one in found:
        count, first = summary.get((one.day, one.code), (0, one))
        summary[one.day, one.code] = count + 1, first
    return dict(sorted(summary.items()))


def id_of(line: bytes) -> str:
    """The digest that names a line, its line feed left out."""
    return hashlib.blake2b(line, digest_size=16).hexdigest()


def is_of_raw_zone(path: str) -> bool:
    """Whether a file of refused events holds documents that are no rows, and not what clients sent."""
    return path.rpartition("/")[2].startswith("raw-")


def shown(one: Refused) -> bytes:
    """A refused event as a line to be edited, its line feed included."""
    body = msgspec.Raw(_as_json(one.body))
    line = _Shown(one.id, one.path, one.received_ms, one.code, one.field, one.message, body)
    return msgspec.json.encode(line) + b"\n"


def remove(lake: Lake, root: Path | None, taken: Mapping[str, AbstractSet[str]]) -> int:
    """Take lines out of their files, by path and id; how many went. `root` is the lake's folder where it is one.

    A service may be appending to a file of a folder: then nothing of that is lost. Elsewhere a file is complete.
    A path where no refused events lie (any more) loses nothing, nor does a file of the raw zone's documents: its lines
    say that these have landed (`landed.py`), which `reconcile` would miss. Raises Unavailable.
    """
    return sum(_remove(lake, root, path, ids) for path, ids in taken.items())


def _remove(lake: Lake, root: Path | None, path: str, ids: AbstractSet[str]) -> int:
    if not _FILE.fullmatch(path) or is_of_raw_zone(path) or path not in lake.list(path.rpartition("/")[0]):
        return 0
    return keep_lines(lake, root, path, lambda line: id_of(line.rstrip(b"\r\n")) not in ids)


def _as_json(body: bytes) -> bytes:
    """The body's own bytes on one line if they are JSON, else the text as a string."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.encode(body.decode())
    return body.replace(b"\n", b" ").replace(b"\r", b" ")
