"""Folding: how acts get from the log (`acts_log.py`) into users' states, a little with every apply.

Once the log has grown by `FOLD_BYTES` (or a day has passed) a fold takes the rows that are there: it reads them, brings
each of their users' states up to date, and at last moves `folded_to`. Each step runs inside the transaction of an apply
and does work in proportion to what that applied, so that a fold is over before the log has grown by as much again and
no write waits long. Rows that are folded are removed a few with each apply.

A fold that ends half-way (a kill) has done no harm: acts that are in a state already change nothing there. Each step
signs `progress.step` with a number of its own. Where the last one's is not there (another process folds, a user was
forgotten, a transaction was undone) what the fold holds in memory may be wrong, and it is given up. Who gave up begins
again only after the other has been quiet for a while: of two processes that share a file the busier one folds.

    bounds: the log holds about 3 * FOLD_BYTES for each process that applies, a fold in memory about one
"""

import secrets
import sqlite3
from itertools import pairwise
from math import ceil
from typing import Final

import numpy as np

from pingfeed.core.clock import DAY_MS
from pingfeed.local.acts_log import Entry, decode_state, replay
from pingfeed.local.waiting import Waiting

FOLD_BYTES: Final = 6 << 20
FOLD_EVERY_MS: Final = DAY_MS
ROW_BYTES: Final = 100
"""What a row counts beside its acts."""
_REMOVED_ROWS: Final = 4
_QUIET_APPLIES: Final = 64
"""So many applies of one's own without a sign of another's fold, before one begins: else two would stop each other."""

_SIZE: Final = (
    f"SELECT COALESCE(SUM(LENGTH(acts) + {ROW_BYTES}), 0) FROM log WHERE seq > (SELECT folded_to FROM progress)"  # noqa: S608 - a number
)
_REMOVE: Final = "DELETE FROM log WHERE seq <= ? AND seq < (SELECT MIN(seq) FROM log) + ?"
_UPSERT: Final = (
    "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT (user_id) "
    "DO UPDATE SET written_ms = excluded.written_ms, state = excluded.state"
)


class Folder:
    """One process's folding. Everything here runs inside a transaction that writes."""

    def __init__(self) -> None:
        self._grown: int | None = None
        self._step: int | None = None
        self._quiet = _QUIET_APPLIES
        self._fold: _Fold | None = None

    def go_on(self, connection: sqlite3.Connection, seq: int, size: int, now_ms: int) -> int:
        """Work for a row of `size` bytes that was appended as `seq` at `now_ms`; the time that `folded_ms` says."""
        folded_to, folded_ms, step = connection.execute("SELECT folded_to, folded_ms, step FROM progress").fetchone()
        connection.execute(_REMOVE, (folded_to, _REMOVED_ROWS))
        if self._grown is None:
            (self._grown,) = connection.execute(_SIZE).fetchone()
        self._grown += size + ROW_BYTES
        alone, self._step = self._step in (None, step), step
        self._quiet = self._quiet + 1 if alone else 0
        if not alone and self._fold is not None:
            self._fold, self._grown = None, None
        elif self._fold is None and self._quiet >= _QUIET_APPLIES and self._is_due(now_ms - folded_ms):
            self._fold, self._grown = _Fold(folded_to, seq - 1, now_ms), 0
        if self._fold is not None:
            self._advance(connection, (size + ROW_BYTES) / FOLD_BYTES)
        return int(folded_ms)

    def _is_due(self, age_ms: int) -> bool:
        return age_ms > FOLD_EVERY_MS or (self._grown or 0) >= FOLD_BYTES

    def _advance(self, connection: sqlite3.Connection, share: float) -> None:
        assert self._fold is not None
        if self._fold.advance(connection, share):
            values = self._fold.upto, self._fold.began_ms
            connection.execute("UPDATE progress SET folded_to = ?, folded_ms = ?", values)
            self._fold = None
        self._step = sign(connection)


class _Fold:
    """The rows after `at` up to `upto`: read first, then written user by user."""

    def __init__(self, at: int, upto: int, began_ms: int) -> None:
        self.at, self.upto, self.began_ms = at, upto, began_ms
        self._rows = upto - at
        self._waiting = Waiting()
        self._places = self._begins = np.zeros(1, np.intp)
        self._done = 0

    def advance(self, connection: sqlite3.Connection, share: float) -> bool:
        """A step, for `share` of the time that it may take all in all; True when that was the last."""
        if self.at < self.upto:
            self._read(connection, ceil(4 * share * self._rows))
        else:
            self._write(connection, ceil(2 * share * len(self._begins)))
        return self.at >= self.upto and self._done >= len(self._begins) - 1

    def _read(self, connection: sqlite3.Connection, rows: int) -> None:
        to = min(self.at + rows, self.upto)
        sql = "SELECT seq, acts FROM log WHERE seq > ? AND seq <= ? ORDER BY seq"
        for seq, row in connection.execute(sql, (self.at, to)):
            self._waiting.take(seq, row)
        self.at = to
        if self.at >= self.upto:
            self._places, self._begins = self._waiting.by_crc()

    def _write(self, connection: sqlite3.Connection, users: int) -> None:
        bounds = self._begins[self._done : self._done + users + 1].tolist()
        for begin, end in pairwise(bounds):
            for user_id, entries in self._waiting.by_user(self._places[begin:end]).items():
                fold_user(connection, user_id, entries)
        self._done += len(bounds) - 1


def sign(connection: sqlite3.Connection) -> int:
    """Make every fold that is under way elsewhere give up."""
    # Not a count: after an undone step another process's next one would look like it.
    step = secrets.randbits(62)
    connection.execute("UPDATE progress SET step = ?", (step,))
    return step


def fold_user(connection: sqlite3.Connection, user_id: str, entries: list[Entry]) -> None:
    """Bring one user's state up to date."""
    row = connection.execute("SELECT written_ms, state FROM state WHERE user_id = ?", (user_id,)).fetchone()
    written_before, before = row or (0, None)
    written_ms, state = replay(user_id, written_before, decode_state(user_id, before), entries)
    after = state.encode()
    if after != before or written_ms > written_before:
        connection.execute(_UPSERT, (user_id, written_ms, after))
