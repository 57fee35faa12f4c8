"""The lease as files in a folder of this machine, or of a disk that several machines share.

    12.json    who holds number 12, and until when
    12.lock    locked for as long as the holder's process lives

The highest number counts. The next one is taken by creating its file, which only one process can do. On the holder's
own machine the lock tells at once that it has died; other machines wait until its time is over.
"""

import os
import socket
from contextlib import suppress
from pathlib import Path

import msgspec

from pingfeed.core.clock import Clock, system_clock, to_iso
from pingfeed.core.errors import Busy, NotFound
from pingfeed.core.integrity import UNREADABLE
from pingfeed.files import create_whole, make_folder, reading, try_lock, write_whole, writing
from pingfeed.settings import url_path


class _Record(msgspec.Struct):
    owner: str
    boot: str
    until_ms: int


class FileLease:
    """`file:///folder`."""

    def __init__(self, url: str, clock: Clock = system_clock) -> None:
        self._folder = url_path(url)
        self._clock = clock
        self._locks: dict[int, int] = {}
        self._own = _Record(f"{socket.gethostname()}:{os.getpid()}", _boot(), 0)

    def acquire(self, seconds: float, floor: int = 0) -> int:
        last = self._last()
        if said := self._said(last):
            raise Busy(said)
        with writing(str(self._folder)):
            make_folder(self._folder)
            fence = max(last, floor) + 1
            lock = try_lock(self._lock(fence))
            if lock is None:
                raise Busy("another process is taking the lease")
            if not create_whole(self._path(fence), self._record(seconds)) or self._last() != fence:
                os.close(lock)
                raise Busy("another process has taken the lease")
            self._locks[fence] = lock
            for path in self._folder.glob("[0-9]*.*"):
                if int(path.stem) < fence:
                    path.unlink(missing_ok=True)
        return fence

    def renew(self, fence: int, seconds: float) -> None:
        with writing(str(self._folder)):
            for write in (True, False):
                if self._last() != fence:
                    raise Busy("another process has taken the lease")
                if write:
                    write_whole(self._path(fence), self._record(seconds))

    def release(self, fence: int) -> None:
        with suppress(Busy):
            self.renew(fence, 0)
        if fence in self._locks:
            os.close(self._locks.pop(fence))

    def holder(self) -> str:
        return self._said(self._last())

    def _said(self, fence: int) -> str:
        found = self._read(fence)
        if found is None or found.until_ms <= self._clock() or self._has_died(fence, found):
            return ""
        return f"held by {found.owner} until {to_iso(found.until_ms)} (number {fence})"

    def _has_died(self, fence: int, found: _Record) -> bool:
        """Whether the holder was a process of this machine that has ended."""
        if found.boot != self._own.boot:
            return False
        with suppress(NotFound), reading("the lease"):
            lock = try_lock(self._lock(fence), shared=True)
            if lock is None:
                return False
            os.close(lock)
        return True

    def _last(self) -> int:
        """The highest number; 0 if there is none."""
        return max((int(path.stem) for path in self._folder.glob("[0-9]*.json")), default=0)

    def _read(self, fence: int) -> _Record | None:
        """A number's record; None if it is damaged or was replaced meanwhile."""
        try:
            with reading("the lease"):
                return msgspec.json.decode(self._path(fence).read_bytes(), type=_Record)
        except (NotFound, *UNREADABLE):
            return None

    def _record(self, seconds: float) -> bytes:
        until_ms = self._clock() + int(seconds * 1000) if seconds else 0
        return msgspec.json.encode(msgspec.structs.replace(self._own, until_ms=until_ms))

    def _path(self, fence: int) -> Path:
        return self._folder / f"{fence}.json"

    def _lock(self, fence: int) -> Path:
        return self._folder / f"{fence}.lock"


def _boot() -> str:
    """What identifies this machine until it restarts: locks are seen by its processes, in containers too."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
