"""A log file, plain or gzip, as lines: memory holds one line and a buffer, however long the file is."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Final

from pingfeed.core.errors import InvalidInput
from pingfeed.files import reading

MAX_LINE: Final = 1 << 20
_BUFFER: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"

OnRead = Callable[[int], None]
"""Called with the number of bytes of the file that have been read so far."""


def ignore_progress(_read: int) -> None:
    """An `OnRead` that does nothing."""


@dataclass(frozen=True)
class Source:
    """One file. Its first bytes, not its name, say whether it is gzip."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes of the file itself."""
        with reading(str(self.path)):
            return self.path.stat().st_size

    def digest(self, on_read: OnRead = ignore_progress) -> str:
        """16 hex digits that identify the (inflated) content; InvalidInput for broken gzip."""
        found = blake2b(digest_size=8)
        with self._open() as (file, stream):
            while chunk := stream.read(_BUFFER):
                on_read(file.tell())
                found.update(chunk)
        return found.hexdigest()

    def lines(self, on_read: OnRead = ignore_progress) -> Iterator[bytes]:
        """The lines without their ends. InvalidInput for broken gzip and for a line over 1 MiB."""
        with self._open() as (file, stream):
            if stream.peek(3)[:3] == _BOM:
                stream.read(3)
            for line in self._bounded(stream, b"\n", file, on_read):
                yield line.removesuffix(b"\n").removesuffix(b"\r")

    def text(self, encoding: str | None, on_read: OnRead = ignore_progress) -> Iterator[str]:
        """The lines as text, ends included. Without an encoding it is UTF-16 if the first bytes say so, else UTF-8.

        A byte that is not of the encoding becomes a lone surrogate (`surrogateescape`), which no valid text holds.
        """
        with self._open() as (file, stream):
            encoding = encoding or _encoding(stream.peek(4)[:4])
            errors = "replace" if encoding.startswith("utf-16") else "surrogateescape"
            decoded = io.TextIOWrapper(stream, encoding, errors, newline="\n")
            yield from self._bounded(decoded, "\n", file, on_read)

    def _bounded(self, stream: IO[Any], end: Any, file: IO[bytes], on_read: OnRead) -> Iterator[Any]:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), end[:0]), 1):
            if len(line) == MAX_LINE and not line.endswith(end):
                raise InvalidInput(f"line {number} of {self.path.name} is longer than 1 MiB: is this a log of lines?")
            if number % 8192 == 0:
                on_read(file.tell())
            yield line

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], io.BufferedReader]]:
        with reading(str(self.path)), self.path.open("rb") as file:
            packed = file.peek(2)[:2] == _GZIP
            try:
                yield file, io.BufferedReader(gzip.GzipFile(fileobj=file), _BUFFER) if packed else file
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise InvalidInput(f"{self.path} is not whole gzip: {error}") from error


def _encoding(head: bytes) -> str:
    """The encoding that a file's first bytes suggest."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if head[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if head[:1] == b"\0" else "utf-8-sig"
