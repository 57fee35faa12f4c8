"""Refused events are kept, with the reason: `rejected/day=YYYY-MM-DD/<writer>.jsonl`, one object a line.

    {"received_ms": 1795348800000, "code": "out_of_range", "field": "watch_time_ratio",
     "message": "watch_time_ratio must be a number >= 0.0", "body": "{\\"event_type\\":\\"view\\", ...}"}

`body` is what was sent, as text (bytes that are not UTF-8 are escaped). A day keeps the first `max_bytes`; what comes
later is counted and dropped, never written over what is there: a client gone wild must not hide the first mistake.
Nothing here is on a request's way: lines are written by a thread, and a refusal that cannot be kept is only counted.

A Lambda function has no disk that stays: `rejected_objects.py` puts the same lines into the lake itself.

Where the lake is a folder this one lies in it, and `pingfeed rejected replay --remove` may take lines out of a file
that is appended to (`pingfeed/local/appended.py`). Where it is not, `ship.py` takes the files there: then a writer
begins a new file now and then (`<writer>-<n>.jsonl`), what is complete is taken away, and `day=.../.shipped` holds how
many bytes of the day have left, as a decimal number, so that a day keeps no more than it may.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec

from pingfeed.core.clock import day_of
from pingfeed.core.events import Refusal
from pingfeed.files import write_whole
from pingfeed.local.appended import append

log = logging.getLogger(__name__)

MAX_BYTES_A_DAY: Final = 64 << 20
MAX_WAITING_BYTES: Final = 8 << 20
_SHIPPED: Final = ".shipped"


class RejectedLine(msgspec.Struct, frozen=True):
    """One line of the log."""

    received_ms: int
    code: str
    field: str | None
    message: str
    body: str


def line_of(refusal: Refusal, received_ms: int) -> bytes:
    """A refusal as a line, its line feed included."""
    body = refusal.body.decode("utf-8", "backslashreplace")
    kept = RejectedLine(received_ms, refusal.code, refusal.field, refusal.message, body)
    return msgspec.json.encode(kept) + b"\n"


class RejectedEvents(Protocol):
    """Where refused events are kept, with the reason.

    What is kept is bounded. What there is no room for, and what cannot be kept, is dropped; `on_dropped` hears how
    many. A refusal that is not kept is never the caller's trouble.
    """

    on_dropped: Callable[[int], None]

    async def add(self, refusals: Sequence[Refusal], received_ms: int) -> None:
        """Take refusals of one moment. Raises nothing, and has an end, whatever hangs.

        On return they are kept or dropped, unless the process goes on after the answer: then it may be done later.
        """

    async def close(self) -> None:
        """Keep what waits."""


class RejectedLog:
    """Appends refusals to this `writer`'s file of the day; satisfies `RejectedEvents`.

    A day keeps `max_bytes_a_day`; all days that lie here together, `max_bytes`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        writer: str,
        max_bytes_a_day: int = MAX_BYTES_A_DAY,
        max_bytes: int = sys.maxsize,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._folder = folder
        self._writer, self._files = writer, 0
        self._file = f"{writer}.jsonl"
        self._max_bytes_a_day, self._max_bytes = max_bytes_a_day, max_bytes
        self._max_waiting = max_waiting_bytes
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "rejected")
        self._day = ""
        self._room = 0
        self.on_dropped: Callable[[int], None] = lambda _count: None

    async def add(self, refusals: Sequence[Refusal], received_ms: int) -> None:
        """Hand refusals of one moment to the writer; returns at once."""
        lines = [line_of(refusal, received_ms) for refusal in refusals]
        size = sum(map(len, lines))
        if self._waiting + size > self._max_waiting:
            self.on_dropped(len(lines))
            return
        self._waiting += size
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, day_of(received_ms), lines)
        writing.add_done_callback(lambda done: self._written(size, len(lines), done))

    async def finished(self, now_ms: int) -> list[Path]:
        """Begin a new file; the complete ones, oldest day first. What was added before this is in them."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._begin_file, day_of(now_ms))

    async def taken(self, file: Path) -> None:
        """Remove a complete file that is kept elsewhere now."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._remove, file)

    async def close(self) -> None:
        """Write what waits."""
        await asyncio.to_thread(self._thread.shutdown)

    def _written(self, size: int, count: int, done: "asyncio.Future[int]") -> None:
        self._waiting -= size
        error = done.exception()
        if error is not None:
            log.warning("refused events could not be kept: %s", error)
        dropped = count if error is not None else done.result()
        if dropped:
            self.on_dropped(dropped)

    def _write(self, day: str, lines: Sequence[bytes]) -> int:
        """Append what there is room for; how many lines there was none for."""
        folder = self._folder / f"day={day}"
        if day != self._day:
            folder.mkdir(parents=True, exist_ok=True)
            self._day, self._room = day, self._room_of(folder)
        kept = []
        for line in lines:
            if len(line) <= self._room:
                self._room -= len(line)
                kept.append(line)
        if kept:
            append(folder / self._file, b"".join(kept))
        return len(lines) - len(kept)

    def _room_of(self, folder: Path) -> int:
        """How many bytes a day may still take: of its own, and of what all days that are here may hold together."""
        own = _bytes_in(folder) + _shipped(folder)
        return min(self._max_bytes_a_day - own, self._max_bytes - sum(map(_bytes_in, self._folder.glob("day=*"))))

    def _begin_file(self, today: str) -> list[Path]:
        self._files += 1
        self._file, self._day = f"{self._writer}-{self._files}.jsonl", ""
        for folder in self._folder.glob("day=*"):
            if folder.name < f"day={today}" and not any(folder.glob("*.jsonl")):
                _remove_empty(folder)
        return sorted(self._folder.glob("day=*/*.jsonl"))

    def _remove(self, file: Path) -> None:
        # Noted first: a crash in between counts the file twice, and the day takes a little less.
        write_whole(file.with_name(_SHIPPED), b"%d" % (_shipped(file.parent) + file.stat().st_size))
        file.unlink()


def _remove_empty(folder: Path) -> None:
    """A day's folder, with its note and what a kill left of one. What else is there stays, and stops no shipping."""
    with suppress(OSError):
        for note in folder.glob(f"*{_SHIPPED}*"):
            note.unlink()
        folder.rmdir()


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.jsonl"))


def _shipped(folder: Path) -> int:
    try:
        return int((folder / _SHIPPED).read_bytes())
    except FileNotFoundError:
        return 0
