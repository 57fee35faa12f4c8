"""Recovery: a start locks a spool's directory, keeps every whole record, and quarantines everything else.

A damaged file stays until its whole records are delivered; its other bytes are copied to `damaged/` at once, for a
person to look at. A damaged tally is quarantined too: then nothing counts as delivered, and everything goes to the sink
once more. Records say what a file holds, its name does not: copied or exchanged files are delivered all the same.

New ids start above every id that may have been assigned before: above those found here, and above the clock's. Some are
not found here: a power cut may bring back a record that was truncated without ever being acknowledged, and without the
tally it is unknown what has left. Neither may share its id with another record, or its name with another batch.
"""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import Busy, FormatError, Unavailable
from pingfeed.files import make_folder, try_lock
from pingfeed.spool.checkpoint import FILE as TALLY
from pingfeed.spool.checkpoint import LOCK, Tally
from pingfeed.spool.disk import Disk
from pingfeed.spool.group_commit import LogFile
from pingfeed.spool.segment import MAGIC, Damage, Record, Segment, first_id_of, records

QUARANTINE: Final = "damaged"
MAX_QUARANTINE_BYTES: Final = 64 << 20
_EARLIER: Final = "spool.sqlite"
_IDS_A_SECOND: Final = 1_000_000
"""More ids than are ever assigned in a second, so the clock's seconds times this exceed all earlier ids."""
_log = logging.getLogger(__name__)


class DamageLog:
    """One spool's damage: logged once, listed in `found` by file name, its bytes quarantined.."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._folder, self._disk = directory / QUARANTINE, disk
        self.found: list[tuple[str, Damage]] = []

    def records_of(self, segment: Segment) -> list[Record]:
        """A segment's durable records. Raises Unavailable."""
        path, size = segment.file.path, segment.file.size
        try:
            data = self._disk.read(path)[:size]
        except FileNotFoundError:  # Removed by `sweep`, not created yet, or deleted by someone else.
            if not segment.delivered and size:
                self.quarantine(path.name, Damage(0, size, "the file is gone"), b"")
            return []
        except OSError as error:
            raise Unavailable(f"{path} cannot be read: {error.strerror or error}") from error
        if len(data) < size:
            self.quarantine(path.name, Damage(len(data), size, "the file was truncated"), b"")
        return self.whole_records(path.name, data)[0]

    def whole_records(self, name: str, data: bytes) -> tuple[list[Record], bool]:
        """The whole records in a file's bytes, and whether all other bytes are quarantined."""
        whole, is_kept = [], True
        for one in records(data):
            if isinstance(one, Record):
                whole.append(one)
            else:
                is_kept &= self.quarantine(name, one, data[one.start : one.end])
        return whole, is_kept

    def quarantine(self, name: str, damage: Damage, data: bytes) -> bool:
        """Log damage in a file, unless that was done before, and copy its bytes; whether they are copied."""
        if (name, damage) in self.found:
            return True
        kept = not data or self._keep(f"{name}-{damage.start}", data)
        self.found.append((name, damage))
        _log.error(
            "the spool is damaged",
            extra={"file": name, "reason": damage.reason, "bytes": len(data), "quarantined": kept},
        )
        return kept

    def _keep(self, name: str, data: bytes) -> bool:
        """Copy bytes while there is room; whether they are there."""
        try:
            self._disk.make_folder(self._folder)
            names = self._disk.names(self._folder)
            if name not in names:
                held = sum(len(self._disk.read(self._folder / one)) for one in names)
                if held + len(data) > MAX_QUARANTINE_BYTES:
                    return False
                self._disk.write_whole(self._folder / name, data)
        except OSError as error:
            _log.error("damaged bytes could not be quarantined", extra={"file": name, "reason": str(error)})
            return False
        return True


def lock(directory: Path) -> int:
    """A descriptor that holds the directory's lock. Retries, because `stats.is_held` takes the lock for a moment."""
    try:
        make_folder(directory)
        for _ in range(10):
            descriptor = try_lock(directory / LOCK)
            if descriptor is not None:
                return descriptor
            time.sleep(0.05)
    except OSError as error:
        raise Unavailable(f"the spool {directory} cannot be opened: {error.strerror}") from error
    raise Busy(f"another process uses the spool {directory}; give each process its own directory")


@dataclass(frozen=True)
class Found:
    """What a directory holds; segments in the order of their records."""

    tally: Tally
    segments: list[Segment]
    next_id: int


def recover(directory: Path, disk: Disk, now_ms: int, damage: DamageLog) -> Found:
    """Read everything in a spool's directory. Raises Unavailable if the disk fails."""
    try:
        return _Recovery(directory, disk, damage).run(now_ms)
    except OSError as error:
        raise Unavailable(f"the spool {directory} cannot be opened: {error.strerror or error}") from error


class _Recovery:
    def __init__(self, directory: Path, disk: Disk, damage: DamageLog) -> None:
        self._directory, self._disk, self._damage = directory, disk, damage
        self._spool_id = ""

    def run(self, now_ms: int) -> Found:
        names = self._disk.names(self._directory)
        if _EARLIER in names:
            raise Unavailable(f"{self._directory / _EARLIER} is an earlier version's spool; deliver it with that first")
        named = {name: first_id for name in names if (first_id := first_id_of(name)) is not None}
        found = [one for name in named if (one := self._segment(name)) is not None]
        found.sort(key=lambda one: (one.first_id, one.file.path))
        if TALLY not in names and not named:
            return Found(self._new_tally(), [], 1)
        tally = self._tally(names)
        # An earlier process may have died before its last rename was synced. A segment must not be removed before its
        # count is durable.
        self._disk.sync_folder(self._directory)
        for one in found:
            one.delivered = one.first_id <= tally.acked_to
        last = max(tally.acked_to, *(one.last_id for one in found), *named.values(), now_ms // 1000 * _IDS_A_SECOND)
        return Found(tally, found, last + 1)

    def _segment(self, name: str) -> Segment | None:
        """A segment's file; None if it holds no whole record: it is removed once its bytes are quarantined."""
        path = self._directory / name
        try:
            data = self._disk.read(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unavailable(f"{path} cannot be read: {reason}; to start without it, move it away") from error
        if data.startswith(MAGIC) and not self._spool_id:
            self._spool_id = data[8:16].hex()
        whole, is_kept = self._damage.whole_records(name, data)
        if not whole:
            if is_kept:
                self._disk.remove(path)
            return None
        return Segment(
            first_id=min(one.id for one in whole),
            day=min(one.received_ms for one in whole) // DAY_MS,
            file=LogFile(path, b"", size=len(data), broken=True),
            last_id=max(one.id for one in whole),
            events=sum(one.count for one in whole),
            bytes=sum(one.size for one in whole),
        )

    def _tally(self, names: list[str]) -> Tally:
        """The tally, or a new one if it is damaged or gone, which is logged."""
        data = self._disk.read(self._directory / TALLY) if TALLY in names else b""
        try:
            return Tally.of(data)
        except FormatError as error:
            self._damage.quarantine(TALLY, Damage(0, len(data), error.message), data)
        return self._new_tally()

    def _new_tally(self) -> Tally:
        """An empty tally for the spool id that the segments name; written before this returns."""
        spool_id = self._spool_id if len(self._spool_id) == 16 else os.urandom(8).hex()
        new = Tally(spool_id=spool_id, service=self._directory.name)
        self._disk.write_whole(self._directory / TALLY, new.encode())
        return new
