"""Which engagements have counted, as 64-bit hashes: a log of them in SQLite, and the process's own sorted copy.

    counted_keys(seq, day, total, keys)   what one flush counted: the hashes, 8 bytes each; `day` is its newest one's,
                                          `total` how many hashes there were ever, these included

The hashes are as random as a tree would have to be written, one page for each; a log is written in order, and what is
old is removed from its front. A process that counts keeps the hashes in memory, 8 bytes each (and twice that for a
moment, now and then), and first reads what others have counted since. One that only asks what is hot reads none.

What it holds is always what was committed: a flush's own hashes come back with the next one's reading.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.clock import DAY_MS
from pingfeed.core.signals import TRENDING_WEIGHTS, Engagement

COUNTED_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS counted_keys (seq INTEGER PRIMARY KEY AUTOINCREMENT, day INTEGER NOT NULL, "
    "total INTEGER NOT NULL, keys BLOB NOT NULL)",
)
_INSERT: Final = (
    "INSERT INTO counted_keys (day, total, keys) "
    "VALUES (?1, ?2 + COALESCE((SELECT total FROM counted_keys ORDER BY seq DESC LIMIT 1), 0), ?3)"
)
_FORGET_DAYS: Final = (
    "DELETE FROM counted_keys WHERE seq IN (SELECT seq FROM counted_keys ORDER BY seq LIMIT 4) AND day < ?"
)
_FORGET_OLDEST: Final = (
    "DELETE FROM counted_keys WHERE seq < (SELECT seq FROM counted_keys WHERE total > "
    "(SELECT total FROM counted_keys ORDER BY seq DESC LIMIT 1) - ? ORDER BY seq LIMIT 1)"
)
_MERGE: Final = 1 << 16
_MEMO: Final = 1 << 14

Keys = NDArray[np.uint64]
_NONE: Final[Keys] = np.empty(0, np.uint64)
_TYPE: Final = {name: number for number, name in enumerate(sorted(TRENDING_WEIGHTS))}


def keys_of(engagements: Sequence[Engagement]) -> Keys:
    """A hash of each one's user, ping, event type and UTC day, in their order."""
    users = np.array([_hash(e.user_id) for e in engagements], np.uint64)
    pings = np.array([_hash(e.ping_id) for e in engagements], np.uint64)
    kinds = np.array([e.at_ms // DAY_MS * len(_TYPE) + _TYPE[e.event_type] for e in engagements], np.uint64)
    return _mixed(_mixed(_mixed(kinds) ^ pings) ^ users)


class CountedKeys:
    """One process's copy. Belongs to the writer's thread; every method runs inside its transaction."""

    def __init__(self) -> None:
        self._start_over()

    def new(self, connection: sqlite3.Connection, keys: Keys) -> NDArray[np.intp]:
        """Which of the keys (by their place) have not counted yet; of the same key twice the first."""
        self._catch_up(connection)
        unique, places = np.unique(keys, return_index=True)
        fresh = ~(_among(unique, self._settled) | _among(unique, self._recent))
        return np.sort(places[fresh])

    def add(self, connection: sqlite3.Connection, keys: Keys, day: int) -> None:
        """Write down that keys have counted, the newest on `day`."""
        if len(keys):
            connection.execute(_INSERT, (day, len(keys), keys.astype("<u8").tobytes()))

    def forget(self, connection: sqlite3.Connection, before_day: int, most: int) -> None:
        """Remove some of what is of an earlier day, and all that is older than the newest `most`."""
        connection.execute(_FORGET_DAYS, (before_day,))
        connection.execute(_FORGET_OLDEST, (most,))
        if len(self._settled) > most + most // 4:
            self._start_over()

    def _start_over(self) -> None:
        """What is left is read again by the next flush."""
        self._seen_to = 0
        self._settled = self._recent = _NONE

    def _catch_up(self, connection: sqlite3.Connection) -> None:
        sql = "SELECT seq, keys FROM counted_keys WHERE seq > ? ORDER BY seq"
        rows = connection.execute(sql, (self._seen_to,)).fetchall()
        if not rows:
            return
        self._seen_to = rows[-1][0]
        added = np.sort(np.concatenate([np.frombuffer(data, "<u8") for _, data in rows]))
        self._recent = _merged(self._recent, added)
        if len(self._recent) > _MERGE:
            self._settled, self._recent = _merged(self._settled, self._recent), _NONE


def _merged(into: Keys, keys: Keys) -> Keys:
    return np.insert(into, np.searchsorted(into, keys), keys)


def _among(keys: Keys, held: Keys) -> NDArray[np.bool_]:
    """For each key whether it is in the sorted `held`."""
    if not len(held):
        return np.zeros(len(keys), np.bool_)
    places = np.minimum(np.searchsorted(held, keys), len(held) - 1)
    return np.equal(held[places], keys)


@lru_cache(_MEMO)
def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _mixed(values: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): every bit depends on every other."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
