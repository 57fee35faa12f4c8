"""One process a spool: the lock on its directory, and a look at whether somebody has it."""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from pingfeed.core.errors import Busy, Unavailable
from pingfeed.files import make_folder

LOCK: Final = "lock"
_TRIES: Final = 10
_PAUSE_S: Final = 0.05


def take_lock(directory: Path) -> int:
    """The descriptor that holds the directory, which is made where there is none. Raises Busy, Unavailable.

    A few tries, for `is_held` looks at the lock by taking it.
    """
    try:
        make_folder(directory)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"the spool {directory} cannot be opened: {error.strerror}") from error
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            time.sleep(_PAUSE_S)
    os.close(descriptor)
    raise Busy(f"another process holds the spool {directory}; give each process its own directory")


def is_held(directory: Path) -> bool:
    """Whether a process has the spool; the shared lock of this look is let go at once."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
