"""What a spool holds and has delivered: counters of the process that owns it, and a look at its directory by others.

The batch side looks at the directories on its own machine, and reads the stats that services publish into the lake:

    accounts/<spool_id>.json    the tally (`checkpoint.py`), with "spooled": {"2026-11-22": 120}, the waiting events by
                                day of arrival, and "published_ms", the time at which all of it held

They are published at the start, every few minutes if something has changed, and at the end. They are never removed: the
stats of a spool that is gone say what it had delivered, and what was lost with it.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from pingfeed.core.clock import Clock, day_of, system_clock
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.files import try_lock
from pingfeed.ports import Artifacts
from pingfeed.spool.checkpoint import FILE, LOCK, Tally
from pingfeed.spool.segment import BEGINNING_BYTES, Record, begins_with, first_id_of, records
from pingfeed.spool.tasks import Background

REJECTED: Final = "rejected"
"""The folder of a spool whose rows are rejected events: they are not accepted ones, and nothing here counts them."""
EVERY_S: Final = 300.0
CLOSE_S: Final = 5.0
_LOOKS: Final = 5
_POLL_S: Final = 0.1
_log = logging.getLogger(__name__)


@dataclass
class Counters:
    """What happened since the process started, and what waits now: plain numbers for metrics."""

    accepted: int = 0
    """Events that are durable: in the spool or past it."""
    delivered: int = 0
    """Events that the sink took. Those of an earlier process count too, so it may exceed `accepted`."""
    delivery_failures: int = 0
    """Failed attempts to deliver a batch, or to remove a delivered one."""
    apply_failures: int = 0
    """Failed attempts to apply the signals of accepted events; they are retried."""
    apply_given_up: int = 0
    """Events whose signals no retry can apply; the events themselves are delivered."""
    spooled_events: int = 0
    """Undelivered events now."""
    spooled_bytes: int = 0
    """Undelivered bytes now."""
    spooled_damage: int = 0
    """Damaged places that this process found in the spool's files."""
    unapplied: int = 0
    """Segments now with signals that still have to be applied."""


class SpoolStats(Tally, frozen=True, kw_only=True):
    """What one spool has accepted: what it has delivered, and what waits in it."""

    spooled: dict[str, int] = {}
    published_ms: int = 0


def stats_of(folder: Path, now_ms: int) -> SpoolStats | None:
    """The current stats of the spool in a directory; None if it holds no accepted events. Raises Unavailable.

    The spool's process keeps working meanwhile: if something was delivered during a look it is repeated, so that no
    event counts on both sides or on neither. A spool that is never still long enough counts some events on both.
    """
    if not (folder / FILE).exists() or (tally := _tally(folder)).service == REJECTED:
        return None
    for _ in range(_LOOKS):
        spooled = waiting_by_day(folder).get(tally.spool_id, {})
        before, tally = tally, _tally(folder)
        if tally == before:
            break
    waiting = {day: events for day, events in spooled.items() if events}
    return SpoolStats(**msgspec.structs.asdict(tally), spooled=waiting, published_ms=now_ms)


class Publisher:
    """Publishes the stats of one spool's directory into a store. Owns the store: `close` closes it.

    publisher.start()
    await publisher.close()    # after the spool is closed, so that the last stats are complete
    """

    def __init__(
        self, folder: Path, store: Artifacts, *, every_s: float = EVERY_S, clock: Clock = system_clock
    ) -> None:
        self._folder, self._store, self._every_s, self._clock = folder, store, every_s, clock
        self._published: SpoolStats | None = None
        self._closing = asyncio.Event()
        self._background = Background("publisher of the spool's stats", self._run)

    def start(self) -> None:
        """Start, in a task of the running loop."""
        self._background.start()

    async def publish(self) -> None:
        """Put the stats if they have changed; raises what the store raises."""
        stats = await asyncio.to_thread(stats_of, self._folder, self._clock())
        if stats is None or msgspec.structs.replace(stats, published_ms=0) == self._published:
            return
        await self._store.put(f"accounts/{stats.spool_id}.json", stats.encode())
        self._published = msgspec.structs.replace(stats, published_ms=0)

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Publish a last time, for at most `timeout_s`."""
        self._closing.set()
        await self._background.stop(timeout_s)
        await self._store.close()

    async def _run(self) -> None:
        while True:
            is_last = self._closing.is_set()
            try:
                await self.publish()
            except Exception as error:  # noqa: BLE001  # whatever it is, it is tried again
                _log.warning("the spool's stats could not be published, will retry: %s", error)
            if is_last:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._every_s)


def wait_landed(
    spool_dir: Path, before_ms: int, timeout_s: float, *, pause: Callable[[float], None] = time.sleep
) -> int:
    """Wait until no spool below `spool_dir` has an undelivered event that was accepted before `before_ms`.

    Returns how many such events still wait: 0 when all have landed, more after the timeout, or if the spool's process
    is gone (nothing delivers them, so waiting is pointless). Changes nothing. Raises Unavailable.
    """
    deadline = time.monotonic() + timeout_s
    folders = _folders(spool_dir)
    while True:
        waiting = {
            folder: sum(record.count for record in _undelivered(folder) if record.received_ms < before_ms)
            for folder in folders
        }
        alive = any(events and is_held(folder) for folder, events in waiting.items())
        if not alive or time.monotonic() >= deadline:
            return sum(waiting.values())
        pause(_POLL_S)


def waiting_by_day(spool_dir: Path) -> dict[str, dict[str, int]]:
    """Undelivered events of every spool below `spool_dir`: spool id -> UTC day of arrival -> events. Unavailable."""
    found: dict[str, dict[str, int]] = {}
    for folder in _folders(spool_dir):
        days: Counter[str] = Counter()
        for record in _undelivered(folder):
            days[day_of(record.received_ms)] += record.count
        found[_tally(folder).spool_id] = dict(days)
    return found


def is_held(folder: Path) -> bool:
    """Whether a process owns the spool in a folder; takes a shared lock for a moment."""
    try:
        descriptor = try_lock(folder / LOCK, shared=True)
    except OSError:
        return False
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def _folders(spool_dir: Path) -> list[Path]:
    return [file.parent for file in sorted(spool_dir.rglob(FILE)) if file.parent.name != REJECTED]


def _undelivered(folder: Path) -> Iterator[Record]:
    # The tally first: events that are delivered during this look count as waiting, never as neither.
    acked_to = _tally(folder).acked_to
    for name in sorted(os.listdir(folder)):
        if first_id_of(name) is None:
            continue
        first_id = begins_with(_read(folder / name, BEGINNING_BYTES))
        if first_id is not None and first_id <= acked_to:
            continue  # At the sink, and kept for its signals; it may be large, so it is not read.
        found = [one for one in records(_read(folder / name)) if isinstance(one, Record)]
        if found and min(one.id for one in found) > acked_to:
            yield from found


def _tally(folder: Path) -> Tally:
    try:
        return Tally.of(_read(folder / FILE))
    except FormatError as error:
        raise Unavailable(f"the spool {folder} cannot be read: {error}") from error


def _read(file: Path, size: int = -1) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(size)
    except FileNotFoundError:
        return b""  # Delivered meanwhile.
    except OSError as error:
        raise Unavailable(f"the spool {file.parent} cannot be read: {error.strerror}") from error
