"""What the log formats share: ids, rejected records, and what the importer gets for each batch of records."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Protocol

import msgspec

from batch.importers.source import OnRead, Source
from pingfeed.core.clock import day_of
from pingfeed.core.errors import InvalidInput

UNKNOWN: Final = "unknown"
"""The creator of a ping for which the log names none."""
MAX_KEPT: Final = 10_000
"""Rejected records of one import that are explained and kept; the others are only counted."""
_MAX_BODY: Final = 1_000
_ID: Final = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_FREE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@-")
_MAX: Final = 128


def as_id(text: str, field: str) -> str:
    """A log's id as one of ours; the same text always gives the same id. InvalidInput if there is no text.

    A valid id stays as it is. In any other, each byte outside `[A-Za-z0-9._@-]` becomes `:` and two hex digits
    (percent-encoding with a colon), which can be undone. Beyond 128 characters, a digest replaces the tail.
    """
    if _ID.fullmatch(text):
        return text
    if not text:
        raise InvalidInput(f"{field} is required", field=field, code="missing_field")
    encoded = "".join(chr(byte) if byte in _FREE else f":{byte:02x}" for byte in text.encode("utf-8", "replace"))
    if len(encoded) <= _MAX:
        return encoded
    tail = blake2b(encoded.encode(), digest_size=16).hexdigest()
    return f"{encoded[: _MAX - 1 - len(tail)]}:{tail}"


def event_id(*parts: bytes) -> str:
    """The UUID (version 8, RFC 9562) that these parts determine, whatever bytes they hold."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    h = digest.hexdigest()
    return f"{h[:8]}-{h[8:12]}-8{h[13:16]}-{'89ab'[int(h[16], 16) & 3]}{h[17:20]}-{h[20:]}"


class Rejected(msgspec.Struct, frozen=True):
    """Why one record was not imported. Both numbers begin at 1; a header is a line and no record."""

    record: int
    line: int
    code: str
    field: str | None
    message: str
    body: str


def rejected(record: int, line: int, error: InvalidInput, body: str) -> Rejected:
    """A rejection of a record with this text."""
    return Rejected(record, line, error.code, error.field, error.message, body[:_MAX_BODY])


class Rejections:
    """All rejections of one import: every one counted, the first `MAX_KEPT` kept."""

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[Rejected] = []
        self.reasons: Counter[tuple[str, str | None]] = Counter()
        """How often each code and field was the reason."""
        self.examples: dict[tuple[str, str | None], str] = {}
        """The first sentence for each of them."""

    def add(self, found: list[Rejected]) -> None:
        """Take in a batch's rejections."""
        self.count += len(found)
        self.kept += found[: max(0, MAX_KEPT - len(self.kept))]
        for one in found:
            self.reasons[one.code, one.field] += 1
            self.examples.setdefault((one.code, one.field), one.message)

    def as_file(self, source: str, at_ms: int) -> bytes:
        """What is kept, as the JSON lines of a file of `rejected_path`."""
        about = {"received_ms": at_ms, "source": source}
        return msgspec.json.Encoder().encode_lines(about | msgspec.to_builtins(one) for one in self.kept)


def rejected_path(name: str, at_ms: int) -> str:
    """Where an import's rejected records are kept, relative to the lake."""
    return f"rejected/day={day_of(at_ms)}/import-{name}.jsonl"


@dataclass(frozen=True)
class Piece:
    """What came of some records."""

    records: int
    events: Any
    """A `pyarrow.Table` of `staging.STAGED` columns."""
    rejected: list[Rejected]
    left_out: int = 0
    """Records that are no mistake and have no counterpart here."""
    cut: int = 0
    """Labels that lost characters or had no room."""


class Format(Protocol):
    """One way of writing a log, with the caller's options."""

    @property
    def name(self) -> str:
        """What the format is called."""

    @property
    def options(self) -> Mapping[str, str]:
        """All that decides what a record becomes: with the same content, the same options give the same events."""

    @property
    def items_first(self) -> bool:
        """Whether each ping is to be known one tick before its own time, and before the first act."""

    def pieces(self, source: Source, now_ms: int, on_read: OnRead) -> Iterator[Piece]:
        """The log's events in batches, in the file's order."""
