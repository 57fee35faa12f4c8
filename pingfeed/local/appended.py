"""A file that one process appends to while another may take lines out of it: neither loses what the other writes.

Both hold `flock` on the file while they work, and look whether it is still the one of that name: a rewrite puts another
file there (whole or not at all, as `files.write_whole` does), or none.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pingfeed.files import remove, write_whole


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


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace the file's bytes by what `change` makes of them; without any left the file goes. OSError if absent."""
    with _held(path, "r+b") as file:
        before = file.read()
        after = change(before)
        if not after:
            remove(path)
        elif after != before:
            write_whole(path, after)


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
