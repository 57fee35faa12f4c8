"""What the SQLite adapters share: opening a file, inline reads, a writer thread, sweeping, coalescing.

Each store has a reading connection for the event loop (a point read takes microseconds) and a writing connection that
only its own thread uses. Every write is one immediate transaction. Files are in WAL mode, so readers and writers in
other processes are welcome.

A store is derived from the lake. A file that is damaged, found so at the start or later, is moved to
`<name>.damaged-<seconds>` and a new one begins; `check` reports it until the store is rebuilt. Another process notices
by the file's inode, and follows; so does one whose file was removed.

`durable=True` means `synchronous=FULL`: what `write` returned from survives a power cut. Without it, a power cut may
take the last moments; killing the process loses nothing.
"""

import asyncio
import fcntl
import logging
import mmap
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pingfeed.core.errors import FormatError, Rebuilding, Unavailable
from pingfeed.files import make_folder, quarantine

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_READ_WAIT_MS: Final = 100
_WRITE_WAIT_MS: Final = 5000
_OPEN_WAIT_S: Final = 60.0
"""Long enough for another process to upgrade a large file."""
_POLL_S: Final = 0.00005
"""How often to ask for another process's write lock; SQLite's own busy handler would sleep for milliseconds."""
_LONG_S: Final = 0.001
_YIELD_S: Final = 0.0005
"""After a transaction of `_LONG_S`, leave the write lock alone this long so that other processes get it."""
_WAL_PAGES: Final = 4000
_WAL_LIMIT: Final = 64 << 20
MAX_ITEMS: Final = 20_000
"""In one coalesced call, unless a single caller brings more."""


def connect(path: Path, *, wait_ms: int, durable: bool, erase: bool = False) -> sqlite3.Connection:
    """A connection in WAL mode without implicit transactions; sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=wait_ms / 1000, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.execute(f"PRAGMA fullfsync={int(durable)}")  # Where fsync does not reach the disk (macOS).
        connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={_WAL_LIMIT}")
        connection.execute("PRAGMA cache_size=-16000")
        connection.execute(f"PRAGMA secure_delete={int(erase)}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def copy_database(path: Path, to: Path) -> None:
    """Copy a file as of one moment, while other processes write to it (SQLite's online backup); Unavailable."""
    try:
        with (
            closing(connect(path, wait_ms=_WRITE_WAIT_MS, durable=True)) as source,
            closing(sqlite3.connect(to)) as made,
        ):
            source.backup(made)
    except sqlite3.Error as error:
        raise Unavailable(f"{path} cannot be copied: {error}") from error


def begin(connection: sqlite3.Connection) -> None:
    """Take the write lock, waiting `_WRITE_WAIT_MS` at most for other processes; sqlite3.OperationalError."""
    deadline = time.monotonic() + _WRITE_WAIT_MS / 1000
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            return


class Database:
    """One SQLite file with its reader and its writer thread. Every method raises Unavailable.

    `schema` creates the tables of a new file; for a file of an older `version` it runs as well, then `upgrade`, all in
    one transaction. The file's `user_version` is its format: FormatError if it is newer than `version`. `erase`
    overwrites deleted content with zeros. `renewed` runs when another file has taken the place of the one that was
    read. `missing_s` is how long a store that began anew lacks what was lost; without it until `rebuilt` is called.
    """

    def __init__(
        self,
        path: Path,
        schema: Iterable[str],
        *,
        durable: bool,
        version: int = 1,
        erase: bool = False,
        upgrade: Callable[[sqlite3.Connection], None] | None = None,
        renewed: Callable[[], None] = lambda: None,
        missing_s: float = float("inf"),
    ) -> None:
        self.path = path
        self._schema, self._renewed, self._missing_s = tuple(schema), renewed, missing_s
        self._durable, self._erase, self._version, self._upgrade = durable, erase, version, upgrade
        self._thread = ThreadPoolExecutor(1, f"writer of {path.name}")
        self._closed = False
        self._free_at = 0.0
        try:
            self._writer, self._written = self._intact()
            self._reader, self._read = self._open_reader()
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"{path} cannot be opened: {error}") from error

    def _intact(self) -> tuple[sqlite3.Connection, int]:
        """The writing connection to an intact file, and the file's inode; sqlite3.Error, OSError."""
        make_folder(self.path.parent)
        before = self._inode()
        try:
            connection = self._opened(self._schema)
        except sqlite3.Error as error:
            if not self._is_damage(error):
                raise
            self._begin_anew(before, error)
            connection = self._opened(self._schema)
        return connection, self._inode()

    def _open_reader(self) -> tuple[sqlite3.Connection, int]:
        inode = self._inode()
        return connect(self.path, wait_ms=_READ_WAIT_MS, durable=self._durable), inode

    def _inode(self) -> int:
        """The file's inode, 0 if there is no file."""
        try:
            return os.stat(self.path).st_ino
        except FileNotFoundError:
            return 0

    def _begin_anew(self, damaged: int, error: sqlite3.Error) -> None:
        """Quarantine the file with the inode `damaged`, unless another process has, and create a new one."""
        lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if damaged and self._inode() == damaged:
                now_s = time.time()
                moved = quarantine(self.path, now_s)
                _log.error("%s is damaged (%s): it is now %s, and a new one begins", self.path, error, moved.name)
                with closing(self._opened(self._schema)) as connection:
                    self.begun(connection)
        finally:
            os.close(lock)

    @staticmethod
    def begun(connection: sqlite3.Connection) -> None:
        """Note that the store begins anew and lacks what it should hold."""
        connection.execute(f"PRAGMA application_id={int(time.time())}")

    def rebuilt(self, connection: sqlite3.Connection) -> None:
        """Note that it holds again what it should."""
        if connection.execute("PRAGMA application_id").fetchone()[0]:
            connection.execute("PRAGMA application_id=0")

    def is_whole(self) -> bool:
        """Whether the store holds what it should: it did not begin anew, was rebuilt, or lacks it no longer."""
        (begun_s,) = self.one("PRAGMA application_id")
        return not begun_s or time.time() - begun_s >= self._missing_s

    def _follow_writer(self) -> None:
        """Write to the file that has the name now. On the writer's thread."""
        if self._inode() != self._written:
            self._writer.close()
            self._writer, self._written = self._intact()

    def _follow_reader(self) -> None:
        if self._inode() != self._read:
            self._reader.close()
            self._intact()[0].close()
            self._reader, self._read = self._open_reader()
            self._renewed()

    def _opened(self, schema: Iterable[str]) -> sqlite3.Connection:
        """The writing connection; waits while another process creates the same file (WAL's switch cannot wait)."""
        deadline = time.monotonic() + _OPEN_WAIT_S
        while True:
            try:
                connection = connect(self.path, wait_ms=0, durable=self._durable, erase=self._erase)
                try:
                    self._prepare(connection, schema)
                except BaseException:  # Whatever it was, the file must not stay open.
                    connection.close()
                    raise
                return connection
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def _prepare(self, connection: sqlite3.Connection, schema: Iterable[str]) -> None:
        version = self._version_of(connection)
        if version == self._version:
            return
        if version:
            connection.execute("VACUUM")  # The first formats did not erase what they deleted.
        begin(connection)
        if self._version_of(connection) < self._version:
            for statement in schema:
                connection.execute(statement)
            if self._upgrade is not None:
                self._upgrade(connection)
            connection.execute(f"PRAGMA user_version={self._version}")
        connection.execute("COMMIT")

    def _version_of(self, connection: sqlite3.Connection) -> int:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > self._version:
            raise FormatError(f"{self.path} is of format {version}, this program's is {self._version}")
        return version

    def discard(self, reason: str) -> None:
        """Begin anew: what was read is not what was written (a page beyond a truncated file's end reads as zeros)."""
        try:
            self._begin_anew(self._read, sqlite3.DatabaseError(reason))
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error

    def one(self, sql: str, *values: object) -> Any:
        """The first row of a query, None if there is none. Runs on the calling thread."""
        return self._query(sqlite3.Cursor.fetchone, sql, values)

    def all(self, sql: str, *values: object) -> list[Any]:
        """Every row of a query. Runs on the calling thread."""
        rows: list[Any] = self._query(sqlite3.Cursor.fetchall, sql, values)
        return rows

    def _query(self, take: Callable[[sqlite3.Cursor], Any], sql: str, values: Sequence[Any]) -> Any:
        try:
            self._follow_reader()
            try:
                return take(self._reader.execute(sql, values))
            except sqlite3.Error as error:
                if not self._is_damage(error):
                    raise
                self._begin_anew(self._read, error)
            self._follow_reader()
            return take(self._reader.execute(sql, values))
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error

    async def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` on the writer's thread in a transaction of its own; returns its result once that is committed.

        What `work` raises is raised here, its changes undone.
        """
        if self._closed:
            raise Unavailable(f"{self.path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        time.sleep(max(0.0, self._free_at - time.monotonic()))
        try:
            self._follow_writer()
            try:
                return self._transaction(work)
            except sqlite3.Error as error:
                if not self._is_damage(error):
                    raise
                self._begin_anew(self._written, error)
            self._follow_writer()
            return self._transaction(work)
        except (sqlite3.Error, OSError) as error:
            raise self._unavailable(error) from error

    def _transaction(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        begin(self._writer)
        began = time.monotonic()
        try:
            result = work(self._writer)
            self._writer.execute("COMMIT")
        finally:
            if self._writer.in_transaction:
                with suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
        now = time.monotonic()
        self._free_at = now + _YIELD_S if now - began > _LONG_S else 0.0
        return result

    async def check(self) -> None:
        """Raise Unavailable if the file cannot be read or written, Rebuilding while it lacks something."""
        self.one("SELECT 1 FROM sqlite_schema")
        await self.write(lambda connection: connection.execute(f"PRAGMA user_version={self._version}"))
        if not self.is_whole():
            raise Rebuilding("its file began anew; the next tick rebuilds what it should hold")

    async def erase(self, text: bytes) -> None:
        """Make sure that `text`, which was deleted, is nowhere in the file or its journal.

        Deleted content is overwritten if the file was opened so, but a rearranged page may hold an older copy. If one
        is found, the whole file is rewritten, which takes seconds and blocks other writers (also if the text is part
        of another that was not deleted). Unavailable if other processes keep the file busy.
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
        """Finish pending writes, then close the file. Closing again is fine."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._thread.shutdown)
        # Deleted content must not stay in the journal while other processes keep the file open.
        with suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._reader.close()
        self._writer.close()

    def _is_damage(self, error: sqlite3.Error) -> bool:
        """Whether the file itself is damaged or cut short, is another program's, or a folder is in its place."""
        code = getattr(error, "sqlite_errorcode", 0)
        is_other = str(error).startswith(("no such table", "no such column")) or self.path.is_dir()
        return code & 0xFF in _DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ or is_other

    def _unavailable(self, error: Exception) -> Unavailable:
        return Unavailable(f"{self.path} is unavailable: {error}")


_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Sweep:
    """Removes a table's outdated rows a few at a time, so that no write ever waits for a whole table.

    Each step looks at the next rows in rowid order and starts over at the end. `outdated` is a condition with one
    parameter; rows that meet it are removed, or changed by `set_`. All are this package's own text, never a caller's.
    """

    def __init__(self, table: str, outdated: str, *, set_: str = "", rows: int = 200) -> None:
        self._next = f"SELECT MAX(rowid) FROM (SELECT rowid FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {rows})"  # noqa: S608
        action = f"UPDATE {table} SET {set_}" if set_ else f"DELETE FROM {table}"  # noqa: S608
        self._act = f"{action} WHERE rowid > ? AND rowid <= ? AND {outdated}"
        self._at = 0

    def step(self, connection: sqlite3.Connection, outdated: int) -> None:
        """Treat those of the next rows that are outdated."""
        (end,) = connection.execute(self._next, (self._at,)).fetchone()
        if end is None:
            self._at = 0
            (end,) = connection.execute(self._next, (0,)).fetchone()
        connection.execute(self._act, (self._at, end or 0, outdated))
        self._at = end or 0


class Coalescer(Generic[_T]):
    """Merges calls that arrive while another is running into one; an error reaches every caller. For one event loop.

    No call waits for company: the first runs at the end of its turn of the loop, the next when that is done.
    """

    def __init__(self, call: Callable[[Sequence[_T]], Awaitable[None]]) -> None:
        self._call = call
        self._waiting: list[tuple[Sequence[_T], asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, items: Sequence[_T]) -> None:
        """Return once `call` has returned for these items, in the order of the callers."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                group = self._next_group()
                outcome: Exception | None = None
                try:
                    await self._call([item for items, _ in group for item in items])
                except Exception as error:  # noqa: BLE001 - raised where the call was made
                    outcome = error
                for _, future in group:
                    if not future.done():  # A cancelled caller has left.
                        future.set_exception(outcome) if outcome else future.set_result(None)
        finally:
            self._running = None

    def _next_group(self) -> list[tuple[Sequence[_T], "asyncio.Future[None]"]]:
        size = taken = 0
        for items, _ in self._waiting:
            size += len(items)
            if taken and size > MAX_ITEMS:
                break
            taken += 1
        group, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return group
