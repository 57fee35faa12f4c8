"""What has been accepted and has not landed? The batch side's look at the services' spools."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pingfeed.core.clock import day_of
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.spool.checkpoint import FILE, Tally
from pingfeed.spool.lock import is_held
from pingfeed.spool.segment import BEGINNING_BYTES, Head, begins_with, first_id_of, heads

_POLL_S: Final = 0.1


def wait_landed(
    spool_dir: Path, before_ms: int, timeout_s: float, *, pause: Callable[[float], None] = time.sleep
) -> int:
    """Wait until no spool below `spool_dir` has an undelivered event that was accepted before `before_ms`.

    Returns how many such events still wait: 0 when all have landed, more at the time-out, or where the spool's process
    is gone (nobody delivers, so there is nothing to wait for). Changes nothing. Raises Unavailable.
    """
    deadline = time.monotonic() + timeout_s
    folders = _folders(spool_dir)
    while True:
        waiting = {folder: _waiting(folder, before_ms) for folder in folders}
        alive = any(events and is_held(folder) for folder, events in waiting.items())
        if not alive or time.monotonic() >= deadline:
            return sum(waiting.values())
        pause(_POLL_S)


def waiting_by_day(spool_dir: Path) -> dict[str, dict[str, int]]:
    """Undelivered events of every spool below `spool_dir`: spool id -> UTC day of arrival -> events. Unavailable."""
    found: dict[str, dict[str, int]] = {}
    for folder in _folders(spool_dir):
        days: Counter[str] = Counter()
        for head in _undelivered(folder):
            days[day_of(head.received_ms)] += head.count
        found[tally_of(folder).spool_id] = dict(days)
    return found


def tally_of(folder: Path) -> Tally:
    """The tally of the spool in a folder. Raises Unavailable."""
    try:
        return Tally.of((folder / FILE).read_bytes())
    except (OSError, FormatError) as error:
        raise Unavailable(f"the spool {folder} cannot be read: {error}") from error


def _folders(spool_dir: Path) -> list[Path]:
    return [file.parent for file in sorted(spool_dir.rglob(FILE))]


def _waiting(folder: Path, before_ms: int) -> int:
    """Undelivered events in one spool that were accepted before `before_ms`."""
    return sum(head.count for head in _undelivered(folder) if head.received_ms < before_ms)


def _undelivered(folder: Path) -> Iterator[Head]:
    # The tally first: what is delivered after this look at it is counted as waiting, never the other way round.
    settled_to = tally_of(folder).settled_to
    for name in sorted(os.listdir(folder)):
        if first_id_of(name) is None:
            continue
        begins_with_id = begins_with(_read(folder / name, BEGINNING_BYTES))
        if begins_with_id is not None and begins_with_id <= settled_to:
            continue  # At the sink; it may be large, and stay for its signals.
        found = [one for one in heads(_read(folder / name)) if isinstance(one, Head)]
        if found and min(one.id for one in found) > settled_to:
            yield from found


def _read(file: Path, size: int = -1) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(size)
    except FileNotFoundError:
        return b""  # Delivered meanwhile.
    except OSError as error:
        raise Unavailable(f"the spool {file.parent} cannot be read: {error.strerror}") from error
