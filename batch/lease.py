"""Never two runs at once on one lake: a lock that the operating system gives back when its holder dies."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pingfeed.errors import Busy


@contextmanager
def lease(home: Path, name: str = "batch") -> Iterator[None]:
    """Hold the lease while the block runs; Busy if another process holds it."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy("another etl, tick or train is running on this lake; try again when it is done") from error
        yield
