"""What a start makes of a spool's directory: every whole record counts, everything else is set aside and told.

A file that is damaged stays where it is until its whole records are delivered; the bytes that are none are copied to
`damaged/` at once, for a person to look at. A damaged tally is set aside too: then nothing counts as delivered, and
what lies there goes to the sink once more. What a file holds is said by its records, not by its name: files that
somebody copied or exchanged are delivered all the same.

Ids go on above every id that may have been given before: above those that are here, and above the clock's. For not all
of them are here: a power cut may bring a record back that was never acknowledged and was cut off, and with the tally
goes the knowledge of what has left. Neither may meet another record of its id, or another batch of its name.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.spool.checkpoint import FILE as TALLY
from pingfeed.spool.checkpoint import Tally
from pingfeed.spool.damage import DamageLog
from pingfeed.spool.disk import Disk
from pingfeed.spool.segment import HEAD_BYTES, MAGIC, Damage, Record, first_id_of, records

_EARLIER: Final = "spool.sqlite"
_IDS_A_SECOND: Final = 1_000_000
"""More than are ever given in one, so that the clock's seconds times this are above all that were."""


@dataclass(frozen=True)
class FoundSegment:
    """A file with whole records: lowest and highest id, when they arrived, their rows, their bytes, the file's size."""

    path: Path
    first_id: int
    last_id: int
    received_ms: int
    events: int
    bytes: int
    size: int


@dataclass(frozen=True)
class Found:
    """What a directory holds, segments in the order of their records."""

    tally: Tally
    segments: list[FoundSegment]
    next_id: int


def recover(directory: Path, disk: Disk, now_ms: int, damage: DamageLog) -> Found:
    """Read everything in a spool's directory. Raises Unavailable where the disk refuses."""
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
            raise Unavailable(f"{self._directory / _EARLIER} is an earlier version's spool; let that deliver it first")
        named = {name: first_id for name in names if (first_id := first_id_of(name)) is not None}
        found = [one for name in named if (one := self._segment(name)) is not None]
        found.sort(key=lambda one: (one.first_id, one.path))
        if TALLY not in names and not named:
            return Found(self._new_tally(), [], 1)
        tally = self._tally(names)
        last = max(tally.settled_to, *(one.last_id for one in found), *named.values(), now_ms // 1000 * _IDS_A_SECOND)
        return Found(tally, found, last + 1)

    def _segment(self, name: str) -> FoundSegment | None:
        """A segment's file; None for one without a whole record, which goes once its bytes are set aside."""
        path = self._directory / name
        try:
            data = self._disk.read(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unavailable(f"{path} cannot be read: {reason}; to start without it, move it away") from error
        if data.startswith(MAGIC) and not self._spool_id:
            self._spool_id = data[8:16].hex()
        whole: list[Record] = []
        is_kept = True
        for one in records(data):
            if isinstance(one, Damage):
                is_kept &= self._damage.set_aside(name, one, data[one.start : one.end])
            else:
                whole.append(one)
        if not whole:
            if is_kept:
                self._disk.remove(path)
            return None
        return FoundSegment(
            path,
            min(one.id for one in whole),
            max(one.id for one in whole),
            min(one.received_ms for one in whole),
            sum(one.count for one in whole),
            sum(HEAD_BYTES + len(one.lines) for one in whole),
            len(data),
        )

    def _tally(self, names: list[str]) -> Tally:
        """The tally; a new one where it is damaged or gone, which is told."""
        data = self._disk.read(self._directory / TALLY) if TALLY in names else b""
        try:
            return Tally.of(data)
        except FormatError as error:
            self._damage.set_aside(TALLY, Damage(0, len(data), error.message), data)
        return self._new_tally()

    def _new_tally(self) -> Tally:
        """One that counts nothing, of the spool that the segments name; written before this returns."""
        spool_id = self._spool_id if len(self._spool_id) == 16 else os.urandom(8).hex()
        new = Tally(spool_id=spool_id, service=self._directory.name)
        self._disk.write_whole(self._directory / TALLY, new.encode())
        return new
