"""The lake as a folder of this machine (or of a volume that the batch side's machines share)."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.dataset as ds

from pingfeed.core.errors import NotFound
from pingfeed.core.urls import is_hidden
from pingfeed.files import below, create_whole, reading, remove, write_whole, writing
from pingfeed.settings import url_path

PARQUET: Final = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)


class FileLake:
    """`file:///path/of/the/lake`. Names that begin with a dot or an underscore are never listed."""

    def __init__(self, url: str) -> None:
        self.root = url_path(url)

    def list(self, prefix: str, before_ms: int | None = None) -> list[str]:
        folder = below(self.root, prefix) if prefix.strip("/") else self.root
        with reading(str(folder)):
            found = (path for path in _files(folder) if before_ms is None or _written_ms(path) < before_ms)
            return sorted(path.relative_to(self.root).as_posix() for path in found)

    def read(self, path: str) -> bytes:
        with reading(path):
            return below(self.root, path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        target = below(self.root, path)
        with writing(str(target)):
            write_whole(target, data)

    def create(self, path: str, data: bytes) -> bool:
        target = below(self.root, path)
        with writing(str(target)):
            return create_whole(target, data)

    def delete(self, path: str) -> None:
        target = below(self.root, path)
        with writing(str(target)):
            remove(target)

    def dataset(self, paths: Sequence[str], schema: Any) -> Any:
        files = {path: below(self.root, path) for path in paths}
        for path, file in files.items():
            if not file.is_file():  # Arrow would say so only in the middle of a query.
                raise NotFound(f"{path} does not exist")
        return ds.dataset([str(file) for file in files.values()], schema=schema, format=PARQUET)


def _written_ms(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder that are not hidden, nor in a hidden folder."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                yield from _files(folder / entry.name)
            else:
                yield folder / entry.name
