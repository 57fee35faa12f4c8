"""Refused events are kept, with the reason: `rejected/day=YYYY-MM-DD/<writer>.jsonl`, one object a line.

    {"received_ms": 1795348800000, "code": "out_of_range", "field": "watch_time_ratio",
     "message": "watch_time_ratio must be a number >= 0.0", "body": "{\\"event_type\\":\\"view\\", ...}"}

`body` is what was sent, as text (bytes that are not UTF-8 are escaped). A day keeps the first `max_bytes`; what comes
later is counted and dropped, never written over what is there: a client gone wild must not hide the first mistake.
Nothing here is on a request's way: lines are written by a thread, and a refusal that cannot be kept is only counted.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from pingfeed.clock import day_of
from pingfeed.events import Refusal

log = logging.getLogger(__name__)

MAX_BYTES_A_DAY: Final = 64 << 20
MAX_WAITING_BYTES: Final = 8 << 20


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


class RejectedLog:
    """Appends refusals to this `writer`'s file of the day. `on_dropped` hears how many could not be kept."""

    def __init__(
        self,
        folder: Path,
        *,
        writer: str,
        max_bytes_a_day: int = MAX_BYTES_A_DAY,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._folder = folder
        self._file = f"{writer}.jsonl"
        self._max_bytes = max_bytes_a_day
        self._max_waiting = max_waiting_bytes
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "rejected")
        self._day = ""
        self._day_bytes = 0
        self.on_dropped: Callable[[int], None] = lambda _count: None

    def add(self, refusals: Sequence[Refusal], received_ms: int) -> None:
        """Hand refusals of one moment to the writer; returns at once."""
        lines = [line_of(refusal, received_ms) for refusal in refusals]
        size = sum(map(len, lines))
        if self._waiting + size > self._max_waiting:
            self.on_dropped(len(lines))
            return
        self._waiting += size
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, day_of(received_ms), lines)
        writing.add_done_callback(lambda done: self._written(size, len(lines), done))

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
        """Append what the day has room for; how many it had none for."""
        folder = self._folder / f"day={day}"
        if day != self._day:
            folder.mkdir(parents=True, exist_ok=True)
            self._day, self._day_bytes = day, sum(file.stat().st_size for file in folder.glob("*.jsonl"))
        kept = []
        for line in lines:
            if self._day_bytes + len(line) <= self._max_bytes:
                self._day_bytes += len(line)
                kept.append(line)
        if kept:
            with (folder / self._file).open("ab") as file:
                file.write(b"".join(kept))
        return len(lines) - len(kept)
