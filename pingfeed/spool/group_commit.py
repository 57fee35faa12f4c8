"""Group commit: appends that wait at the same time share one write and one sync.

One thread writes; while it waits for the disk, the event loop collects the next group. A quiet service answers after
one sync. A busy one syncs at most every `GAP_S`: a sync costs about as much CPU as ingesting a hundred events, so it is
shared by many requests, which wait a few milliseconds longer.

Nothing is acknowledged whose file is no longer at its path after the sync: somebody removed it, and the next append
begins another one.

After a failed write (a full disk) the file is truncated to its durable bytes and can be appended to again. After a
failed sync the state of the disk is unknown (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX
ATC 2020): the file is marked `broken`, nothing more is appended to it, and its durable bytes remain valid.
"""

import asyncio
import errno
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pingfeed.spool.disk import Disk

Done = Callable[[OSError | None], None]
"""Called on the loop, in order, with the outcome of an append; None: it is durable."""

GAP_S: Final = 0.003
"""Minimum time between the starts of two syncs."""
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class LogFile:
    """An append-only file that starts with `head`; its first append creates it."""

    path: Path
    head: bytes
    size: int = 0
    """Its durable bytes. Anything after them was never acknowledged."""
    broken: bool = False
    handle: int = -1


@dataclass(eq=False, slots=True)
class _Group:
    parts: dict[LogFile, list[bytes]] = field(default_factory=dict)
    waiting: list[tuple[LogFile, Done]] = field(default_factory=list)
    failures: dict[LogFile, OSError] = field(default_factory=dict)


class GroupCommit:
    """Appends to files from one thread. Belongs to one event loop."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._queue: queue.SimpleQueue[tuple[_Group, asyncio.AbstractEventLoop] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._group = _Group()
        self._is_writing = False
        self._began = -GAP_S
        self._turn: asyncio.Future[None] | None = None

    def append(self, file: LogFile, parts: Iterable[bytes], done: Done) -> None:
        """Append to the file and call `done` once that is durable or has failed."""
        group = self._group
        if not group.waiting and not self._is_writing:
            self._write_soon()
        group.parts.setdefault(file, []).extend(parts)
        group.waiting.append((file, done))

    async def turn(self) -> None:
        """Wait until the group that is being written, or else the next one, has been."""
        if self._is_writing or self._group.waiting:
            self._turn = self._turn or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._turn)

    async def idle(self) -> None:
        """Wait until nothing is left to write."""
        while self._is_writing or self._group.waiting:
            await self.turn()

    async def close(self) -> None:
        """Finish all appends and end the thread."""
        await self.idle()
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def _write_soon(self) -> None:
        """Write after this loop iteration, so that concurrent appends form one group, or once the gap is over."""
        loop = asyncio.get_running_loop()
        left_s = self._began + GAP_S - loop.time()
        if left_s > 0:
            loop.call_later(left_s, self._write_next)
        else:
            loop.call_soon(self._write_next)

    def _write_next(self) -> None:
        if self._is_writing or not self._group.waiting:
            return
        self._began = asyncio.get_running_loop().time()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="spool writer", daemon=True)
            self._thread.start()
        group, self._group, self._is_writing = self._group, _Group(), True
        self._queue.put((group, asyncio.get_running_loop()))

    def _written(self, group: _Group) -> None:
        self._is_writing = False
        if self._group.waiting:
            self._write_soon()
        for file, done in group.waiting:
            done(group.failures.get(file))
        if self._turn is not None:
            self._turn.set_result(None)
            self._turn = None

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            group, loop = job
            for file, parts in group.parts.items():
                try:
                    self._commit(file, b"".join(parts))
                except OSError as error:
                    group.failures[file] = error
                except Exception as error:  # noqa: BLE001 - a bug must not leave appends waiting forever
                    _log.exception("the spool's writer failed")
                    file.broken = True
                    group.failures[file] = OSError(errno.EIO, str(error))
            with suppress(RuntimeError):  # The loop is closed, and nothing waits any more.
                loop.call_soon_threadsafe(self._written, group)

    def _commit(self, file: LogFile, data: bytes) -> None:
        if file.broken:
            raise OSError(errno.EIO, "an earlier sync of the file failed")
        if not file.size:
            data = file.head + data
        try:
            spare = self._disk.spare(file.path.parent)
        except FileNotFoundError:  # The folder was removed, and the file with it.
            file.broken = file.size > 0
            raise
        if spare < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if file.handle < 0:
            file.handle = self._disk.create(file.path)
        is_written = False
        try:
            self._disk.write(file.handle, data)
            is_written = True
            self._disk.sync(file.handle)
            self._disk.check_linked(file.handle, file.path)
        except OSError:
            file.broken = is_written  # The sync has failed.
            self._cut(file)
            raise
        file.size += len(data)

    def _cut(self, file: LogFile) -> None:
        """Truncate to the durable bytes; a file without any is created anew by its next append."""
        if not file.size:
            handle, file.handle, file.broken = file.handle, -1, False
            self._disk.close(handle)
            return
        try:
            self._disk.truncate(file.handle, file.size)
        except OSError:
            file.broken = True
