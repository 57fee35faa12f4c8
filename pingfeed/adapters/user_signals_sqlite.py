"""Users' recent acts in one SQLite file that both services share.

    log, progress                        acts as they came, until they are in the states (`pingfeed/local/acts_log.py`)
    state(user_id, written_ms, state)    one encoded `UserState` a user; `written_ms` is its latest act's time
    deleted(seq, ping_id, at_ms)         pings deleted lately; `seq` ascends and is never used again, so that a reader
                                         asks for what is new since its last look and nothing else

An apply appends one row to the log, whatever it holds, and calls that wait together share one: to change a state costs
about a hundred times what an act does, so states are changed for many acts at once (`pingfeed/local/fold.py`). A read
takes the user's state and plays what the log holds beyond it; readers keep that part in memory. `synchronous=FULL`: on
return an apply survives a power cut, which is what lets the spool delete its record.

Time comes with the acts: what was not written for `STATE_TTL_MS` counts as absent; every now and then an apply removes
some of it. Forgetting erases: no byte of the user's id is in the file or the journal beside it afterwards. A process
that holds acts of the user in memory finds `progress.forgets` changed and drops what it holds.

Format 1 had no log. Such a file is taken over as it is, and written anew once, for its free pages were not erased.
"""

import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Final

from pingfeed.core.deleted_pings import DeletedPings
from pingfeed.core.signals import DELETED_TTL_MS, MAX_DELETED, STATE_TTL_MS, Act, Signals, UserState
from pingfeed.local.acts_log import LOG_SCHEMA, decode_state, encode_row, replay, without
from pingfeed.local.fold import Folder, sign
from pingfeed.local.gather import Gathered
from pingfeed.local.sqlite import Database
from pingfeed.local.sweep import Sweep
from pingfeed.local.waiting import Waiting
from pingfeed.settings import url_path

_FORMAT: Final = 2
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS state (user_id TEXT PRIMARY KEY, written_ms INTEGER NOT NULL, state BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS deleted "
    "(seq INTEGER PRIMARY KEY AUTOINCREMENT, ping_id TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL)",
    *LOG_SCHEMA,
    "VACUUM",
)
_READ: Final = (
    "SELECT forgets, folded_to, written_ms, state FROM progress LEFT JOIN state ON state.user_id = ? WHERE id = 1"
)
_NEWS_ROWS: Final = 500
_NEWS: Final = f"SELECT seq, acts FROM log WHERE seq > ? ORDER BY seq LIMIT {_NEWS_ROWS}"  # noqa: S608 - a number
_TRIM: Final = "DELETE FROM deleted WHERE seq <= (SELECT seq FROM deleted ORDER BY seq DESC LIMIT 1 OFFSET ?)"
_SWEEP_EVERY: Final = 64


class SqliteUserSignals:
    """`sqlite:///path/of/the/file`."""

    def __init__(self, url: str) -> None:
        self._database = Database(url_path(url), _SCHEMA, durable=True, version=_FORMAT, erase=True)
        self._start_over()
        (self._forgets,) = self._database.one("SELECT forgets FROM progress")
        self._deleted = _DeletedNews(self._database)
        self._folder = Folder()
        self._gathered = Gathered(self._append)
        self._old_states = Sweep("state", "written_ms")
        self._old_deletions = Sweep("deleted", "at_ms")
        self._now_ms = 0
        self._applied = 0

    async def apply(self, acts: Sequence[Act]) -> None:
        """Take acts in, in order; durable on return, and seen by the next read of any process. Raises Unavailable."""
        if acts:
            await self._gathered(acts)

    async def _append(self, acts: Sequence[Act]) -> None:
        deletions = [act for act in acts if act.kind == "deleted"]
        row = encode_row([act for act in acts if act.kind != "deleted"] if deletions else acts)
        newest_ms = max([act.at_ms for act in acts])
        await self._database.write(partial(self._apply, row, newest_ms, deletions))

    async def read(self, user_id: str, now_ms: int) -> Signals:
        """The user's state, empty for a stranger or where it has expired, and the pings deleted lately."""
        while True:
            # In this order: what is folded and removed between the two is found in the state.
            self._catch_up()
            forgets, folded_to, written_ms, data = self._database.one(_READ, user_id)
            if forgets == self._forgets:
                break
            self._forgets = forgets
            self._start_over()
        self._waiting.drop(folded_to)
        stored = decode_state(user_id, data)
        written_ms, state = replay(user_id, written_ms or 0, stored, self._waiting.of(user_id))
        return Signals(state if written_ms > now_ms - STATE_TTL_MS else UserState(), self._deleted.at(now_ms))

    async def forget(self, user_id: str) -> None:
        """Remove everything held about the user, byte for byte; absent is fine.

        Raises Unavailable where other processes keep the file busy: the user is forgotten then, but the file may hold
        bytes of it still; forgetting again removes them.
        """
        await self._database.write(partial(_forget, user_id))
        await self._database.erase(user_id.encode())

    async def check(self) -> None:
        """Raise Unavailable if the file does not answer."""
        await self._database.check()

    async def close(self) -> None:
        """Let the file go."""
        await self._database.close()

    def _start_over(self) -> None:
        self._waiting, self._seen_to = Waiting(), 0

    def _catch_up(self) -> None:
        """Take in what the log holds by now: a query that mostly finds little."""
        while rows := self._database.all(_NEWS, self._seen_to):
            for seq, row in rows:
                self._waiting.take(seq, row)
                self._seen_to = seq
            if len(rows) < _NEWS_ROWS:
                return

    def _apply(self, row: bytes, newest_ms: int, deletions: Sequence[Act], connection: sqlite3.Connection) -> None:
        self._now_ms = max(self._now_ms, newest_ms)
        seq = connection.execute("INSERT INTO log (acts) VALUES (?)", (row,)).lastrowid or 0
        for act in deletions:
            _delete_ping(connection, act)
        if deletions:
            connection.execute(_TRIM, (MAX_DELETED,))
        folded_ms = self._folder.go_on(connection, seq, len(row), self._now_ms)
        self._applied += 1
        if self._applied % _SWEEP_EVERY == 0:
            # An act in the log may be what keeps a state alive: only what was over before the log's acts goes.
            self._old_states.step(connection, folded_ms - STATE_TTL_MS)
            self._old_deletions.step(connection, self._now_ms - DELETED_TTL_MS)


def _delete_ping(connection: sqlite3.Connection, act: Act) -> None:
    known = connection.execute("SELECT at_ms FROM deleted WHERE ping_id = ?", (act.target,)).fetchone()
    if known is None or known[0] < act.at_ms:  # Replacing gives a new `seq`: the readers' news.
        connection.execute("INSERT OR REPLACE INTO deleted (ping_id, at_ms) VALUES (?, ?)", (act.target, act.at_ms))


def _forget(user_id: str, connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM state WHERE user_id = ?", (user_id,))
    holds = "SELECT seq, acts FROM log WHERE INSTR(acts, ?)"
    for seq, data in connection.execute(holds, (user_id.encode(),)).fetchall():
        connection.execute("UPDATE log SET acts = ? WHERE seq = ?", (without(data, user_id), seq))
    connection.execute("UPDATE progress SET forgets = forgets + 1")
    sign(connection)  # A fold may hold the user's acts in memory.


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
