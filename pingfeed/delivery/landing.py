"""Has everything that was accepted before an instant landed? The batch side's look at the services' spools."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from pingfeed.clock import DAY_MS, day_of
from pingfeed.delivery.spool import FILE, LOCK
from pingfeed.errors import Unavailable

_POLL_S: Final = 0.1
_WAITING: Final = "SELECT COALESCE(SUM(events), 0) FROM record WHERE delivered = 0 AND received_ms < ?"
_BY_DAY: Final = f"SELECT received_ms / {DAY_MS}, SUM(events) FROM record WHERE delivered = 0 GROUP BY 1"  # noqa: S608


def wait_landed(
    spool_dir: Path, before_ms: int, timeout_s: float, *, pause: Callable[[float], None] = time.sleep
) -> int:
    """Wait until no spool below `spool_dir` has an undelivered event that was accepted before `before_ms`.

    Returns how many such events still wait: 0 when all have landed, more at the time-out, or where the spool's process
    is gone (nobody delivers, so there is nothing to wait for). Changes nothing. Raises Unavailable.
    """
    deadline = time.monotonic() + timeout_s
    folders = [file.parent for file in sorted(spool_dir.rglob(FILE))]
    while True:
        waiting = {folder: _waiting(folder / FILE, before_ms) for folder in folders}
        alive = any(events and _is_held(folder) for folder, events in waiting.items())
        if not alive or time.monotonic() >= deadline:
            return sum(waiting.values())
        pause(_POLL_S)


def waiting_by_day(spool_dir: Path) -> dict[str, dict[str, int]]:
    """What waits in each spool below `spool_dir`: spool id -> UTC day of arrival -> events. Raises Unavailable."""
    found: dict[str, dict[str, int]] = {}
    for file in sorted(spool_dir.rglob(FILE)):
        with _reading(file) as connection:
            (spool_id,) = connection.execute("SELECT value FROM meta WHERE key = 'spool_id'").fetchone()
            found[spool_id] = {day_of(day * DAY_MS): events for day, events in connection.execute(_BY_DAY)}
    return found


def _waiting(file: Path, before_ms: int) -> int:
    """Undelivered events in one spool that were accepted before `before_ms`."""
    with _reading(file) as connection:
        return int(connection.execute(_WAITING, (before_ms,)).fetchone()[0])


@contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise Unavailable(f"the spool {file.parent} cannot be read: {error}") from error


def _is_held(folder: Path) -> bool:
    """Whether a process has the spool; the shared lock of this look is let go at once."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
