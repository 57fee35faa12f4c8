"""Append to a file whole lines or none, under `flock`."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def append(path: Path, data: bytes) -> None:
    """Append to the file, which is made where there is none; its folder is there. OSError."""
    with _held(path, "ab") as file:
        size = file.seek(0, os.SEEK_END)
        try:
            file.write(data)
            file.flush()
        except OSError:  # Half a line would spoil the next one.
            os.ftruncate(file.fileno(), size)
            raise


@contextmanager
def _held(path: Path, mode: str) -> Iterator[IO[bytes]]:
    """The file of that name, opened and locked; what was written is with the system when the lock goes."""
    while True:
        with path.open(mode) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):
                yield file
                return


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
