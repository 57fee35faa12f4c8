"""The spool: what has been accepted and is not yet at the sink, in one locked directory a process.

Constraints
- Nothing is acknowledged before it is durable: `append` returns after a sync, so a kill or a power cut at any moment
  loses nothing that it returned for. What it did not return for may be there or not.
- Bounded: the segments together hold at most `max_bytes`; past that `append` raises Unavailable, as it does when the
  disk is full or refuses, and it accepts again by itself once there is room. Nothing is ever dropped to make room. A
  disk is full for appends a little before it is for delivery (`local/disk.py`), which makes room.
- The unit of delivery is a segment: of one UTC day of arrival, at most `segment_bytes` and `segment_events`. It leaves
  only when it is at the sink **and** the signals of all its records are applied.
- A segment that was at the sink, but not in the tally yet, when the process died is delivered again, under the same
  name: twice, never lost. It is counted once.
- Damage (a torn tail, a flipped bit, a file that was cut) costs the records that it hit and no others, crashes nothing,
  and is told: in the log, in `damage`, and its bytes lie in `damaged/`.

On disk
- `lock`: an empty file; the process that owns the spool holds `flock` on it. The kernel lets go when the process ends.
- `<first id>.segment`: accepted requests, appended one after the other; format in `segment.py`. Ids ascend and are
  never used again. Only the newest is ever appended to, and only by the process that made it.
- `tally.json`: the spool's id, what was delivered by day, and `settled_to`: segments up to that id are at the sink.
  Format in `tally.py`. Replacing it is the moment in which a segment counts as delivered; its file goes after that.
- `damaged/<file>-<offset>`: bytes that are no whole record, at most 64 MiB of them (`damage.py`).
- `probe`: what a look whether the disk takes bytes again wrote. The ingest keeps its `rejected/` here too, where the
  lake is no folder.

Operations
- append: into the open segment, by group commit (`group_commit.py`).
- seal: the open segment is closed: nothing is appended to it any more. So is a full one, one of another day, and all
  that a start finds.
- next_batch: the oldest closed segment that is not at the sink.
- settle: it is at the sink. The tally is replaced; then the file goes, unless records of it still wait for signals.
- release, postpone: of one append, its signals are applied, or have to be applied later (`replay.py`). After a restart
  all that is still there has to be applied again.
"""

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from pingfeed.core.clock import DAY_MS, Clock, day_of, system_clock
from pingfeed.core.errors import PingfeedError, Unavailable
from pingfeed.spool.checkpoint import FILE as TALLY
from pingfeed.spool.checkpoint import Tally
from pingfeed.spool.damage import DamageLog
from pingfeed.spool.disk import Disk, SystemDisk
from pingfeed.spool.group_commit import GroupCommit, LogFile
from pingfeed.spool.lock import take_lock
from pingfeed.spool.recovery import recover
from pingfeed.spool.segment import HEAD_BYTES, Damage, Record, encode_head, first_id_of, header, name_of, records
from pingfeed.spool.spooled import Append, Segment, SpooledBatch, as_segment

MAX_BYTES: Final = 1 << 30
SEGMENT_BYTES: Final = 16 << 20
SEGMENT_EVENTS: Final = 50_000
_FULL_RETRY_S: Final = 5
_PROBE_BYTES: Final = 4096
_REQUEST_BYTES: Final = 1 << 20
"""A request may be as large (`events.MAX_BODY_BYTES`): while there is less room the spool is not ready, though it takes
what fits."""


class Spool:
    """The spool in `directory`, created where there is none. Raises Busy if another process has it, Unavailable.

    Its methods belong to one event loop, `records` to any thread.
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
        self._disk: Disk = SystemDisk() if disk is None else disk
        self._clock = clock
        self._damage = DamageLog(directory, self._disk)
        self._lock = take_lock(directory)
        try:
            found = recover(directory, self._disk, clock(), self._damage)
        except PingfeedError:
            os.close(self._lock)
            raise
        self._tally, self._next_id = found.tally, found.next_id
        self.accepted = 0
        """Events that this process made durable."""
        self.on_appended: Callable[[], None] = _nothing
        self.on_postponed: Callable[[Segment], None] = lambda _segment: None
        self._commit = GroupCommit(self._disk)
        self._segments = [as_segment(one, found.tally.settled_to) for one in found.segments]
        self._undelivered = deque(one for one in self._segments if not one.delivered)
        self._open: Segment | None = None
        self._stored = sum(one.bytes for one in self._segments)
        self._waiting_events = sum(one.events for one in self._undelivered)
        self._waiting_bytes = sum(one.bytes for one in self._undelivered)
        self._refusal = ""
        self._counting: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def spool_id(self) -> str:
        """16 hex digits made with the directory, part of every batch's name."""
        return self._tally.spool_id

    @property
    def damage(self) -> list[tuple[str, Damage]]:
        """What was found to be no whole record, by file name."""
        return self._damage.found

    @property
    def last_id(self) -> int:
        """The id that was given last."""
        return self._next_id - 1

    async def append(self, lines: bytes, count: int, received_ms: int, *, held: bool = False) -> Segment:
        """Take `count` rows in; returns where they are once they are durable.

        With `held` the segment stays until `release` or `postpone`, which the caller owes; one that is cancelled
        meanwhile owes nothing, for its records are postponed. Raises Unavailable (with `retry_after_s`) where the
        spool is full or the disk refuses: nothing was taken.
        """
        size = HEAD_BYTES + len(lines)
        self._check_room(size)
        segment = self._segment_for(size, count, received_ms // DAY_MS)
        self._next_id += 1
        waiter = asyncio.get_running_loop().create_future()
        one = Append(segment, self._next_id - 1, size, count, held, waiter)
        segment.bytes += size
        segment.events += count
        segment.writing += 1
        segment.applying += held
        self._stored += size
        head = encode_head(one.id, lines, count, received_ms)
        self._commit.append(segment.file, (head, lines), partial(self._done, one))
        try:
            await waiter
        except asyncio.CancelledError:
            # Durable in the very turn in which the caller was cancelled: `_done` has not seen that.
            if held and waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.postpone(segment)
            raise
        return segment

    def release(self, segment: Segment) -> None:
        """One held append's signals are applied."""
        segment.applying -= 1

    def postpone(self, segment: Segment) -> None:
        """One held append's signals have to be applied later; the segment stays until they are."""
        segment.applying -= 1
        self.replay(segment)

    def replay(self, segment: Segment) -> None:
        """All of a segment's signals have to be applied (again)."""
        segment.postponed += 1
        self.on_postponed(segment)

    def depth(self) -> tuple[int, int]:
        """Events that are not at the sink, and their bytes."""
        return self._waiting_events, self._waiting_bytes

    def has_full(self) -> bool:
        """Whether a segment waits for delivery that takes no more."""
        return bool(self._undelivered) and self._undelivered[0] is not self._open

    def seal(self) -> None:
        """Close the open segment: what is appended from now on is in another one."""
        self._open = None

    async def next_batch(self) -> SpooledBatch | None:
        """The oldest closed segment that is not at the sink; None if there is none. Raises Unavailable."""
        while self.has_full():
            segment = self._undelivered[0]
            while segment.writing:
                await self._commit.turn()
            self._let_go(segment)
            if segment.events:
                return self._batch(segment, await asyncio.to_thread(self.records, segment))
            await self._remove(segment)  # Nothing that was written to it became durable.
            self._undelivered.popleft()
        return None

    async def settle(self, batch: SpooledBatch) -> None:
        """The batch that `next_batch` gave last is at the sink: count it; remove it once its signals are applied.

        Again is fine. Raises Unavailable: then it does not count yet.
        """
        segment = batch.segment
        if not segment.delivered:
            day = {day_of(batch.received_ms): batch.events} if batch.events else {}
            tally = self._tally.settled(segment.last_id, day, self._clock())
            await self._replace_tally(tally)
            self._tally = tally
            segment.delivered = True
            self._undelivered.popleft()
            self._waiting_events -= segment.events
            self._waiting_bytes -= segment.bytes
        await self.sweep()

    async def _replace_tally(self, tally: Tally) -> None:
        """Once begun it is waited for, by `close` too: nothing of this process may touch the directory after that."""
        self._counting = asyncio.ensure_future(
            asyncio.to_thread(tally.write, self.directory / TALLY, self._disk.write_whole)
        )
        await asyncio.shield(self._counting)

    async def sweep(self) -> None:
        """Remove what is at the sink and waits for no signals any more. Raises Unavailable."""
        for segment in [one for one in self._segments if one.delivered]:
            if not segment.applying and segment.postponed == segment.caught_up_to:
                await self._remove(segment)

    def segments(self) -> list[Segment]:
        """Everything that is here, delivered or not, oldest first."""
        return list(self._segments)

    def unapplied(self) -> list[Segment]:
        """Segments with records whose signals have to be applied later, oldest first."""
        return [segment for segment in self._segments if segment.postponed > segment.caught_up_to]

    def records(self, segment: Segment) -> list[Record]:
        """A segment's durable records; damage since they were written is told. For any thread. Raises Unavailable."""
        path = segment.file.path
        try:
            data = self._disk.read(path)[: segment.file.size]
        except FileNotFoundError:  # It has left, or is not there yet; or somebody removed it.
            if not segment.delivered and segment.file.size:
                self._damage.set_aside(path.name, Damage(0, segment.file.size, "the file is gone"), b"")
            return []
        except OSError as error:
            raise Unavailable(f"{path} cannot be read: {error.strerror or error}") from error
        if len(data) < segment.file.size:
            self._damage.set_aside(path.name, Damage(len(data), segment.file.size, "the file was cut"), b"")
        found = list(records(data))
        for one in found:
            if isinstance(one, Damage):
                self._damage.set_aside(path.name, one, data[one.start : one.end])
        return [one for one in found if isinstance(one, Record)]

    async def check(self) -> None:
        """Raise Unavailable if an append would be refused now, a large one at least."""
        room = min(_REQUEST_BYTES, self.max_bytes // 16)
        self._check_room(room)
        try:
            await asyncio.to_thread(self._probe, room)
        except OSError as error:
            raise _refused(error) from error

    def _probe(self, room: int) -> None:
        """OSError if the disk would refuse an append; after one that it did refuse, by writing to it."""
        if self._disk.spare(self.directory) < room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._refusal:
            self._disk.write_whole(self.directory / "probe", bytes(_PROBE_BYTES))

    async def idle(self) -> None:
        """Wait until all that is being appended is durable or refused."""
        await self._commit.idle()

    async def close(self) -> None:
        """Finish what was asked for and let the directory go. Again is fine."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._commit.close()
            if self._counting is not None:
                await asyncio.wait([self._counting])
        finally:
            for segment in self._segments:
                self._let_go(segment)
            os.close(self._lock)

    def _check_room(self, size: int) -> None:
        if self._closed:
            raise Unavailable(f"the spool {self.directory} is closed")
        if self._stored + size > self.max_bytes:
            raise Unavailable(
                f"the spool is full: {self._waiting_events} events wait for delivery", retry_after_s=_FULL_RETRY_S
            )

    def _segment_for(self, size: int, count: int, day: int) -> Segment:
        """The open segment, or a new one where that is full, of another day, or cannot be written any more."""
        one = self._open
        if one is not None and one.day == day and not one.file.broken:
            has_room = one.bytes + size <= self._segment_bytes and one.events + count <= self._segment_events
            if has_room or not one.bytes:
                return one
        path = self.directory / name_of(self._next_id)
        self._open = Segment(self._next_id, day, LogFile(path, header(self.spool_id)))
        self._segments.append(self._open)
        self._undelivered.append(self._open)
        return self._open

    def _done(self, one: "Append", error: OSError | None) -> None:
        """An append is durable, or was not possible."""
        segment = one.segment
        segment.writing -= 1
        if error is None:
            segment.last_id = one.id
            self._waiting_events += one.count
            self._waiting_bytes += one.size
            self.accepted += one.count
            self._refusal = ""
            self.on_appended()
            if not one.waiter.done():
                one.waiter.set_result(None)
            elif one.held:
                self.postpone(segment)
            return
        segment.bytes -= one.size
        segment.events -= one.count
        segment.applying -= one.held
        self._stored -= one.size
        self._refusal = str(error)
        if not one.waiter.done():
            one.waiter.set_exception(_refused(error))

    def _batch(self, segment: Segment, found: list[Record]) -> SpooledBatch:
        return SpooledBatch(
            name=f"{self.spool_id}-{first_id_of(segment.file.path.name):012d}-{segment.last_id:012d}",
            lines=[record.lines for record in found],
            received_ms=min((record.received_ms for record in found), default=segment.day * DAY_MS),
            events=sum(record.count for record in found),
            segment=segment,
        )

    async def _remove(self, segment: Segment) -> None:
        self._let_go(segment)
        try:
            await asyncio.to_thread(self._disk.remove, segment.file.path)
        except OSError as error:
            raise Unavailable(f"{segment.file.path} cannot be removed: {error.strerror or error}") from error
        if segment in self._segments:  # Two may have been at it.
            self._segments.remove(segment)
            self._stored -= segment.bytes

    def _let_go(self, segment: Segment) -> None:
        handle, segment.file.handle = segment.file.handle, -1
        if handle >= 0:
            with suppress(OSError):  # It was synced; and the system has let it go, whatever it says.
                self._disk.close(handle)


def _refused(error: OSError) -> Unavailable:
    refused = Unavailable(f"the spool cannot be written: {error.strerror or error}", retry_after_s=_FULL_RETRY_S)
    refused.__cause__ = error
    return refused


def _nothing() -> None:
    """Until somebody listens."""
