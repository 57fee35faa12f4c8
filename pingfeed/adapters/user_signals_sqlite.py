"""Users' relations, profiles and sessions in one SQLite file that both services share.

    session(id, user_id, written_ms, version, changed, state, profile)
        One bounded row per user. `state` is an encoded `Session`, `version` a random number that names its content,
        `written_ms` the time of the latest act. `changed` numbers the last write to the user's relations (0: none);
        its upper bits count the writes that removed rows. `profile` is an encoded `Profile`, null where there is none.
    relation(user, kind, target, active, timestamp, received_ms, seq, event_id, change)
        One row per target of a user (`session.id`): follow, block, hide, mute. `active` is 0 where an act took it back.
        The order key is (timestamp, received_ms, seq, event_id): the greater one wins, at a tie the later write.
        `change` is the `changed` of the write.
    deleted(seq, ping_id, at_ms)
        Recently deleted pings; `seq` ascends and is never reused, so a reader asks only for new rows.

A write replaces the session row once per user, whatever the number of acts; waiting calls are merged. A read gets the
session row and the relations changed since the last read. Both keep decoded sessions by user and `version`, so an
unchanged one is not decoded again. With `synchronous=FULL` an apply survives a power cut.

The acts tell the time: the session of a user without an act for `STATE_TTL_MS` counts as empty, and applies clear such
sessions a few at a time; relations and profiles stay. Forgetting erases every byte of the user's id from the file and
its journal. A new file, or one of an earlier format, is incomplete until it is rebuilt from the lake.
"""

import logging
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from pingfeed.adapters._cache import Cache
from pingfeed.adapters._sqlite import Coalescer, Database, Sweep
from pingfeed.core.deleted_pings import DeletedPings
from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.signals import (
    DELETED_TTL_MS,
    LIMITS,
    MAX_DELETED,
    RELATIONS,
    STATE_TTL_MS,
    Act,
    Profile,
    Relation,
    Session,
    Signals,
    UserState,
    beyond_limit,
)
from pingfeed.settings import url_path
from pingfeed.telemetry import nameless

_FORMAT: Final = 4
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS session (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL UNIQUE, "
    "written_ms INTEGER NOT NULL, version INTEGER NOT NULL, changed INTEGER NOT NULL, state BLOB NOT NULL, "
    "profile BLOB)",
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
    "SELECT id, written_ms, changed, profile, version, CASE version WHEN ? THEN NULL ELSE state END "
    "FROM session WHERE user_id = ?"
)
_WRITE: Final = (
    "INSERT INTO session (id, user_id, written_ms, version, changed, state, profile) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET written_ms = excluded.written_ms, version = excluded.version, "
    "changed = excluded.changed, state = excluded.state, profile = excluded.profile"
)
_RELATE: Final = (
    "INSERT INTO relation VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET active = excluded.active, timestamp = excluded.timestamp, "
    "received_ms = excluded.received_ms, seq = excluded.seq, event_id = excluded.event_id, change = excluded.change "
    "WHERE (excluded.timestamp, excluded.received_ms, excluded.seq, excluded.event_id) >= "
    "(relation.timestamp, relation.received_ms, relation.seq, relation.event_id)"
)
_SIGNED_MS: Final = "CASE active WHEN 1 THEN timestamp ELSE -timestamp END"
# One row of joined text: a row a relation would take three times as long. Ids have no spaces, topics of mutes may.
_FOLLOWS: Final = (
    f"SELECT group_concat(target, ' '), group_concat({_SIGNED_MS}, ' ') "  # noqa: S608 - no caller's text
    "FROM relation WHERE user = ? AND kind = 'follow'"
)
_TARGETS: Final = "SELECT group_concat(target, ' ') FROM relation WHERE user = ? AND kind = ? AND active = 1"
_MUTES: Final = "SELECT json_group_array(target) FROM relation WHERE user = ? AND kind = 'mute' AND active = 1"
_FREED: Final = "SELECT kind || ':' || target FROM relation WHERE user = ? AND active = 0 AND kind != 'follow'"
_NEWS: Final = (
    f"SELECT kind, target, {_SIGNED_MS} FROM relation INDEXED BY relation_change WHERE user = ? AND change > ?"  # noqa: S608
)
_TRIM: Final = (
    "DELETE FROM relation WHERE user = ?1 AND kind = ?2 AND target IN (SELECT target FROM relation "
    "WHERE user = ?1 AND kind = ?2 AND active = 0 ORDER BY timestamp, received_ms, seq, event_id LIMIT ?3)"
)
_TRIM_DELETED: Final = "DELETE FROM deleted WHERE seq <= (SELECT seq FROM deleted ORDER BY seq DESC LIMIT 1 OFFSET ?)"
_CACHE_BYTES: Final = 16 << 20
"""Of encoded sessions; decoded ones take about four times that."""
_RELATION_BYTES: Final = 60
_REMOVALS: Final = 32
"""Bits of `changed` below the count of removals."""
_USERS: Final = 64
"""In one transaction, so that other processes get the write lock within milliseconds."""
_SWEEP_EVERY: Final = 64
_log = logging.getLogger(__name__)
_T = TypeVar("_T", Session, Profile)


@dataclass(slots=True)
class _Row:
    """A session row, its session decoded; `id` is None for a user without one, `intact` False if it was damaged."""

    id: int | None = None
    written_ms: int = 0
    changed: int = 0
    session: Session = field(default_factory=Session)
    profile: Profile = field(default_factory=Profile)
    intact: bool = True


@dataclass(slots=True)
class _Relations:
    """A reader's copy of a user's relations as of the write `changed`."""

    id: int | None
    changed: int = 0
    follows: dict[str, int] = field(default_factory=dict)
    sets: dict[str, set[str]] = field(default_factory=lambda: {"block": set(), "hide": set(), "mute": set()})
    freed: set[str] = field(default_factory=set)

    def take(self, kind: str, target: str, signed_ms: int) -> None:
        """Note one changed relation."""
        if kind == "follow":
            self.follows[target] = signed_ms
        elif signed_ms > 0:
            self.sets[kind].add(target)
            self.freed.discard(f"{kind}:{target}")
        else:
            self.sets[kind].discard(target)
            self.freed.add(f"{kind}:{target}")


class SqliteUserSignals:
    """`sqlite:///path/of/the/file`."""

    def __init__(self, url: str) -> None:
        self._sessions: Cache[tuple[int, Session]] = Cache(_CACHE_BYTES)
        self._relations: Cache[_Relations] = Cache(_CACHE_BYTES)
        self._complete = False
        self._database = Database(
            url_path(url),
            _SCHEMA,
            durable=True,
            version=_FORMAT,
            erase=True,
            upgrade=_upgrade,
            renewed=self._renewed,
        )
        self._deleted = _DeletedNews(self._database)
        self._coalesced = Coalescer(self._append)
        self._sweeps = (
            (Sweep("session", "written_ms <= ? AND changed = 0 AND profile IS NULL"), STATE_TTL_MS),
            (Sweep("session", "written_ms <= ? AND state != x''", set_="state = x''"), STATE_TTL_MS),
            (Sweep("deleted", "at_ms <= ?"), DELETED_TTL_MS),
        )
        self._now_ms = 0
        self._writes = 0

    async def apply(self, acts: Sequence[Act]) -> None:
        if acts:
            await self._coalesced(acts)

    async def read(self, user_id: str, now_ms: int) -> Signals:
        """The state belongs to the store: it must not be changed."""
        deleted = self._deleted.at(now_ms)
        row = self._find(self._database.one, user_id)
        session = row.session if row.written_ms > now_ms - STATE_TTL_MS else Session()
        state = UserState(session=session, profile=row.profile)
        if row.changed:
            held = self._relations_of(user_id, row)
            state.follows, state.blocks = held.follows, held.sets["block"]
            state.hides, state.mutes, state.freed = held.sets["hide"], held.sets["mute"], held.freed
        return Signals(state, deleted, await self.is_complete() and row.intact)

    async def forget(self, user_id: str) -> None:
        """Remove everything held about the user, byte for byte.

        Raises Unavailable if other processes keep the file busy: the user is forgotten, but the file may still hold
        bytes of the id; forgetting again removes them.
        """
        await self._database.write(partial(_delete_session, user_id))
        await self._database.erase(user_id.encode())

    async def is_complete(self) -> bool:
        """Asks the file until the answer is yes: the mark goes only with the file."""
        self._complete = self._complete or self._database.is_whole()
        return self._complete

    async def mark_complete(self) -> None:
        await self._database.write(self._database.rebuilt)

    async def check(self) -> None:
        await self._database.check()

    async def close(self) -> None:
        await self._database.close()

    def _renewed(self) -> None:
        """Another file has taken the place of the one whose rows are kept here."""
        self._sessions, self._relations = Cache(_CACHE_BYTES), Cache(_CACHE_BYTES)
        self._deleted, self._complete = _DeletedNews(self._database), False

    def _find(self, one: Callable[..., Any], user_id: str) -> _Row:
        """The user's row as `one` query gives it, with the session that is held for others too."""
        version, session = self._sessions.get(user_id) or (0, None)
        row = one(_READ, version, user_id)
        if row is None:
            self._sessions.drop(user_id)
            return _Row()
        id_, written_ms, changed, profile, version, data = row
        intact = True
        if data is not None or session is None:
            session, intact = _decoded(user_id, data or b"", Session)
            if intact:
                self._sessions.put(user_id, (version, session), len(data or b""))
        said, readable = _decoded(user_id, profile or b"", Profile)
        return _Row(id_, written_ms, changed, session, said, intact and readable)

    def _relations_of(self, user_id: str, row: _Row) -> _Relations:
        """Bring the copy up to date: usually nothing to do, else a query for what changed."""
        held = self._relations.get(user_id)
        if held is None or held.id != row.id or held.changed >> _REMOVALS != row.changed >> _REMOVALS:
            held = self._all_relations(row.id)
        elif held.changed != row.changed:
            for change in self._database.all(_NEWS, row.id, held.changed):
                held.take(*change)
        else:
            return held
        held.changed = row.changed
        size = _RELATION_BYTES * (len(held.follows) + sum(map(len, held.sets.values())))
        self._relations.put(user_id, held, size)
        return held

    def _all_relations(self, id_: int | None) -> _Relations:
        targets, times = self._database.one(_FOLLOWS, id_)
        follows = dict(zip(targets.split(" "), map(int, times.split(" ")), strict=True)) if targets else {}
        blocks, hides = (self._database.one(_TARGETS, id_, kind)[0] for kind in ("block", "hide"))
        mutes = msgspec.json.decode(self._database.one(_MUTES, id_)[0], type=set[str])
        sets = {"block": set((blocks or "").split()), "hide": set((hides or "").split()), "mute": mutes}
        freed = {name for (name,) in self._database.all(_FREED, id_)}
        return _Relations(id_, 0, follows, sets, freed)

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
            for sweep, ttl_ms in self._sweeps:
                sweep.step(connection, self._now_ms - ttl_ms)

    def _write_user(self, user_id: str, acts: Sequence[Act], connection: sqlite3.Connection) -> None:
        row = self._find(lambda sql, *values: connection.execute(sql, values).fetchone(), user_id)
        row.session = row.session.copy()
        decided = _replay(row, acts)
        changed = row.changed + bool(decided)
        # A random version, not a count: an undone write's number would name another content later.
        version, data = secrets.randbits(62), msgspec.msgpack.encode(row.session)
        profile = msgspec.msgpack.encode(row.profile) if row.profile.values else None
        values = row.id, user_id, row.written_ms, version, changed, data, profile
        inserted = connection.execute(_WRITE, values).lastrowid
        self._sessions.put(user_id, (version, row.session), len(data))
        if decided:
            _relate(row.id or inserted or 0, decided, changed, connection)


def _replay(row: _Row, acts: Sequence[Act]) -> list[Act]:
    """Apply the acts to the session and the profile; returns those that are about relations."""
    decided: list[Act] = []
    for act in acts:
        if act.at_ms > row.written_ms:
            if act.at_ms - STATE_TTL_MS >= row.written_ms:
                row.session = Session()
            row.written_ms = act.at_ms
        if act.kind in RELATIONS:
            decided.append(act)
        elif act.profile is not None:
            row.profile.merge(act.profile)
        else:
            row.session.apply(act)
    return decided


def _relate(user: int, acts: Sequence[Act], changed: int, connection: sqlite3.Connection) -> None:
    """Store decisions; a new target beyond the limit is counted instead."""
    counts: Counter[Relation] = Counter()
    for kind in {RELATIONS[act.kind][0] for act in acts}:
        counts[kind] = _count(user, kind, connection)
    for act in acts:
        kind, active = RELATIONS[act.kind]
        known = "SELECT 1 FROM relation WHERE user = ? AND kind = ? AND target = ?"
        if connection.execute(known, (user, kind, act.target)).fetchone() is None:
            if counts[kind] >= LIMITS[kind]:
                connection.execute(_TRIM, (user, kind, LIMITS[kind] // 8))
                removals = (changed >> _REMOVALS) + 1
                connection.execute("UPDATE session SET changed = ? WHERE id = ?", (removals << _REMOVALS, user))
                counts[kind] = _count(user, kind, connection)
            if counts[kind] >= LIMITS[kind]:
                beyond_limit[kind] += 1
                continue
            counts[kind] += 1
        connection.execute(_RELATE, (user, kind, act.target, active, *act.key, changed))


def _count(user: int, kind: Relation, connection: sqlite3.Connection) -> int:
    sql = "SELECT COUNT(*) FROM relation WHERE user = ? AND kind = ?"
    count: int = connection.execute(sql, (user, kind)).fetchone()[0]
    return count


def _upgrade(connection: sqlite3.Connection) -> None:
    """Begin sessions anew, and mark the file as incomplete. Relations of format 3 stay; earlier ones come back with the
    rebuilding."""
    for table in ("state", "log", "progress"):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(session)")}
    if "trimmed" in columns:
        connection.execute("ALTER TABLE session DROP COLUMN trimmed")
        connection.execute("ALTER TABLE session ADD COLUMN profile BLOB")
        connection.execute("UPDATE session SET state = x'', version = version + 1")
    Database.begun(connection)


def _decoded(user_id: str, data: bytes, kind: type[_T]) -> tuple[_T, bool]:
    """A stored value, and whether it was intact; a damaged one starts over."""
    try:
        return msgspec.msgpack.decode(data, type=kind) if data else kind(), True
    except UNREADABLE as error:
        _log.error("a user's stored signals are damaged", extra={"user": nameless(user_id), "reason": str(error)})
        return kind(), False


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
