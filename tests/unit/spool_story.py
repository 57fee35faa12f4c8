"""A model of a spool on a failing disk: it takes the same steps and checks the invariants after each.

Every record has a unique text. An acknowledged record stays in the spool until it is at the sink and counted; a counted
record is never delivered again; no record appears that was not written.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import PingfeedError
from pingfeed.spool.checkpoint import FILE, Tally
from pingfeed.spool.segment import Record, Segment, SpooledBatch
from pingfeed.spool.spool import Spool
from tests.conformance.samples import NOON_MS
from tests.unit.power_cut import PowerCutDisk

SEGMENT_BYTES = 400


class Story:
    """One spool through its lives. Every step may fail as the disk does; none may break a promise."""

    def __init__(self, seed: int = 0) -> None:
        self.loop = asyncio.new_event_loop()
        self.disk = PowerCutDisk(seed)
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.now_ms = NOON_MS
        self.tried: dict[bytes, int] = {}
        """Text to rows of every record that an append was asked for."""
        self.acknowledged: set[bytes] = set()
        self.offered: set[bytes] = set()
        """In a batch that the sink took and that was to be acked."""
        self.acked: set[bytes] = set()
        """Those of them whose ack returned."""
        self.owed: set[bytes] = set()
        """Acknowledged, and their signals have to be applied later."""
        self.batch: SpooledBatch | None = None
        self.spool: Spool | None = None
        self.cuts = 0

    def open(self) -> None:
        """Retry the start through power cuts and errors, then check what was recovered."""
        while self.spool is None:
            if self.disk.is_dead:
                self.disk, self.cuts = self.disk.after_the_cut(), self.cuts + 1
            try:
                self.spool = self.loop.run_until_complete(self._opened())
            except PingfeedError:
                continue
        self._look(self.spool)

    def append(self, sizes: Sequence[int], *, days: int = 0, in_flight: bool = False, applied: bool = True) -> None:
        """Append records of so many rows at the same time."""
        records = [(b"%d:" % (len(self.tried) + n) + b"x" * (17 * rows), rows) for n, rows in enumerate(sizes)]
        self.tried |= dict(records)
        answers = self.loop.run_until_complete(self._append_all(records, self.now_ms + days * DAY_MS, in_flight))
        for (text, _), answer in zip(records, answers, strict=True):
            if isinstance(answer, Segment):
                assert not self.disk.is_dead or answer.file.size, "acknowledged by a disk without power"
                self.acknowledged.add(text)
                if in_flight:
                    self._end_flight(answer, text, applied=applied)
            elif not isinstance(answer, PingfeedError):
                raise answer

    def seal(self) -> None:
        self._spool.seal()

    def take(self) -> None:
        """Give the next batch to the sink."""
        try:
            batch = self.loop.run_until_complete(self._spool.next_batch())
        except PingfeedError:
            return
        self.batch = batch or self.batch
        if batch is not None:
            assert set(batch.lines) <= self.tried.keys(), "the sink got a record that was never written"
            assert not set(batch.lines) & self.acked, "counted, and delivered again"

    def ack(self) -> None:
        """The batch is at the sink."""
        if self.batch is None:
            return
        self.offered |= set(self.batch.lines)
        try:
            self.loop.run_until_complete(self._spool.ack(self.batch))
        except PingfeedError:
            if not self.batch.segment.delivered:
                return
        self.acked |= set(self.batch.lines)
        self.batch = None

    def apply(self) -> None:
        """Apply all waiting signals and remove the finished segments."""
        for segment in self._spool.unapplied():
            try:
                self.owed -= set(_texts(self._spool.records(segment)))
            except PingfeedError:
                continue
            segment.replayed = segment.requeued
        try:
            self.loop.run_until_complete(self._spool.sweep())
        except PingfeedError:
            return

    def end(self, *, by_power_cut: bool) -> None:
        """The process is gone; with the power, or alone."""
        assert not self.disk.misused
        self.loop.run_until_complete(self._spool.close())
        self.spool, self.batch = None, None
        if by_power_cut:
            self.disk.is_dead = True

    def finish(self) -> None:
        """The disk is well again: everything is delivered, counted, and gone."""
        self.disk.faults.clear()
        self.disk.room = 1 << 40
        self.end(by_power_cut=self.disk.is_dead)
        self.open()
        self.append([1])
        self.seal()
        self.take()
        while self.batch is not None:
            self.ack()
            self.take()
        self.apply()
        assert self.acknowledged <= self.offered, "lost"
        assert not self.owed
        assert self._spool.segments() == []
        self.end(by_power_cut=True)
        self.open()  # And looks: all of it is counted.
        assert self._spool.depth() == (0, 0)
        self.close()

    def close(self) -> None:
        """Let everything go."""
        if self.spool is not None:
            self.end(by_power_cut=False)
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _spool(self) -> Spool:
        assert self.spool is not None
        return self.spool

    async def _opened(self) -> Spool:
        return Spool(self.folder, segment_bytes=SEGMENT_BYTES, disk=self.disk, clock=lambda: self.now_ms)

    async def _append_all(
        self, records: Iterable[tuple[bytes, int]], now_ms: int, in_flight: bool
    ) -> Sequence[Segment | BaseException]:
        appends = (self._spool.append(text, rows, now_ms, in_flight=in_flight) for text, rows in records)
        return await asyncio.gather(*appends, return_exceptions=True)

    def _end_flight(self, segment: Segment, text: bytes, *, applied: bool) -> None:
        if applied:
            self._spool.done(segment)
        else:
            self._spool.requeue(segment)
            self.owed.add(text)

    def _look(self, spool: Spool) -> None:
        """What must be true after every start; all that is here has to be applied again."""
        here = {one: _texts(spool.records(one)) for one in spool.segments()}
        for segment in here:
            spool.replay(segment)
        everything = {text for texts in here.values() for text in texts}
        waiting = [text for one, texts in here.items() if not one.delivered for text in texts]
        assert everything <= self.tried.keys(), "a record was never written"
        assert len(waiting) == len(set(waiting))
        assert self.acknowledged - self.offered - set(waiting) == set(), "an acknowledged record is lost"
        assert not self.acked & set(waiting), "a counted record waits again"
        assert self.owed <= everything, "a record left before its signals were applied"
        assert spool.depth()[0] == self._rows(waiting)
        self._look_at_the_tally(set(waiting))

    def _look_at_the_tally(self, waiting: set[bytes]) -> None:
        tally = Tally.of(self.disk.read(self.folder / FILE))
        counted = sum(day.delivered for day in tally.days.values())
        gone = self.offered - waiting
        certain = gone & (self.acknowledged | self.acked)
        assert self._rows(certain) <= counted <= self._rows(gone), "not counted exactly once"

    def _rows(self, texts: Iterable[bytes]) -> int:
        return sum(self.tried[text] for text in texts)


def _texts(found: Iterable[Record]) -> list[bytes]:
    return [record.lines for record in found]
