"""A log file, plain or gzip, as blocks of whole lines: memory holds a block, however long the file is."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Final

from pingfeed.core.errors import InvalidInput
from pingfeed.files import reading

BLOCK_BYTES: Final = 4 << 20
MAX_LINE_BYTES: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"

OnRead = Callable[[int], None]
"""Hears how many bytes of the file itself have been read so far."""


def _ignore(_read: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Block:
    """Some lines: `first` is the number of the first (1 is the file's first), `lines` are without their line feeds."""

    first: int
    lines: list[bytes]


@dataclass(frozen=True)
class Source:
    """One file. Whether it is gzip is told by its first bytes, not by its name."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes of the file itself."""
        with reading(str(self.path)):
            return self.path.stat().st_size

    def digest(self, on_read: OnRead = _ignore) -> str:
        """16 hex digits that the content (inflated) determines; InvalidInput for broken gzip."""
        found = blake2b(digest_size=8)
        for chunk in self._chunks(on_read):
            found.update(chunk)
        return found.hexdigest()

    def blocks(self, on_read: OnRead = _ignore) -> Iterator[Block]:
        """The lines in order. A line feed ends a line, a carriage return before it goes with it.

        InvalidInput for broken gzip, and for a line that is longer than any log's: it is no text.
        """
        first, rest = 1, b""
        for chunk in self._chunks(on_read):
            whole, feed, rest = (rest + chunk).rpartition(b"\n")
            if feed:
                lines = _lines(whole, first)
                yield Block(first, lines)
                first += len(lines)
            if len(rest) > MAX_LINE_BYTES:
                raise InvalidInput(f"line {first} of {self.path.name} is longer than 1 MiB: this is no log of lines")
        if rest:
            yield Block(first, _lines(rest, first))

    def _chunks(self, on_read: OnRead) -> Iterator[bytes]:
        with reading(str(self.path)), self.path.open("rb") as file, self._inflated(file) as stream:
            while chunk := stream.read(BLOCK_BYTES):
                on_read(file.tell())
                yield chunk

    @contextmanager
    def _inflated(self, file: IO[bytes]) -> Iterator[IO[bytes]]:
        packed = file.read(2) == _GZIP
        file.seek(0)
        try:
            yield gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[misc]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InvalidInput(f"{self.path} is not whole gzip: {error}") from error


def _lines(whole: bytes, first: int) -> list[bytes]:
    if first == 1:
        whole = whole.removeprefix(_BOM)
    if b"\r\n" in whole or whole.endswith(b"\r"):
        whole = whole.replace(b"\r\n", b"\n").removesuffix(b"\r")
    return whole.split(b"\n")
