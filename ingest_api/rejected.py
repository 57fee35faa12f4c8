"""Rejected events are kept with the reason: `rejected/day=YYYY-MM-DD/<name>.jsonl` in the lake, one object a line.

    {"received_ms": 1795348800000, "code": "out_of_range", "field": "watch_time_ratio",
     "message": "watch_time_ratio must be a number >= 0.0", "body": "{\\"event_type\\":\\"view\\", ...}"}

`body` is what was sent, as text (bytes that are not UTF-8 are escaped). The first of a day are kept, up to a limit;
later ones are counted and dropped, so that a misbehaving client cannot fill the store or hide the first mistake.

A service keeps them in a spool of its own (`RejectedSpool`): the request waits for the disk, not for the lake. A Lambda
function has no disk that lasts, so it puts each request's lines into the lake before the response (`RejectedObjects`).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from pingfeed.core.clock import day_of
from pingfeed.core.errors import PingfeedError
from pingfeed.core.events import RejectedEvent
from pingfeed.core.integrity import UNREADABLE
from pingfeed.files import write_whole, writing
from pingfeed.ports import Artifacts, Batch, SinkCounters
from pingfeed.spool.deliverer import Deliverer
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import Counters

MAX_BYTES_A_DAY: Final = 64 << 20
MAX_OBJECTS_A_DAY: Final = 100
WITHIN_S: Final = 4.0
CLOSE_S: Final = 5.0
_log = logging.getLogger(__name__)


def line_of(rejected: RejectedEvent, received_ms: int) -> bytes:
    """A rejected event as a line, with its line feed."""
    line = {"received_ms": received_ms, "code": rejected.code, "field": rejected.field, "message": rejected.message}
    return msgspec.json.encode(line | {"body": rejected.body.decode("utf-8", "backslashreplace")}) + b"\n"


class RejectedEvents(Protocol):
    """Where rejected events are kept. Bounded; `on_dropped` is called with the number of events that are not kept."""

    on_dropped: Callable[[int], None]

    def start(self) -> None:
        """Start background work, if there is any."""

    async def add(self, rejected: Sequence[RejectedEvent], received_ms: int) -> None:
        """Keep events that were rejected at the same moment, or drop them. Raises nothing, waits for no store long."""

    async def close(self) -> None:
        """Store what waits."""


class RejectedSpool:
    """Keeps rejected events in a spool, whose deliverer puts one file per flush into the lake. Owns spool and store.

    A day keeps `max_bytes_a_day`, restarts included.
    """

    def __init__(
        self, spool: Spool, store: Artifacts, *, flush_seconds: float, max_bytes_a_day: int = MAX_BYTES_A_DAY
    ) -> None:
        self._spool, self._max_bytes = spool, max_bytes_a_day
        self._sink = _LakeSink(store, spool.directory / "stored.json")
        self._deliverer = Deliverer(spool, self._sink, flush_seconds=flush_seconds, counters=Counters())
        self._day, self._room = "", 0
        self.on_dropped: Callable[[int], None] = lambda _count: None

    def start(self) -> None:
        """Start to deliver."""
        self._deliverer.start()

    async def add(self, rejected: Sequence[RejectedEvent], received_ms: int) -> None:
        """Keep as many as there is room for; on return they are durable."""
        lines = [line_of(one, received_ms) for one in rejected]
        kept = [line for line in lines if self._fits(day_of(received_ms), len(line))]
        if len(kept) < len(lines):
            self.on_dropped(len(lines) - len(kept))
        if not kept:
            return
        try:
            await self._spool.append(b"".join(kept), len(kept), received_ms)
        except PingfeedError as error:
            _log.warning("rejected events could not be kept", extra={"reason": error.message})
            self.on_dropped(len(kept))

    async def close(self) -> None:
        """Write and deliver what waits; what the lake does not take in time is delivered by the next start."""
        await self._spool.idle()
        await self._deliverer.close(CLOSE_S)
        await self._spool.close()
        await self._sink.close()

    def _fits(self, day: str, size: int) -> bool:
        if day != self._day:
            left = 0 if self._day else self._spool.depth()[1]  # By an earlier process.
            self._day, self._room = day, self._max_bytes - self._sink.stored(day) - left
        if size > self._room:
            return False
        self._room -= size
        return True


class _LakeSink:
    """Puts a batch as one file under its day; satisfies `ports.EventSink`. `note` keeps how many bytes a day has."""

    def __init__(self, store: Artifacts, note: Path) -> None:
        self._store, self._note = store, note
        self.counters = SinkCounters()

    async def write(self, batch: Batch) -> None:
        """Put the batch; the same batch again replaces its file."""
        day, data = day_of(batch.received_ms), b"".join(batch.lines)
        await self._store.put(f"rejected/day={day}/{batch.name}.jsonl", data)
        note = msgspec.json.encode({day: self.stored(day) + len(data)})
        with writing(str(self._note)):
            await asyncio.to_thread(write_whole, self._note, note)

    def stored(self, day: str) -> int:
        """The bytes that this spool has stored under a day, if that is the last one it stored anything for."""
        try:
            return msgspec.json.decode(self._note.read_bytes(), type=dict[str, int]).get(day, 0)
        except (OSError, *UNREADABLE):
            return 0

    async def check(self) -> None:
        """Raise Unavailable if the lake does not answer."""
        await self._store.check()

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()


class RejectedObjects:
    """Puts each request's rejected events as one object: the first `max_objects_a_day` of this `writer`, one attempt.

    A store that fails or hangs costs the request `within_s` at most. Owns the store.
    """

    def __init__(
        self, store: Artifacts, *, writer: str, max_objects_a_day: int = MAX_OBJECTS_A_DAY, within_s: float = WITHIN_S
    ) -> None:
        self._store, self._writer = store, writer
        self._max, self._within_s = max_objects_a_day, within_s
        self._day, self._count = "", 0
        self.on_dropped: Callable[[int], None] = lambda _count: None

    def start(self) -> None:
        """Nothing runs in the background."""

    async def add(self, rejected: Sequence[RejectedEvent], received_ms: int) -> None:
        """Keep events that were rejected at the same moment; on return they are in the store, or dropped."""
        day = day_of(received_ms)
        if day != self._day:
            self._day, self._count = day, 0
        if self._count == self._max:
            self.on_dropped(len(rejected))
            return
        self._count += 1
        lines = b"".join(line_of(one, received_ms) for one in rejected)
        try:
            async with asyncio.timeout(self._within_s):
                await self._store.put(f"rejected/day={day}/{self._writer}-{self._count}.jsonl", lines)
        except (PingfeedError, TimeoutError) as error:
            _log.warning("rejected events could not be kept", extra={"reason": str(error) or "the store hangs"})
            self.on_dropped(len(rejected))

    async def close(self) -> None:
        """Close the store; nothing waits."""
        await self._store.close()
