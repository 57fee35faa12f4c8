"""A lease on the lake: at most one run at a time. The operating system releases the file lock when its holder dies."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from pingfeed.core.errors import Busy

_PAUSE_S: Final = 0.2


@contextmanager
def lease(home: Path, name: str = "batch", wait_s: float = 0) -> Iterator[None]:
    """Hold the lease while the block runs; Busy if another process does not release it within `wait_s`."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{name}.lock").open("w") as file:
        deadline = time.monotonic() + wait_s
        while not _locked(file):
            if time.monotonic() >= deadline:
                raise Busy("another etl, tick or train is running on this lake; try again when it has finished")
            time.sleep(_PAUSE_S)
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
