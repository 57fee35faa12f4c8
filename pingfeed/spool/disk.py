"""The few calls by which the spool touches the disk, so that tests can put a failing one in their place.

Every call raises OSError as the system does; what was not synced a power cut may take away, in part or whole.
"""

import os
import sys
from pathlib import Path
from typing import Final, Protocol

from pingfeed.files import make_folder, sync_folder, write_whole

RESERVE_BYTES: Final = 32 << 20
RESERVE_SHARE: Final = 16
"""A disk that the spool fills keeps this many bytes, or this share of it if that is less: what delivery needs to go on,
and so to make room: a new tally, and where the lake is on the same disk the file of one batch."""


class Disk(Protocol):
    """A folder's files, appended to and removed. Handles are the system's descriptors, or stand for them."""

    def make_folder(self, folder: Path) -> None:
        """Create a folder and its parents, durably; there already is fine."""

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, sorted."""

    def spare(self, folder: Path) -> int:
        """How many bytes may be appended below a folder before the disk is down to its reserve."""

    def read(self, path: Path) -> bytes:
        """A file's bytes."""

    def create(self, path: Path) -> int:
        """A handle of a new file; its entry is durable. An older file of that name is emptied."""

    def write(self, handle: int, data: bytes) -> None:
        """Append all of the bytes, or raise: then some of them may be there."""

    def sync(self, handle: int) -> None:
        """Return once what was written is durable, the file's length included."""

    def truncate(self, handle: int, size: int) -> None:
        """Cut the file to its first `size` bytes, and append from there on."""

    def close(self, handle: int) -> None:
        """Let a handle go."""

    def remove(self, path: Path) -> None:
        """Remove a file; absent is fine. After a power cut it may be there again."""

    def write_whole(self, path: Path, data: bytes) -> None:
        """Create or replace a file, durably: a reader sees the old bytes or the new."""


class SystemDisk:
    """The real one."""

    def make_folder(self, folder: Path) -> None:
        """See `Disk`."""
        make_folder(folder)

    def names(self, folder: Path) -> list[str]:
        """See `Disk`."""
        return sorted(os.listdir(folder))

    def spare(self, folder: Path) -> int:
        """See `Disk`."""
        found = os.statvfs(folder)
        if not found.f_blocks:  # A file system that does not say.
            return sys.maxsize
        reserve = min(RESERVE_BYTES, found.f_blocks * found.f_frsize // RESERVE_SHARE)
        return max(0, found.f_bavail * found.f_frsize - reserve)

    def read(self, path: Path) -> bytes:
        """See `Disk`."""
        return path.read_bytes()

    def create(self, path: Path) -> int:
        """See `Disk`."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            sync_folder(path.parent)
        except OSError:
            os.close(handle)
            raise
        return handle

    def write(self, handle: int, data: bytes) -> None:
        """See `Disk`."""
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]

    def sync(self, handle: int) -> None:
        """See `Disk`."""
        _sync(handle)

    def truncate(self, handle: int, size: int) -> None:
        """See `Disk`."""
        os.ftruncate(handle, size)

    def close(self, handle: int) -> None:
        """See `Disk`."""
        os.close(handle)

    def remove(self, path: Path) -> None:
        """See `Disk`."""
        path.unlink(missing_ok=True)

    def write_whole(self, path: Path, data: bytes) -> None:
        """See `Disk`."""
        write_whole(path, data)


def _sync(handle: int) -> None:
    """fdatasync; where fsync does not reach the platter (macOS), what does."""
    import fcntl

    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        fcntl.fcntl(handle, full)
    else:
        os.fdatasync(handle)
