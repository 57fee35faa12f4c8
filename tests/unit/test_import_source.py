"""A log file as blocks of lines: numbers that hold, whatever its ends of lines and its packing."""

import gzip
from pathlib import Path

import pytest

from batch.importers import formats
from batch.importers.formats import Source
from pingfeed.core.errors import InvalidInput, NotFound


def lines_of(path: Path) -> list[tuple[int, bytes]]:
    return list(enumerate(Source(path).lines(), 1))


@pytest.mark.parametrize("buffer", [7, 4 << 20])
def test_lines_lose_their_ends_and_the_byte_order_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int
) -> None:
    monkeypatch.setattr(formats, "_BUFFER", buffer)
    path = tmp_path / "log"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbfone\r\n\r\nthree\nfour \xc3\xa9\nfive"))
    expected = [b"one", b"", b"three", "four é".encode(), b"five"]
    assert lines_of(path) == list(enumerate(expected, 1))


def test_gzip_is_recognised_by_its_bytes_and_has_the_digest_of_its_content(tmp_path: Path) -> None:
    plain, packed = tmp_path / "log.gz", tmp_path / "log"
    plain.write_bytes(b"a\nb\n")
    packed.write_bytes(gzip.compress(b"a\nb\n"))
    assert lines_of(plain) == lines_of(packed) == [(1, b"a"), (2, b"b")]
    assert Source(plain).digest() == Source(packed).digest()
    packed.write_bytes(gzip.compress(b"a\nc\n"))
    assert Source(plain).digest() != Source(packed).digest()


def test_gzip_that_was_cut_off_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(b"a,b\n" * 10_000)[:-20])
    with pytest.raises(InvalidInput, match="not whole gzip"):
        Source(path).digest()


def test_a_file_of_no_lines_is_rejected_before_it_fills_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_LINE", 1000)
    path = tmp_path / "log"
    path.write_bytes(b"first\n" + b"x" * 5000)
    with pytest.raises(InvalidInput, match="line 2 of log is longer"):
        lines_of(path)


def test_an_absent_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        Source(tmp_path / "nowhere").digest()
