"""What the log formats share: the source file, ids, rejected records, and the result for each batch of records."""

import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Final, Protocol

import msgspec

from pingfeed.core.clock import day_of
from pingfeed.core.errors import InvalidInput
from pingfeed.files import reading

UNKNOWN: Final = "unknown"
"""The creator of a ping for which the log names none."""
MAX_KEPT: Final = 10_000
"""Rejected records of one import that are explained and kept; the others are only counted."""
_MAX_BODY: Final = 1_000
MAX_LINE: Final = 1 << 20
_BUFFER: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_ID: Final = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_FREE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@-")
_MAX: Final = 128


@dataclass(frozen=True)
class Source:
    """One file. Its first bytes, not its name, say whether it is gzip."""

    path: Path

    def digest(self) -> str:
        """16 hex digits that identify the (inflated) content; InvalidInput for broken gzip."""
        found = blake2b(digest_size=8)
        with self._open() as stream:
            while chunk := stream.read(_BUFFER):
                found.update(chunk)
        return found.hexdigest()

    def lines(self) -> Iterator[bytes]:
        """The lines without their ends. InvalidInput for broken gzip and for a line over 1 MiB."""
        with self._open() as stream:
            if stream.peek(3)[:3] == _BOM:
                stream.read(3)
            for line in self._bounded(stream, b"\n"):
                yield line.removesuffix(b"\n").removesuffix(b"\r")

    def text(self, encoding: str | None) -> Iterator[str]:
        """The lines as text, ends included. Without an encoding it is UTF-16 if the first bytes say so, else UTF-8.

        A byte that is not of the encoding becomes a lone surrogate (`surrogateescape`), which no valid text holds.
        """
        with self._open() as stream:
            encoding = encoding or _encoding(stream.peek(4)[:4])
            errors = "replace" if encoding.startswith("utf-16") else "surrogateescape"
            decoded = io.TextIOWrapper(stream, encoding, errors, newline="\n")
            yield from self._bounded(decoded, "\n")

    def _bounded(self, stream: IO[Any], end: Any) -> Iterator[Any]:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), end[:0]), 1):
            if len(line) == MAX_LINE and not line.endswith(end):
                raise InvalidInput(f"line {number} of {self.path.name} is longer than 1 MiB: is this a log of lines?")
            yield line

    @contextmanager
    def _open(self) -> Iterator[io.BufferedReader]:
        with reading(str(self.path)), self.path.open("rb") as file:
            packed = file.peek(2)[:2] == _GZIP
            try:
                yield io.BufferedReader(gzip.GzipFile(fileobj=file), _BUFFER) if packed else file
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise InvalidInput(f"{self.path} is not whole gzip: {error}") from error


def _encoding(head: bytes) -> str:
    """The encoding that a file's first bytes suggest."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if head[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if head[:1] == b"\0" else "utf-8-sig"


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

    def pieces(self, source: Source, now_ms: int) -> Iterator[Piece]:
        """The log's events in batches, in the file's order."""
