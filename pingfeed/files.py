"""Files that appear atomically and survive a power cut, and locks between processes."""

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pingfeed.core.errors import NotFound, Unavailable
from pingfeed.core.urls import parts_of

QUARANTINED_S: Final = 30 * 86_400
quarantined: Final[Counter[str]] = Counter()
"""How often this process has quarantined a store, by file name."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Translate OSError: NotFound for an absent file, Unavailable otherwise."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFound(f"{what} does not exist") from error
    except OSError as error:
        raise Unavailable(f"{what} cannot be read: {error.strerror or error}") from error


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Translate OSError to Unavailable: a full disk, a missing permission, a folder in the way."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{what} cannot be written: {error.strerror or error}") from error


def make_folder(folder: Path) -> None:
    """Create a folder and its parents durably; OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder: renames and unlinks in it are durable only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Create or replace a file: a reader sees the old bytes or the new, and on return they are durable; OSError.

    The bytes go to a name that begins with a dot (readers skip those) in the same folder, are synced, and take the
    final name in one rename. A kill leaves at most such a dotted file, which no reader opens.
    """
    with _written_beside(path, data) as temporary:
        temporary.replace(path)


def create_whole(path: Path, data: bytes) -> bool:
    """Like `write_whole`, but False if the file exists: of several callers one succeeds, on a shared disk too."""
    with _written_beside(path, data) as temporary:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
    return True


@contextmanager
def _written_beside(path: Path, data: bytes | memoryview) -> Iterator[Path]:
    """A synced temporary file in the folder of `path`, to be given its name; what is left of it is removed."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def quarantine(path: Path, now_s: float) -> Path:
    """Move a damaged store and the journals beside it out of the way, count it, and return its new name; OSError.

    Those of more than 30 days ago are removed.
    """
    moved = path.with_name(f"{path.name}.damaged-{int(now_s)}")
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(moved.with_name(moved.name + suffix))
    for old in path.parent.glob(f"{path.name}.damaged-*"):
        if old.stat().st_ctime < now_s - QUARANTINED_S:
            with suppress(OSError):  # A folder stays.
                old.unlink(missing_ok=True)
    sync_folder(path.parent)
    quarantined[path.name] += 1
    return moved


def remove(path: Path) -> None:
    """Remove a file durably; absent is fine; OSError."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync_folder(path.parent)


def below(root: Path, relative: str) -> Path:
    """`relative` (forward slashes) below `root`; InvalidInput if it would lead elsewhere or to a hidden name."""
    return root.joinpath(*parts_of(relative))


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Lock a file and return the descriptor that holds the lock; None while another process holds it; OSError.

    An exclusive lock creates the file where there is none. The kernel releases the lock when the descriptor is closed
    or the process ends.
    """
    flags = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is created, once others have released it; OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
