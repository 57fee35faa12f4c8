"""Users' recent acts in one SQLite file that both services share.

    session(id, user_id, written_ms, version, changed, trimmed, state)
        One bounded row per user. `state` is an encoded `UserState` without relations, `version` a random number that
        names its content, `written_ms` the time of the latest act. `changed` numbers the last write to the user's
        relations (0: none), `trimmed` the last one that removed some.
    relation(user, kind, target, active, timestamp, received_ms, seq, event_id, change)
        One row per target of a user (`session.id`): follow, block, hide. `active` is 0 after an unfollow. The order key
        is (timestamp, received_ms, seq, event_id): the greater one wins, at a tie the later write. Until events carry
        a whole key it is the time of receipt twice. `change` is the `changed` of the write.
    deleted(seq, ping_id, at_ms)
        Recently deleted pings; `seq` ascends and is never reused, so a reader asks only for new rows.

A write replaces the session row once per user, whatever the number of acts; waiting calls are merged. A read gets the
session row and the relations changed since the last read. Both keep decoded states by user and `version`, so an
unchanged state is not decoded again. With `synchronous=FULL` an apply survives a power cut.

The acts tell the time: a user without an act for `STATE_TTL_MS` counts as absent, and applies remove such rows a few at
a time. Forgetting erases every byte of the user's id from the file and its journal. Files of formats 1 and 2
(`_sqlite_formats.py`) are upgraded on open.
"""

import logging
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from pingfeed.adapters._cache import Cache
from pingfeed.adapters._sqlite import Coalescer, Database, Sweep
from pingfeed.adapters._sqlite_formats import old_acts, old_states
from pingfeed.core.deleted_pings import DeletedPings
from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.signals import (
    DELETED_TTL_MS,
    MAX_BLOCKS,
    MAX_DELETED,
    MAX_FOLLOWS,
    MAX_HIDES,
    STATE_TTL_MS,
    Act,
    Signals,
    UserState,
)
from pingfeed.settings import url_path
from pingfeed.telemetry import nameless

_FORMAT: Final = 3
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS session (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL UNIQUE, "
    "written_ms INTEGER NOT NULL, version INTEGER NOT NULL, changed INTEGER NOT NULL, "
    "trimmed INTEGER NOT NULL DEFAULT 0, state BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS relation (user INTEGER, kind TEXT, target TEXT, active INTEGER NOT NULL, "
    "timestamp INTEGER NOT NULL, received_ms INTEGER NOT NULL, seq INTEGER NOT NULL DEFAULT 0, "
    "event_id TEXT NOT NULL DEFAULT '', change INTEGER NOT NULL, PRIMARY KEY (user, kind, target)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS relation_change ON relation (user, change)",
    "CREATE TRIGGER IF NOT EXISTS relations_go_with_the_session AFTER DELETE ON session "
    "BEGIN DELETE FROM relation WHERE user = OLD.id; END",
    "CREATE TABLE IF NOT EXISTS deleted "
    "(seq INTEGER PRIMARY KEY AUTOINCREMENT, ping_id TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL)",
)
_READ: Final = (
    "SELECT id, written_ms, changed, trimmed, version, CASE version WHEN ? THEN NULL ELSE state END "
    "FROM session WHERE user_id = ?"
)
_WRITE: Final = (
    "INSERT INTO session (id, user_id, written_ms, version, changed, state) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET written_ms = excluded.written_ms, version = excluded.version, "
    "changed = excluded.changed, state = excluded.state"
)
_RELATE: Final = (
    "INSERT INTO relation (user, kind, target, active, timestamp, received_ms, change) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET active = excluded.active, timestamp = excluded.timestamp, "
    "received_ms = excluded.received_ms, seq = excluded.seq, event_id = excluded.event_id, change = excluded.change "
    "WHERE (excluded.timestamp, excluded.received_ms, excluded.seq, excluded.event_id) >= "
    "(relation.timestamp, relation.received_ms, relation.seq, relation.event_id)"
)
_AT_MS: Final = "CASE active WHEN 1 THEN received_ms ELSE -received_ms END"
_ALL: Final = f"SELECT target, {_AT_MS} FROM relation WHERE user = ? AND kind = ?"  # noqa: S608 - no caller's text
_NEWS: Final = f"SELECT kind, target, {_AT_MS} FROM relation INDEXED BY relation_change WHERE user = ? AND change > ?"  # noqa: S608
_TRIM: Final = (
    "DELETE FROM relation WHERE user = ?1 AND kind = ?2 AND target IN (SELECT target FROM relation "
    "WHERE user = ?1 AND kind = ?2 ORDER BY timestamp, received_ms, seq, event_id LIMIT ?3)"
)
_TRIM_DELETED: Final = "DELETE FROM deleted WHERE seq <= (SELECT seq FROM deleted ORDER BY seq DESC LIMIT 1 OFFSET ?)"
_KINDS: Final = {"follow": ("follow", 1), "unfollow": ("follow", 0), "block": ("block", 1), "hide": ("hide", 1)}
_LIMITS: Final = {"follow": MAX_FOLLOWS, "block": MAX_BLOCKS, "hide": MAX_HIDES}
_CACHE_BYTES: Final = 16 << 20
"""Of encoded states; decoded ones take about four times that."""
_RELATION_BYTES: Final = 60
_USERS: Final = 64
"""In one transaction, so that other processes get the write lock within milliseconds."""
_SWEEP_EVERY: Final = 64
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Session:
    """A session row, its state decoded; `id` is None for a user without one."""

    id: int | None = None
    written_ms: int = 0
    changed: int = 0
    trimmed: int = 0
    state: UserState = field(default_factory=UserState)


@dataclass(slots=True)
class _Relations:
    """A reader's copy of a user's relations as of the write `changed`; times are negative after an unfollow."""

    id: int | None
    changed: int = 0
    parts: dict[str, dict[str, int]] = field(default_factory=lambda: {kind: {} for kind in _LIMITS})


class SqliteUserSignals:
    """`sqlite:///path/of/the/file`."""

    def __init__(self, url: str) -> None:
        self._sessions: Cache[tuple[int, UserState]] = Cache(_CACHE_BYTES)
        self._relations: Cache[_Relations] = Cache(_CACHE_BYTES)
        self._database = Database(
            url_path(url),
            _SCHEMA,
            durable=True,
            version=_FORMAT,
            erase=True,
            upgrade=self._upgrade,
            renewed=self._renewed,
        )
        self._deleted = _DeletedNews(self._database)
        self._coalesced = Coalescer(self._append)
        self._old_sessions = Sweep("session", "written_ms")
        self._old_deletions = Sweep("deleted", "at_ms")
        self._now_ms = 0
        self._writes = 0

    async def apply(self, acts: Sequence[Act]) -> None:
        if acts:
            await self._coalesced(acts)

    async def read(self, user_id: str, now_ms: int) -> Signals:
        deleted = self._deleted.at(now_ms)
        session = self._find(self._database.one, user_id)
        if session.id is None:
            self._relations.drop(user_id)
        if session.written_ms <= now_ms - STATE_TTL_MS:
            return Signals(UserState(), deleted)
        if session.changed:
            parts = self._relations_of(user_id, session).parts
            session.state.follows, session.state.blocks = parts["follow"].copy(), parts["block"].copy()
            session.state.hides = parts["hide"].copy()
        return Signals(session.state, deleted)

    async def forget(self, user_id: str) -> None:
        """Remove everything held about the user, byte for byte.

        Raises Unavailable if other processes keep the file busy: the user is forgotten, but the file may still hold
        bytes of the id; forgetting again removes them.
        """
        await self._database.write(partial(_delete_session, user_id))
        await self._database.erase(user_id.encode())

    async def check(self) -> None:
        await self._database.check()

    async def close(self) -> None:
        await self._database.close()

    def _renewed(self) -> None:
        """Another file has taken the place of the one whose rows are kept here."""
        self._sessions, self._relations = Cache(_CACHE_BYTES), Cache(_CACHE_BYTES)
        self._deleted = _DeletedNews(self._database)

    def _find(self, one: Callable[..., Any], user_id: str) -> _Session:
        """The user's session row as `one` query gives it, with a state that the caller may change."""
        version, state = self._sessions.get(user_id) or (0, None)
        row = one(_READ, version, user_id)
        if row is None:
            self._sessions.drop(user_id)
            return _Session()
        user, written_ms, changed, trimmed, version, data = row
        if data is not None or state is None:
            state = _decoded(user_id, data)
            self._sessions.put(user_id, (version, state), len(data))
        return _Session(user, written_ms, changed, trimmed, _copy(state))

    def _relations_of(self, user_id: str, session: _Session) -> _Relations:
        """Bring the copy up to date: usually nothing to do, else a query for what changed."""
        held = self._relations.get(user_id)
        if held is None or held.id != session.id or held.changed < session.trimmed:
            held = _Relations(session.id)
        if held.changed != session.changed:
            if held.changed:
                for kind, target, at_ms in self._database.all(_NEWS, session.id, held.changed):
                    held.parts[kind][target] = at_ms
            else:
                for kind, part in held.parts.items():
                    part.update(self._database.all(_ALL, session.id, kind))
            held.changed = session.changed
            self._relations.put(user_id, held, _RELATION_BYTES * sum(map(len, held.parts.values())))
        return held

    async def _append(self, acts: Sequence[Act]) -> None:
        by_user: dict[str, list[Act]] = {}
        for act in acts:
            by_user.setdefault("" if act.kind == "deleted" else act.user_id, []).append(act)
        self._now_ms = max(self._now_ms, *[act.at_ms for act in acts])
        users = list(by_user.items())
        for start in range(0, len(users), _USERS):
            await self._database.write(partial(self._write, users[start : start + _USERS]))

    def _write(self, users: Sequence[tuple[str, list[Act]]], connection: sqlite3.Connection) -> None:
        for user_id, acts in users:
            if user_id:
                self._write_user(user_id, acts, connection)
            else:
                _delete_pings(acts, connection)
        self._writes += 1
        if self._writes % _SWEEP_EVERY == 0:
            self._old_sessions.step(connection, self._now_ms - STATE_TTL_MS)
            self._old_deletions.step(connection, self._now_ms - DELETED_TTL_MS)

    def _write_user(self, user_id: str, acts: Sequence[Act], connection: sqlite3.Connection) -> None:
        before = self._find(lambda sql, *values: connection.execute(sql, values).fetchone(), user_id)
        session, decided = _replayed(before, acts)
        if session is not before and before.id is not None:
            _delete_session(user_id, connection)
        self._store(user_id, session, decided, connection)

    def _store(self, user_id: str, session: _Session, decided: Sequence[Act], connection: sqlite3.Connection) -> None:
        changed = session.changed + bool(decided)
        # A random version, not a count: an undone write's number would name another content later.
        version, data = secrets.randbits(62), session.state.encode()
        row = session.id, user_id, session.written_ms, version, changed, data
        inserted = connection.execute(_WRITE, row).lastrowid
        self._sessions.put(user_id, (version, session.state), len(data))
        if decided:
            user = session.id or inserted or 0
            rows = [_relation(user, act, changed) for act in decided]
            connection.executemany(_RELATE, rows)
            _trim(user, changed, {kind for _, kind, *_ in rows}, connection)

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        """Take over the states of formats 1 and 2, then the acts that format 2 had not folded into them."""
        for user_id, written_ms, data in old_states(connection):
            state = _decoded(user_id, data)
            self._store(user_id, _Session(None, written_ms, state=_copy(state)), _decisions(user_id, state), connection)
        for user_id, acts in old_acts(connection):
            self._write_user(user_id, acts, connection)
        for table in ("state", "log", "progress"):
            connection.execute(f"DROP TABLE IF EXISTS {table}")


def _replayed(session: _Session, acts: Sequence[Act]) -> tuple[_Session, list[Act]]:
    """The session after the acts, and those acts that are about relations.

    Changes `session`, but returns a new one if everything before had expired when an act came.
    """
    decided: list[Act] = []
    for act in acts:
        if act.at_ms > session.written_ms:
            if act.at_ms - STATE_TTL_MS >= session.written_ms:
                session, decided = _Session(), []
            session.written_ms = act.at_ms
        if act.kind in _KINDS:
            decided.append(act)
        else:
            session.state.apply(act)
    return session, decided


def _relation(user: int, act: Act, changed: int) -> tuple[int, str, str, int, int, int, int]:
    kind, active = _KINDS[act.kind]
    return user, kind, act.target, active, act.at_ms, act.at_ms, changed


def _trim(user: int, changed: int, kinds: set[str], connection: sqlite3.Connection) -> None:
    """Keep each kind within its limit; removes an eighth more of the oldest, so that this happens rarely."""
    for kind in kinds:
        sql = "SELECT COUNT(*) FROM relation WHERE user = ? AND kind = ?"
        (count,), limit = connection.execute(sql, (user, kind)).fetchone(), _LIMITS[kind]
        if count > limit:
            connection.execute(_TRIM, (user, kind, count - limit + limit // 8))
            connection.execute("UPDATE session SET trimmed = ? WHERE id = ?", (changed, user))


def _copy(state: UserState) -> UserState:
    """A copy of the session part of a state, to be changed."""
    return UserState(seen=state.seen.copy(), engaged=state.engaged.copy(), served=state.served.copy())


def _decoded(user_id: str, data: bytes) -> UserState:
    """A stored state. A damaged one is discarded, and the user starts over."""
    try:
        return UserState.decode(data)
    except UNREADABLE as error:
        _log.error("a user's stored signals are damaged", extra={"user": nameless(user_id), "reason": str(error)})
        return UserState()


def _decisions(user_id: str, state: UserState) -> list[Act]:
    """The acts that gave a state its relations."""
    acts = [Act(user_id, "follow" if ms > 0 else "unfollow", target, abs(ms)) for target, ms in state.follows.items()]
    acts += [Act(user_id, "block", target, at_ms) for target, at_ms in state.blocks.items()]
    return acts + [Act(user_id, "hide", target, at_ms) for target, at_ms in state.hides.items()]


def _delete_session(user_id: str, connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM session WHERE user_id = ?", (user_id,))


def _delete_pings(acts: Sequence[Act], connection: sqlite3.Connection) -> None:
    for act in acts:
        known = connection.execute("SELECT at_ms FROM deleted WHERE ping_id = ?", (act.target,)).fetchone()
        if known is None or known[0] < act.at_ms:  # Replacing gives a new `seq`: news for readers.
            connection.execute("INSERT OR REPLACE INTO deleted (ping_id, at_ms) VALUES (?, ?)", (act.target, act.at_ms))
    connection.execute(_TRIM_DELETED, (MAX_DELETED,))


class _DeletedNews:
    """The reader's copy of the table: a look is one query that finds nothing new, microseconds."""

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
