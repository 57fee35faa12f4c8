"""The spool: what has been accepted and is not yet at the sink, in one locked directory a process.

Constraints
- Nothing is acknowledged before it is durable: `append` returns after a commit with `synchronous=FULL`, so a kill or a
  power cut at any moment loses nothing that it returned for. What it did not return for may be there or not.
- Bounded: the records together hold at most `max_bytes`; past that `append` raises Unavailable, as it does when the
  disk is full or refuses, and it accepts again by itself once there is room. Nothing is ever dropped to make room.
- A record leaves only when it is at the sink **and** nobody holds it. It is held until its signals are applied.
- A record that was delivered but not yet deleted when the process died is delivered again: twice, never lost.

On disk
- `lock`: an empty file; the process that owns the spool holds `flock` on it. The kernel lets go when the process ends.
- `spool.sqlite` (with `-wal`, `-shm`): SQLite in WAL mode, `user_version` 1.
    meta(key, value)      `spool_id`: 16 hex digits made with the file, part of every batch's name, so that a new spool
                          in the same place never names a batch like an old one did.
    record(id, received_ms, events, bytes, delivered, lines)
                          One accepted request. `id` ascends and is never used again (AUTOINCREMENT). `lines` are
                          `events.encode_rows` bytes, `bytes` their length, `events` the rows in them. `delivered` is 1
                          for what is at the sink and still held.

Operations
- append: one INSERT; appends that wait at the same time share a commit.
- pending: undelivered records by ascending id, that is oldest first.
- settle(last): everything up to `last` is at the sink. Held records are marked, the others deleted, in one transaction.
  Delivery goes in order of id, so the end says it all.
- hold, release: in memory. After a restart everything in the file counts as held until it has been applied again.
"""

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pingfeed.errors import Busy, Unavailable
from pingfeed.local.files import make_folder
from pingfeed.local.sqlite import Database

FILE: Final = "spool.sqlite"
LOCK: Final = "lock"
MAX_BYTES: Final = 1 << 30
_LOCK_TRIES: Final = 10
_LOCK_PAUSE_S: Final = 0.05
_FULL_RETRY_S: Final = 5
_PAGE: Final = 32

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "INSERT OR IGNORE INTO meta VALUES ('spool_id', lower(hex(randomblob(8))))",
    "CREATE TABLE IF NOT EXISTS record (id INTEGER PRIMARY KEY AUTOINCREMENT, received_ms INTEGER NOT NULL, "
    "events INTEGER NOT NULL, bytes INTEGER NOT NULL, delivered INTEGER NOT NULL DEFAULT 0, lines BLOB NOT NULL)",
)
_RECORDS: Final = "SELECT id, lines, events, received_ms FROM record"


@dataclass(frozen=True, slots=True)
class Record:
    """One accepted request: `count` rows as newline-delimited JSON, accepted at `received_ms`."""

    id: int
    lines: bytes
    count: int
    received_ms: int


class Spool:
    """The spool in `directory`, created where there is none. Raises Busy if another process has it, Unavailable."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self._held: set[int] = set()
        self._lock = _take_lock(directory)
        try:
            self._database = Database(directory / FILE, _SCHEMA, durable=True)
            self.spool_id: str = self._database.one("SELECT value FROM meta WHERE key = 'spool_id'")[0]
            self._stored, self._waiting_events, self._waiting_bytes, self.last_id, self.settled_to = self._measure()
        except BaseException:
            os.close(self._lock)
            raise

    async def append(self, lines: bytes, count: int, received_ms: int, *, held: bool = False) -> int:
        """Take `count` rows in; returns the record's id once they are durable. With `held`, it is held from the start.

        Raises Unavailable (with `retry_after_s`) where the spool is full or the disk refuses: nothing was taken.
        """
        size = len(lines)
        if self._stored + size > self.max_bytes:
            raise Unavailable(
                f"the spool is full: {self._waiting_events} events wait for delivery", retry_after_s=_FULL_RETRY_S
            )
        self._stored += size
        try:
            record_id = await self._database.write(partial(self._insert, lines, count, received_ms, held))
        except Unavailable:
            self._stored -= size
            raise
        self._waiting_events += count
        self._waiting_bytes += size
        self.last_id = max(self.last_id, record_id)
        return record_id

    def pending(self) -> Iterator[Record]:
        """Undelivered records, oldest first; those appended while this is read may be among them."""
        return self._records("WHERE delivered = 0 AND id > ?", self.settled_to)

    def spooled(self) -> Iterator[Record]:
        """Every record, delivered or not, oldest first: what a start applies again."""
        return self._records("WHERE id > ?", 0)

    def read(self, record_id: int) -> Record | None:
        """One record; None if it is not there any more."""
        row = self._database.one(f"{_RECORDS} WHERE id = ?", record_id)
        return Record(*row) if row else None

    def depth(self) -> tuple[int, int]:
        """Undelivered events and bytes."""
        # A settle may be counted a moment before the append that it settled.
        return max(0, self._waiting_events), max(0, self._waiting_bytes)

    def hold(self, record_ids: Iterable[int]) -> None:
        """Keep these records, delivered or not, until they are released or the process ends."""
        self._held.update(record_ids)

    def release(self, record_id: int) -> None:
        """Let a held record go; if it is at the sink already, the next `settle` deletes it."""
        self._held.discard(record_id)

    async def settle(self, last_id: int) -> None:
        """Everything up to and including `last_id` is at the sink: delete it, and mark what is held. Unavailable."""
        events, size, freed = await self._database.write(partial(self._settle, last_id))
        self._waiting_events -= events
        self._waiting_bytes -= size
        self._stored -= freed
        self.settled_to = max(self.settled_to, last_id)

    async def check(self) -> None:
        """Raise Unavailable if an append would be refused now."""
        if self._stored >= self.max_bytes:
            raise Unavailable("the spool is full", retry_after_s=_FULL_RETRY_S)
        await self._database.check()

    async def close(self) -> None:
        """Finish what was asked for and let the directory go. Again is fine."""
        await self._database.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _insert(self, lines: bytes, count: int, received_ms: int, held: bool, connection: sqlite3.Connection) -> int:
        sql = "INSERT INTO record (received_ms, events, bytes, lines) VALUES (?, ?, ?, ?)"
        record_id = connection.execute(sql, (received_ms, count, len(lines), lines)).lastrowid
        assert record_id is not None
        if held:  # Before the commit: once the record can be seen, it can be delivered and settled.
            self._held.add(record_id)
        return record_id

    def _settle(self, last_id: int, connection: sqlite3.Connection) -> tuple[int, int, int]:
        """Events and bytes that are now delivered, and the bytes that this frees."""
        # Read on the writer's thread: a record is released only when its signals are durable, so a stale look at the
        # set keeps too much (the next settle deletes it), never too little.
        held = json.dumps([record_id for record_id in tuple(self._held) if record_id <= last_id])
        query = "SELECT COALESCE(SUM(events), 0), COALESCE(SUM(bytes), 0) FROM record WHERE id <= ?"
        among = "(SELECT value FROM json_each(?))"
        events, size = connection.execute(f"{query} AND delivered = 0", (last_id,)).fetchone()
        _, freed = connection.execute(f"{query} AND id NOT IN {among}", (last_id, held)).fetchone()
        connection.execute(f"DELETE FROM record WHERE id <= ? AND id NOT IN {among}", (last_id, held))  # noqa: S608
        connection.execute("UPDATE record SET delivered = 1 WHERE id <= ? AND delivered = 0", (last_id,))
        return events, size, freed

    def _records(self, where: str, after: int) -> Iterator[Record]:
        """Page by page, so that no read transaction stays open while the caller works on a record."""
        while page := self._database.all(f"{_RECORDS} {where} ORDER BY id LIMIT {_PAGE}", after):
            for row in page:
                yield Record(*row)
            after = page[-1][0]

    def _measure(self) -> tuple[int, int, int, int, int]:
        """What an earlier process left: all bytes, undelivered events and bytes, the last id, the last delivered."""
        sums = "SUM(bytes), SUM(events * (1 - delivered)), SUM(bytes * (1 - delivered)), MAX(id), MAX(id * delivered)"
        stored, events, size, last, delivered = self._database.one(f"SELECT {sums} FROM record")  # noqa: S608
        return stored or 0, events or 0, size or 0, last or 0, delivered or 0


def _take_lock(directory: Path) -> int:
    """The descriptor that holds the directory; a few tries, for `landing` looks at the lock by taking it."""
    try:
        make_folder(directory)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Unavailable(f"the spool {directory} cannot be opened: {error.strerror}") from error
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            time.sleep(_LOCK_PAUSE_S)
    os.close(descriptor)
    raise Busy(f"another process holds the spool {directory}; give each process its own directory")
