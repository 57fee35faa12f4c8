"""What everything kept in SQLite shares: how a file is opened, read inline, and written by one thread.

Each store has a reading connection, for the event loop (a point read is microseconds), and a writing one, which only
its own thread touches. Calls that wait for the writer at the same time share one transaction (group commit): the cost
of a sync is paid once for all of them. A file that nobody wrote to lately commits at once; a busy one that syncs begins
a transaction every `GAP_S` at most. A call's changes are kept or undone alone.

`durable=True` means `synchronous=FULL`: what `write` returned from survives a power cut. Without it a power cut may
take the last moments, a kill of the process nothing. Readers and writers in other processes are welcome: the files are
in WAL mode and every transaction that writes is immediate, so nobody acts on a state that another is changing.
"""

import asyncio
import mmap
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.files import make_folder

_T = TypeVar("_T")
_READ_WAIT_MS: Final = 100
_WRITE_WAIT_MS: Final = 5000
_OPEN_WAIT_S: Final = 10.0
_GROUP: Final = 1000
GAP_S: Final = 0.003
"""Between the beginnings of two transactions that sync: as in the spool, a sync costs a core dearly."""
_WAL_LIMIT: Final = 64 << 20


def connect(path: Path, *, wait_ms: int, durable: bool, erase: bool = False) -> sqlite3.Connection:
    """A connection in WAL mode without implicit transactions; sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=wait_ms / 1000, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.execute(f"PRAGMA fullfsync={int(durable)}")  # Where fsync does not reach the disk (macOS).
        connection.execute(f"PRAGMA journal_size_limit={_WAL_LIMIT}")
        connection.execute("PRAGMA cache_size=-16000")
        connection.execute(f"PRAGMA secure_delete={int(erase)}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@dataclass(slots=True, eq=False)
class _Job:
    """One call of `write`: what it does, who waits for it, and how it went."""

    work: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None

    def settle(self) -> None:
        """Tell the waiter, on its own loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Database:
    """One SQLite file with its reader and its writer thread. Raises Unavailable, here and in every method.

    `schema` makes a new file, and takes one of an older `version` over: its statements must work on both, and again
    where they were run half-way or by two processes. The file's `user_version` says that it is finished, and of which
    format; FormatError where that is newer than this program's. `erase` overwrites with zeros what is deleted.
    """

    def __init__(
        self, path: Path, schema: Iterable[str], *, durable: bool, version: int = 1, erase: bool = False
    ) -> None:
        self.path = path
        self._durable, self._erase, self._version = durable, erase, version
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        try:
            make_folder(path.parent)
            self._writer = self._opened(tuple(schema))
            self._reader = connect(path, wait_ms=_READ_WAIT_MS, durable=durable)
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"{path} cannot be opened: {error}") from error

    def _opened(self, schema: Iterable[str]) -> sqlite3.Connection:
        """The writing connection; waits while another process creates the same file (WAL's switch cannot wait)."""
        deadline = time.monotonic() + _OPEN_WAIT_S
        while True:
            try:
                return self._prepared(schema)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def _prepared(self, schema: Iterable[str]) -> sqlite3.Connection:
        connection = connect(self.path, wait_ms=_WRITE_WAIT_MS, durable=self._durable, erase=self._erase)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > self._version:
                raise FormatError(f"{self.path} is of format {version}, this program's is {self._version}")
            # The version comes last: a file whose maker was killed half-way is finished by the next to open it.
            for statement in (*schema, f"PRAGMA user_version={self._version}") if version < self._version else ():
                connection.execute(statement)
        except (sqlite3.Error, FormatError):
            connection.close()
            raise
        return connection

    def one(self, sql: str, *values: object) -> Any:
        """The first row of a query, None if there is none. Runs on the calling thread."""
        try:
            return self._reader.execute(sql, values).fetchone()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def all(self, sql: str, *values: object) -> list[Any]:
        """Every row of a query. Runs on the calling thread."""
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    async def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` in the writer's next transaction; returns what it returned once that is committed.

        `work` runs on the writer's thread and may run once only; what it raises is raised here, its changes undone.
        """
        if self._closed:
            raise Unavailable(f"{self.path} is closed")
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future())
        self._queue.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"writer of {self.path.name}", daemon=True)
            self._thread.start()
        result: _T = await job.future
        return result

    async def check(self) -> None:
        """Raise Unavailable if the file cannot be read or its write lock not be had."""
        self.one("SELECT 1 FROM sqlite_schema")
        await self.write(_nothing)

    async def erase(self, text: bytes) -> None:
        """See to it that `text`, which was deleted, is nowhere in the file or the journal beside it.

        What is deleted is overwritten in a file that was opened so, but a page that was laid out anew may hold an older
        copy: where one is found the whole file is written again (seconds, in which others' writes wait; so too where
        the text is part of another that was not deleted). Unavailable where others keep the file busy.
        """
        await asyncio.to_thread(self._erase_now, text)

    def _erase_now(self, text: bytes) -> None:
        try:
            with closing(connect(self.path, wait_ms=_WRITE_WAIT_MS, durable=self._durable)) as connection:
                self._empty_journal(connection)
                with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    left = data.find(text) >= 0
                if left:
                    connection.execute("VACUUM")
                    self._empty_journal(connection)
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error

    def _empty_journal(self, connection: sqlite3.Connection) -> None:
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise Unavailable(f"{self.path} is in use: its journal could not be emptied")

    async def close(self) -> None:
        """Finish what was asked for, then let the file go. Again is fine."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            # What was removed is not to stay in the log beside the file while other processes keep both open.
            with suppress(sqlite3.Error):
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._reader.close()
        self._writer.close()

    def _work(self) -> None:
        gap_s = GAP_S if self._durable else 0.0
        began = -GAP_S
        while (job := self._queue.get()) is not None:
            left_s = began + gap_s - time.monotonic()
            if left_s > 0:
                time.sleep(left_s)
            began = time.monotonic()
            jobs = [job, *self._waiting()]
            self._commit(jobs)
            for loop in {job.loop for job in jobs}:
                with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
                    loop.call_soon_threadsafe(_settle, [job for job in jobs if job.loop is loop])

    def _waiting(self) -> list[_Job]:
        """What else has been asked for by now, up to a size that keeps the others' wait short."""
        jobs: list[_Job] = []
        with suppress(queue.Empty):
            while len(jobs) < _GROUP:
                job = self._queue.get_nowait()
                if job is None:
                    self._queue.put(None)
                    break
                jobs.append(job)
        return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        """One transaction for all; where the database refuses, all of them fail and nothing is kept."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            self._writer.execute("BEGIN IMMEDIATE")
            for job in jobs:
                self._attempt(job)
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            for job in jobs:
                job.error = self._unavailable(error)
                job.error.__cause__ = error

    def _attempt(self, job: _Job) -> None:
        self._writer.execute("SAVEPOINT job")
        try:
            job.result = job.work(self._writer)
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - raised again where the work was asked for
            job.error = error
            self._writer.execute("ROLLBACK TO job")
        self._writer.execute("RELEASE job")

    def _unavailable(self, error: Exception) -> Unavailable:
        return Unavailable(f"{self.path} does not take part: {error}")


def _settle(jobs: list[_Job]) -> None:
    for job in jobs:
        job.settle()


def _nothing(_: sqlite3.Connection) -> None:
    """The work of a check: the empty transaction still takes the write lock."""
