"""What a start makes of a spool's directory: every whole record counts, everything else is set aside and told.

A file that is damaged stays where it is until its whole records are delivered; the bytes that are none are copied to
`damaged/` at once, for a person to look at. A damaged tally is set aside too: then nothing counts as delivered, and
what lies there goes to the sink once more.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pingfeed.delivery.segment import HEAD_BYTES, MAGIC, Damage, Record, first_id_of, records
from pingfeed.delivery.tally import FILE as TALLY
from pingfeed.delivery.tally import Tally
from pingfeed.errors import FormatError, Unavailable
from pingfeed.local.disk import Disk

DAMAGED: Final = "damaged"
MAX_DAMAGED_BYTES: Final = 64 << 20
_EARLIER: Final = "spool.sqlite"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundSegment:
    """A file with whole records: the first and last id, when they arrived, their rows, their bytes, the file's size."""

    path: Path
    first_id: int
    last_id: int
    received_ms: int
    events: int
    bytes: int
    size: int


@dataclass(frozen=True)
class Found:
    """What a directory holds; `damage` by file name."""

    tally: Tally
    segments: list[FoundSegment]
    damage: list[tuple[str, Damage]]
    next_id: int


def recover(directory: Path, disk: Disk) -> Found:
    """Read everything in a spool's directory. Raises Unavailable where the disk refuses."""
    try:
        return _Recovery(directory, disk).run()
    except OSError as error:
        raise Unavailable(f"the spool {directory} cannot be opened: {error.strerror or error}") from error


class _Recovery:
    def __init__(self, directory: Path, disk: Disk) -> None:
        self._directory, self._disk = directory, disk
        self._damage: list[tuple[str, Damage]] = []
        self._spool_id = ""

    def run(self) -> Found:
        names = self._disk.names(self._directory)
        if _EARLIER in names:
            raise Unavailable(f"{self._directory / _EARLIER} is an earlier version's spool; let that deliver it first")
        found = [one for name in names if (one := self._segment(name)) is not None]
        tally = self._tally(names)
        last = max((one.last_id for one in found), default=0)
        return Found(tally, found, self._damage, max(last, tally.settled_to) + 1)

    def _segment(self, name: str) -> FoundSegment | None:
        """A segment's file; None for another file, and for one without a whole record, which goes."""
        first_id = first_id_of(name)
        if first_id is None:
            return None
        path = self._directory / name
        data = self._disk.read(path)
        if data.startswith(MAGIC) and not self._spool_id:
            self._spool_id = data[8:16].hex()
        whole: list[Record] = []
        for one in records(data):
            if isinstance(one, Damage):
                self._set_aside(name, one, data[one.start : one.end])
            elif one.id >= first_id and (not whole or one.id > whole[-1].id):
                whole.append(one)
        if not whole:
            self._disk.remove(path)
            return None
        return FoundSegment(
            path,
            first_id,
            whole[-1].id,
            min(one.received_ms for one in whole),
            sum(one.count for one in whole),
            sum(HEAD_BYTES + len(one.lines) for one in whole),
            len(data),
        )

    def _tally(self, names: list[str]) -> Tally:
        """The tally, a new one where there is none or it is damaged; written before this returns."""
        path = self._directory / TALLY
        spool_id = self._spool_id if len(self._spool_id) == 16 else os.urandom(8).hex()
        if TALLY in names:
            data = self._disk.read(path)
            try:
                return Tally.of(data)
            except FormatError as error:
                self._set_aside(TALLY, Damage(0, len(data), error.message), data)
        new = Tally(spool_id=spool_id, service=self._directory.name)
        self._disk.write_whole(path, new.encode())
        return new

    def _set_aside(self, name: str, damage: Damage, data: bytes) -> None:
        self._damage.append((name, damage))
        kept = self._keep(f"{name}-{damage.start}", data)
        _log.error(
            "the spool is damaged",
            extra={"file": name, "reason": damage.reason, "bytes": len(data), "set_aside": kept},
        )

    def _keep(self, name: str, data: bytes) -> bool:
        """Copy bytes to `damaged/`, while there is room; whether they are there."""
        folder = self._directory / DAMAGED
        try:
            self._disk.make_folder(folder)
            names = self._disk.names(folder)
            if name not in names:
                held = sum(len(self._disk.read(folder / one)) for one in names)
                if held + len(data) > MAX_DAMAGED_BYTES:
                    return False
                self._disk.write_whole(folder / name, data)
        except OSError as error:
            _log.error("damaged bytes could not be set aside", extra={"file": name, "reason": str(error)})
            return False
        return True
