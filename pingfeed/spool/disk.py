"""The few calls that the spool makes to the disk, so that tests can replace it with one that fails.

Every call raises OSError as the system does. A power cut may undo, wholly or in part, anything that was not synced.
"""

import errno
import fcntl
import os
import sys
from pathlib import Path
from typing import Final

from pingfeed.files import make_folder, sync_folder, write_whole

RESERVE_BYTES: Final = 32 << 20
RESERVE_SHARE: Final = 16
"""Appends leave this many bytes free, or this share of the disk if that is less. Delivery needs them to make room: it
writes a new tally and, if the lake is on the same disk, the file of one batch."""


class Disk:
    """A folder's files, appended to and removed. Handles are file descriptors, or stand for them in tests."""

    def make_folder(self, folder: Path) -> None:
        """Create a folder and its parents durably, unless they exist."""
        make_folder(folder)

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, sorted."""
        return sorted(os.listdir(folder))

    def spare(self, folder: Path) -> int:
        """How many bytes may be appended below a folder before only the reserve is left."""
        found = os.statvfs(folder)
        if not found.f_blocks:  # The file system does not say.
            return sys.maxsize
        reserve = min(RESERVE_BYTES, found.f_blocks * found.f_frsize // RESERVE_SHARE)
        return max(0, found.f_bavail * found.f_frsize - reserve)

    def read(self, path: Path) -> bytes:
        """A file's bytes."""
        return path.read_bytes()

    def create(self, path: Path) -> int:
        """Create a file durably and return its handle. An older file of that name is emptied."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            sync_folder(path.parent)
        except OSError:
            os.close(handle)
            raise
        return handle

    def write(self, handle: int, data: bytes) -> None:
        """Append all of the bytes; after an error some of them may be there."""
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]

    def sync(self, handle: int) -> None:
        """Return once everything written is durable, including the file's length.

        On macOS that takes F_FULLFSYNC: fsync does not reach the platter there.
        """
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is not None:
            fcntl.fcntl(handle, full)
        else:
            os.fdatasync(handle)

    def check_linked(self, handle: int, path: Path) -> None:
        """Raise OSError if the file is no longer at its path: its bytes go when it is closed."""
        found = os.fstat(handle)
        if not found.st_nlink or not os.path.samestat(found, os.stat(path)):
            raise FileNotFoundError(errno.ENOENT, "its file was removed")

    def truncate(self, handle: int, size: int) -> None:
        """Truncate the file to its first `size` bytes; further appends go there."""
        os.ftruncate(handle, size)

    def close(self, handle: int) -> None:
        """Close a handle."""
        os.close(handle)

    def remove(self, path: Path) -> None:
        """Remove a file; absent is fine. A power cut may bring it back."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Make the renames and removals in a folder durable."""
        sync_folder(folder)

    def write_whole(self, path: Path, data: bytes) -> None:
        """Create or replace a file durably; a reader sees the old bytes or the new."""
        write_whole(path, data)
