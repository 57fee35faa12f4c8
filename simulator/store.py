"""Where a history is written to: the lake, and the place beside it for the world's own files.

A folder of this machine (`var/pingfeed/lake`, beside it `var/pingfeed`), or S3 (`s3://bucket/lake`, beside it
`s3://bucket`). A file is there whole or not at all: on a disk under a name that readers ignore until it is complete.
"""

from pathlib import Path
from typing import Any, Final

import pyarrow.dataset as ds
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from pingfeed.aws import Location, arrow_file_system, arrow_translated
from pingfeed.core.errors import InvalidInput, Unavailable

_S3: Final = "s3://"


def is_elsewhere(lake: str | Path) -> bool:
    """Whether the lake is no folder of this machine."""
    return str(lake).startswith(_S3)


class Store:
    """Reads and writes files below the lake, and beside it; paths have forward slashes."""

    def __init__(self, lake: str | Path) -> None:
        self._name = str(lake)
        self._file_system, self._lake = _opened(self._name)
        self._beside, _, _ = self._lake.rpartition("/")

    def __str__(self) -> str:
        return self._name

    def files(self, folder: str) -> list[str]:
        """Every file below a folder of the lake, sorted, as paths of this store's file system; [] if there is none."""
        with arrow_translated(self._name):
            found = self._file_system.get_file_info(
                FileSelector(f"{self._lake}/{folder}", recursive=True, allow_not_found=True)
            )
        return sorted(
            one.path for one in found if one.type == FileType.File and not one.base_name.startswith((".", "_"))
        )

    def write(self, path: str, data: Any) -> None:
        """Create or replace a file of the lake."""
        self._write(f"{self._lake}/{path}", data)

    def write_beside(self, name: str, data: bytes) -> None:
        """Create or replace a file beside the lake."""
        self._write(f"{self._beside}/{name}", data)

    def read_beside(self, name: str) -> bytes | None:
        """A file beside the lake, None if it is absent."""
        path = f"{self._beside}/{name}"
        with arrow_translated(self._name):
            if self._file_system.get_file_info(path).type != FileType.File:
                return None
            with self._file_system.open_input_stream(path, compression=None) as file:
                return bytes(file.read())

    def dataset(self, files: list[str], schema: Any) -> Any:
        """Parquet files (of `files`) as one dataset."""
        return ds.dataset(files, schema=schema, format="parquet", filesystem=self._file_system)

    def _write(self, path: str, data: Any) -> None:
        if not isinstance(self._file_system, LocalFileSystem):
            return self._put(path, data)
        folder, _, name = path.rpartition("/")
        hidden = f"{folder}/.{name}"
        try:
            self._file_system.create_dir(folder)
            self._put(hidden, data)
            self._file_system.move(hidden, path)
        except OSError as error:
            raise Unavailable(f"{path} cannot be written: {error.strerror or error}") from error
        return None

    def _put(self, path: str, data: Any) -> None:
        with arrow_translated(path), self._file_system.open_output_stream(path, compression=None) as file:
            file.write(data)


def _opened(lake: str) -> tuple[FileSystem, str]:
    """The file system of a lake and the lake's path in it."""
    if not is_elsewhere(lake):
        return LocalFileSystem(), Path(lake).expanduser().absolute().as_posix()
    place = Location.of(lake)
    if not place.prefix:
        raise InvalidInput(f"{lake} leaves no room beside the lake; name a prefix, such as {lake.rstrip('/')}/lake")
    return arrow_file_system(), f"{place.bucket}/{place.prefix}"
