"""The spool: accepted rows that are not yet at the sink, in one locked directory per process.

Constraints
- Nothing is acknowledged before it is durable: `append` returns after a sync, so a kill or a power cut at any moment
  loses nothing that it returned for. What it did not return for may or may not be there.
- Bounded: the segments together hold at most `max_bytes`. Beyond that, and while the disk is full or fails, `append`
  raises Unavailable; it accepts again as soon as there is room. Nothing is ever dropped to make room. Appends stop a
  little before the disk is full (`disk.py`), so that delivery can still make room.
- The unit of delivery is a segment: rows of one UTC day of arrival, at most `segment_bytes` and `segment_events`. It is
  removed only once it is at the sink **and** the signals of all its records are applied.
- A segment that was at the sink, but not yet in the tally, when the process died is delivered again under the same
  name: twice, never lost. It is counted once.
- Damage (a torn tail, a flipped bit, a truncated file) costs the records that it hit and no others, never stops the
  process, and is reported: in the log, in `damage`, and by the bytes in `damaged/`.

On disk
- `lock`: an empty file; the process that owns the spool holds `flock` on it.
- `<first id>.segment`: accepted requests, one after the other; format in `segment.py`. Ids ascend and are never reused.
  Only the newest is appended to, and only by the process that created it.
- `tally.json`: the spool's id, what was delivered by day, and the id up to which segments are at the sink.
  Format in `checkpoint.py`.
- `damaged/<file>-<offset>`: bytes that belong to no whole record, at most 64 MiB of them (`recovery.py`).
- `probe`: written to test whether a disk that failed works again.

Operations
- append: into the open segment, by group commit (`group_commit.py`).
- seal: close the open segment to further appends. A full segment, one of another day, and all that a start finds are
  closed too.
- next_batch: the oldest closed segment that is not at the sink.
- ack: it is at the sink. The tally is replaced; then the file is removed, unless records of it wait for their signals.
- done, requeue: the signals of one append are applied, or have to be applied later (`replay.py`). After a restart the
  signals of every remaining segment have to be applied again.
"""

import asyncio
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from pingfeed.core.clock import DAY_MS, Clock, day_of, system_clock
from pingfeed.core.errors import PingfeedError, Unavailable
from pingfeed.core.words import counted
from pingfeed.spool.checkpoint import FILE as TALLY
from pingfeed.spool.checkpoint import LOCK
from pingfeed.spool.disk import Disk
from pingfeed.spool.group_commit import GroupCommit, LogFile
from pingfeed.spool.recovery import DamageLog, lock, recover
from pingfeed.spool.segment import Record, Segment, SpooledBatch, encode_head, first_id_of, header, name_of

MAX_BYTES: Final = 1 << 30
SEGMENT_BYTES: Final = 16 << 20
SEGMENT_EVENTS: Final = 50_000
_FULL_RETRY_S: Final = 5
_PROBE_BYTES: Final = 4096
_REQUEST_BYTES: Final = 1 << 20
"""The largest request (`events.MAX_BODY_BYTES`): with less room the spool is not ready, though it takes what fits."""


class Spool:
    """The spool in `directory`, which is created if needed. Raises Busy if another process has it, Unavailable.

    Its methods belong to one event loop; `records` may be called from any thread.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = MAX_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        segment_events: int = SEGMENT_EVENTS,
        disk: Disk | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self.directory, self.max_bytes = directory, max_bytes
        self._segment_bytes, self._segment_events = segment_bytes, segment_events
        self._disk = disk or Disk()
        self._clock = clock
        self._damage = DamageLog(directory, self._disk)
        self.damage = self._damage.found
        """The damage found by this process, by file name."""
        self._lock = lock(directory)
        try:
            found = recover(directory, self._disk, clock(), self._damage)
        except PingfeedError:
            os.close(self._lock)
            raise
        self._tally, self._next_id, self._segments = found.tally, found.next_id, found.segments
        self.spool_id = found.tally.spool_id
        """16 hex digits, created with the directory; part of every batch's name."""
        self.accepted = 0
        """Events that this process made durable."""
        self.on_appended: Callable[[], None] = lambda: None
        self.on_requeued: Callable[[], None] = lambda: None
        self._commit = GroupCommit(self._disk)
        self._open: Segment | None = None
        self._disk_failed = False
        self._replacing: asyncio.Future[None] | None = None
        self._closed = False

    async def append(self, lines: bytes, count: int, received_ms: int, *, in_flight: bool = False) -> Segment:
        """Store `count` rows; once they are durable, return the segment that holds them.

        With `in_flight` the segment stays until the caller calls `done` or `requeue`; if it is cancelled meanwhile its
        rows are requeued. Raises Unavailable (with `retry_after_s`) if the spool is full or the disk fails: nothing was
        stored.
        """
        record = Record(self._next_id, lines, count, received_ms)
        self._check_room(record.size)
        segment = self._segment_for(record)
        self._next_id += 1
        durable = asyncio.get_running_loop().create_future()
        segment.bytes += record.size
        segment.events += count
        segment.writing += 1
        segment.in_flight += in_flight
        parts = encode_head(record.id, lines, count, received_ms), lines
        self._commit.append(segment.file, parts, partial(self._written, segment, record, in_flight, durable))
        try:
            await asyncio.shield(durable)
        except asyncio.CancelledError:
            durable.add_done_callback(partial(self._abandoned, segment, in_flight))
            raise
        return segment

    def done(self, segment: Segment) -> None:
        """The signals of one append in flight are applied."""
        segment.in_flight -= 1

    def requeue(self, segment: Segment) -> None:
        """The signals of one append in flight have to be applied later; the segment stays until they are."""
        segment.in_flight -= 1
        self.replay(segment)

    def replay(self, segment: Segment) -> None:
        """All signals of a segment have to be applied (again)."""
        segment.requeued += 1
        self.on_requeued()

    def depth(self) -> tuple[int, int]:
        """Events that are not at the sink, and their bytes; those being written count too."""
        return sum(one.events for one in self._undelivered), sum(one.bytes for one in self._undelivered)

    def has_full(self) -> bool:
        """Whether a closed segment waits for delivery."""
        return self._undelivered[:1] not in ([], [self._open])

    def seal(self) -> int:
        """Close the open segment: later appends go into another one. Returns the id that was assigned last."""
        self._open = None
        return self._next_id - 1

    async def next_batch(self) -> SpooledBatch | None:
        """The oldest closed segment that is not at the sink; None if there is none. Raises Unavailable."""
        while self.has_full():
            segment = self._undelivered[0]
            while segment.writing:
                await self._commit.turn()
            self._close_file(segment)
            if segment.events:
                return self._batch(segment, await asyncio.to_thread(self.records, segment))
            await self._remove(segment)  # None of its appends became durable.
        return None

    async def ack(self, batch: SpooledBatch) -> None:
        """The last batch of `next_batch` is at the sink: count it, and remove it once its signals are applied.

        Idempotent. Raises Unavailable: then it may not count yet.
        """
        segment = batch.segment
        if not segment.delivered:
            day = {day_of(batch.received_ms): batch.events} if batch.events or batch.lost else {}
            tally = self._tally.acked(segment.last_id, day, self._clock(), batch.lost)
            # Once begun, `close` waits for it: this process must not write to the directory afterwards.
            write = asyncio.to_thread(tally.write, self.directory / TALLY, self._disk.write_whole)
            self._replacing = asyncio.ensure_future(write)
            await asyncio.shield(self._replacing)
            self._tally = tally
            segment.delivered = True
        await self.sweep()

    async def sweep(self) -> None:
        """Remove segments that are at the sink and whose signals are applied. Raises Unavailable."""
        for segment in [one for one in self._segments if one.delivered]:
            if not segment.in_flight and segment.requeued == segment.replayed:
                await self._remove(segment)

    def segments(self) -> list[Segment]:
        """All segments, delivered or not, oldest first."""
        return list(self._segments)

    def unapplied(self) -> list[Segment]:
        """Segments with signals to be applied later, oldest first."""
        return [segment for segment in self._segments if segment.requeued > segment.replayed]

    def records(self, segment: Segment) -> list[Record]:
        """A segment's durable records; damage is logged. For any thread. Raises Unavailable."""
        return self._damage.records_of(segment)

    async def check(self) -> None:
        """Raise Unavailable if an append, at least a large one, would fail now."""
        room = min(_REQUEST_BYTES, self.max_bytes // 16)
        self._check_room(room)
        try:
            await asyncio.to_thread(self._probe, room)
        except OSError as error:
            raise _not_written(error) from error

    async def idle(self) -> None:
        """Wait until every append in progress is durable or has failed."""
        await self._commit.idle()

    async def close(self) -> None:
        """Finish the appends in progress and release the directory. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._commit.close()
            if self._replacing is not None:
                await asyncio.wait([self._replacing])
        finally:
            for segment in self._segments:
                self._close_file(segment)
            os.close(self._lock)

    @property
    def _undelivered(self) -> list[Segment]:
        return [one for one in self._segments if not one.delivered]

    def _check_room(self, size: int) -> None:
        if self._closed:
            raise Unavailable(f"the spool {self.directory} is closed")
        if sum(one.bytes for one in self._segments) + size > self.max_bytes:
            message = f"the spool is full: {counted(self.depth()[0], 'event')} waiting for delivery"
            raise Unavailable(message, retry_after_s=_FULL_RETRY_S)

    def _probe(self, room: int) -> None:
        """OSError if the disk would fail an append; after a failed one, find out by writing to it."""
        if self._disk.spare(self.directory) < room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._disk_failed:
            self._disk.write_whole(self.directory / "probe", bytes(_PROBE_BYTES))

    def _segment_for(self, record: Record) -> Segment:
        """The open segment, or a new one if that is full, of another day, or broken."""
        one, day = self._open, record.received_ms // DAY_MS
        if one is not None and one.day == day and not one.file.broken:
            size, events = one.bytes + record.size, one.events + record.count
            if not one.bytes or (size <= self._segment_bytes and events <= self._segment_events):
                return one
        path = self.directory / name_of(record.id)
        self._open = Segment(record.id, day, LogFile(path, header(self.spool_id)))
        self._segments.append(self._open)
        return self._open

    def _written(
        self,
        segment: Segment,
        record: Record,
        in_flight: bool,
        durable: "asyncio.Future[None]",
        error: OSError | None,
    ) -> None:
        """An append is durable or has failed."""
        segment.writing -= 1
        self._disk_failed = error is not None
        if error is None:
            segment.last_id = record.id
            self.accepted += record.count
            self.on_appended()
            durable.set_result(None)
            return
        segment.bytes -= record.size
        segment.events -= record.count
        segment.in_flight -= in_flight
        if isinstance(error, FileNotFoundError):
            self._restore()
        durable.set_exception(_not_written(error))

    def _restore(self) -> None:
        """Make the directory, its lock and its tally anew where somebody removed them."""
        with suppress(OSError, PingfeedError):
            if not (self.directory / LOCK).exists():
                held, self._lock = self._lock, lock(self.directory)
                os.close(held)
            if not (self.directory / TALLY).exists():
                self._tally.write(self.directory / TALLY, self._disk.write_whole)

    def _abandoned(self, segment: Segment, in_flight: bool, durable: "asyncio.Future[None]") -> None:
        """The caller of an append was cancelled: its rows are durable all the same, or have failed."""
        if durable.exception() is None and in_flight:
            self.requeue(segment)

    def _batch(self, segment: Segment, found: list[Record]) -> SpooledBatch:
        events = sum(record.count for record in found)
        return SpooledBatch(
            name=f"{self.spool_id}-{first_id_of(segment.file.path.name):012d}-{segment.last_id:012d}",
            lines=[record.lines for record in found],
            received_ms=min((record.received_ms for record in found), default=segment.day * DAY_MS),
            events=events,
            segment=segment,
            lost=max(0, segment.events - events),
        )

    async def _remove(self, segment: Segment) -> None:
        self._close_file(segment)
        try:
            await asyncio.to_thread(self._disk.remove, segment.file.path)
        except OSError as error:
            raise Unavailable(f"{segment.file.path} cannot be removed: {error.strerror or error}") from error
        if segment in self._segments:  # Two callers may have removed it concurrently.
            self._segments.remove(segment)

    def _close_file(self, segment: Segment) -> None:
        handle, segment.file.handle = segment.file.handle, -1
        if handle >= 0:
            with suppress(OSError):  # It was synced, and is closed whatever the system reports.
                self._disk.close(handle)


def _not_written(error: OSError) -> Unavailable:
    failed = Unavailable(f"the spool cannot be written: {error.strerror or error}", retry_after_s=_FULL_RETRY_S)
    failed.__cause__ = error
    return failed
