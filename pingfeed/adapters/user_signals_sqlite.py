"""Users' recent acts in one SQLite file that both services share.

    state(user_id, written_ms, state)   one encoded `UserState` a user; `written_ms` is its latest act's time
    deleted(seq, ping_id, at_ms)        pings deleted lately; `seq` ascends and is never used again, so that a reader
                                        asks for what is new since its last look and nothing else

A state is read, changed and written inside one immediate transaction, so that the ingest and the feed never undo each
other's acts. `synchronous=FULL`: on return an apply survives a power cut, which is what lets the spool delete its
record. Time comes with the acts: what was not written for `STATE_TTL_MS` counts as absent; every now and then an apply
removes some of it.
"""

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from pingfeed.deleted_pings import DeletedPings
from pingfeed.local.sqlite import Database, Sweep
from pingfeed.settings import url_path
from pingfeed.signals import DELETED_TTL_MS, MAX_DELETED, STATE_TTL_MS, Act, Signals, UserState

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS state (user_id TEXT PRIMARY KEY, written_ms INTEGER NOT NULL, state BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS deleted "
    "(seq INTEGER PRIMARY KEY AUTOINCREMENT, ping_id TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL)",
)
_UPSERT: Final = (
    "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT (user_id) "
    "DO UPDATE SET written_ms = excluded.written_ms, state = excluded.state"
)
_TRIM: Final = "DELETE FROM deleted WHERE seq <= (SELECT seq FROM deleted ORDER BY seq DESC LIMIT 1 OFFSET ?)"
_SWEEP_EVERY: Final = 64
_log = logging.getLogger(__name__)


class SqliteUserSignals:
    """`sqlite:///path/of/the/file`."""

    def __init__(self, url: str) -> None:
        self._database = Database(url_path(url), _SCHEMA, durable=True)
        self._deleted = _DeletedNews(self._database)
        self._old_states = Sweep("state", "written_ms")
        self._old_deletions = Sweep("deleted", "at_ms")
        self._now_ms = 0
        self._applied = 0

    async def apply(self, acts: Sequence[Act]) -> None:
        """Take acts in, in order; durable on return, and seen by the next read of any process. Raises Unavailable."""
        by_user: dict[str, list[Act]] = {}
        for act in acts:
            by_user.setdefault("" if act.kind == "deleted" else act.user_id, []).append(act)
        deletions = by_user.pop("", [])
        if acts:
            await self._database.write(partial(self._apply, by_user, deletions))

    async def read(self, user_id: str, now_ms: int) -> Signals:
        """The user's state, empty for a stranger or where it has expired, and the pings deleted lately."""
        sql = "SELECT state FROM state WHERE user_id = ? AND written_ms > ?"
        row = self._database.one(sql, user_id, now_ms - STATE_TTL_MS)
        return Signals(_decoded(user_id, row[0] if row else None), self._deleted.at(now_ms))

    async def forget(self, user_id: str) -> None:
        """Remove everything held about the user; absent is fine."""
        await self._database.write(partial(_forget, user_id))

    async def check(self) -> None:
        """Raise Unavailable if the file does not answer."""
        await self._database.check()

    async def close(self) -> None:
        """Let the file go."""
        await self._database.close()

    def _apply(
        self, by_user: Mapping[str, Sequence[Act]], deletions: Sequence[Act], connection: sqlite3.Connection
    ) -> None:
        for user_id, acts in by_user.items():
            self._now_ms = max(self._now_ms, _change(connection, user_id, acts))
        for act in deletions:
            self._now_ms = max(self._now_ms, act.at_ms)
            _delete_ping(connection, act)
        if deletions:
            connection.execute(_TRIM, (MAX_DELETED,))
        self._applied += 1
        if self._applied % _SWEEP_EVERY == 0:
            self._old_states.step(connection, self._now_ms - STATE_TTL_MS)
            self._old_deletions.step(connection, self._now_ms - DELETED_TTL_MS)


def _change(connection: sqlite3.Connection, user_id: str, acts: Sequence[Act]) -> int:
    """Apply one user's acts to the user's state; returns when it was last written."""
    row = connection.execute("SELECT written_ms, state FROM state WHERE user_id = ?", (user_id,)).fetchone()
    written_ms, before = row or (0, None)
    newest_ms = max(act.at_ms for act in acts)
    state = _decoded(user_id, before if written_ms > newest_ms - STATE_TTL_MS else None)
    for act in acts:
        state.apply(act)
    after = state.encode()
    if after != before or newest_ms > written_ms:
        connection.execute(_UPSERT, (user_id, max(written_ms, newest_ms), after))
    return newest_ms


def _delete_ping(connection: sqlite3.Connection, act: Act) -> None:
    known = connection.execute("SELECT at_ms FROM deleted WHERE ping_id = ?", (act.target,)).fetchone()
    if known is None or known[0] < act.at_ms:  # Replacing gives a new `seq`: the readers' news.
        connection.execute("INSERT OR REPLACE INTO deleted (ping_id, at_ms) VALUES (?, ?)", (act.target, act.at_ms))


def _forget(user_id: str, connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM state WHERE user_id = ?", (user_id,))


def _decoded(user_id: str, data: bytes | None) -> UserState:
    """The stored state. One that cannot be read is lost, and the user begins anew: better than no feed for ever."""
    try:
        return UserState.decode(data)
    except msgspec.DecodeError as error:
        _log.error("a user's stored signals are damaged", extra={"user_id": user_id, "reason": str(error)})
        return UserState()


class _DeletedNews:
    """The reader's copy of the table: a look costs one query that finds nothing new, microseconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen_to = 0
        self._pings = DeletedPings()

    def at(self, now_ms: int) -> frozenset[str]:
        """The newest `MAX_DELETED` pings that were deleted within `DELETED_TTL_MS` before `now_ms`."""
        news = self._database.all("SELECT seq, ping_id, at_ms FROM deleted WHERE seq > ? ORDER BY seq", self._seen_to)
        if news:
            self._seen_to = news[-1][0]
            self._pings.add((ping_id, at_ms) for _, ping_id, at_ms in news)
        return self._pings.at(now_ms)
