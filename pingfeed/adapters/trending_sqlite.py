"""What is hot, as forward-decay counters in one SQLite file.

    clock(id, landmark_ms, newest_ms)   one row: the instant that weights are relative to, and the newest engagement
    weight(country, ping_id, weight)    sum of `signals.forward_weight`; the country "" is all of them together
    counted(id, day, key)               which (user, ping, event type) counted on a day, as a hash of 16 bytes

With forward decay (Cormode et al., ICDE 2009) time passes by itself: the order of stored weights is the order of
decayed ones at any instant, and nothing is rewritten but, every `MAX_LANDMARK_AGE_MS`, all weights for a new landmark.

Bounded: `MAX_PINGS` a country (and an eighth more between two sweeps), `MAX_COUNTED` keys. An engagement of more than
`COUNTED_MS` before the newest is left out: it would weigh 2 ** -48 of a fresh one, and its key is gone by then.
`synchronous=FULL`: what was added outlives the spool's record of it.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from pingfeed.clock import DAY_MS
from pingfeed.local.sqlite import Database
from pingfeed.settings import url_path
from pingfeed.signals import MAX_LANDMARK_AGE_MS, Engagement, decay_between, forward_weight

MAX_PINGS: Final = 4000
MAX_COUNTED: Final = 2_000_000
COUNTED_MS: Final = 2 * DAY_MS
_OVERALL: Final = ""
_NOTHING: Final = 1e-15

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS clock "
    "(id INTEGER PRIMARY KEY CHECK (id = 1), landmark_ms INTEGER NOT NULL, newest_ms INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS weight "
    # Small rows that are changed all the time: one tree fewer to write.
    "(country TEXT, ping_id TEXT, weight REAL NOT NULL, PRIMARY KEY (country, ping_id)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS hottest ON weight (country, weight DESC, ping_id)",
    "CREATE TABLE IF NOT EXISTS counted (id INTEGER PRIMARY KEY, day INTEGER NOT NULL, key BLOB NOT NULL UNIQUE)",
)
_TOP: Final = (
    "SELECT ping_id, weight, (SELECT landmark_ms FROM clock) FROM weight "
    "WHERE country = ? ORDER BY weight DESC, ping_id LIMIT ?"
)
_TRIM: Final = (
    "DELETE FROM weight WHERE country = ?1 AND ping_id IN "
    "(SELECT ping_id FROM weight WHERE country = ?1 ORDER BY weight DESC, ping_id LIMIT -1 OFFSET ?2)"
)
_FORGET: Final = (
    "DELETE FROM counted WHERE id IN (SELECT id FROM counted ORDER BY id LIMIT ?) "
    "AND (day < ? OR id <= (SELECT MAX(id) FROM counted) - ?)"
)


class SqliteTrending:
    """`sqlite:///path/of/the/file`."""

    def __init__(self, url: str) -> None:
        self._database = Database(url_path(url), _SCHEMA, durable=True)
        self._inserted: Counter[str] = Counter()

    async def add(self, engagements: Sequence[Engagement]) -> None:
        """Count them, each (user, ping, event type) once a day. Raises Unavailable."""
        if engagements:
            await self._database.write(partial(self._add, engagements))

    async def top(self, country: str | None, limit: int, now_ms: int) -> list[tuple[str, float]]:
        """The hottest pings of a country (None: of all) with their weights at `now_ms`, hottest first."""
        rows = self._database.all(_TOP, country or _OVERALL, limit)
        if not rows:
            return []
        landmark_ms = rows[0][2]
        factor = decay_between(landmark_ms, max(now_ms, landmark_ms - MAX_LANDMARK_AGE_MS))
        return [(ping_id, weight * factor) for ping_id, weight, _ in rows]

    async def check(self) -> None:
        """Raise Unavailable if the file does not answer."""
        await self._database.check()

    async def close(self) -> None:
        """Let the file go."""
        await self._database.close()

    def _add(self, engagements: Sequence[Engagement], connection: sqlite3.Connection) -> None:
        landmark_ms, newest_ms = _tell_time(connection, max(e.at_ms for e in engagements))
        recent = [e for e in engagements if e.at_ms > newest_ms - COUNTED_MS]
        fresh = [engagement for engagement in recent if _counts(connection, engagement)]
        for (country, ping_id), weight in _sums(fresh, landmark_ms).items():
            if _raise(connection, country, ping_id, weight):
                self._inserted[country] += 1
        self._keep_hottest(connection)
        # Looks at twice what was added, so that it keeps up however much is added at once.
        oldest_day = (newest_ms - COUNTED_MS) // DAY_MS
        connection.execute(_FORGET, (2 * len(engagements), oldest_day, MAX_COUNTED))

    def _keep_hottest(self, connection: sqlite3.Connection) -> None:
        for country in [c for c, inserted in self._inserted.items() if inserted > MAX_PINGS // 8]:
            connection.execute(_TRIM, (country, MAX_PINGS))
            del self._inserted[country]


def _tell_time(connection: sqlite3.Connection, at_ms: int) -> tuple[int, int]:
    """The landmark and the newest engagement's time, after one at `at_ms`; moves the landmark if it must."""
    connection.execute("INSERT OR IGNORE INTO clock VALUES (1, ?, ?)", (at_ms, at_ms))
    landmark_ms, newest_ms = connection.execute("SELECT landmark_ms, newest_ms FROM clock").fetchone()
    newest_ms = max(newest_ms, at_ms)
    if newest_ms - landmark_ms > MAX_LANDMARK_AGE_MS:
        connection.execute("UPDATE weight SET weight = weight * ?", (decay_between(landmark_ms, newest_ms),))
        connection.execute("DELETE FROM weight WHERE weight < ?", (_NOTHING,))
        landmark_ms = newest_ms
    connection.execute("UPDATE clock SET landmark_ms = ?, newest_ms = ?", (landmark_ms, newest_ms))
    return landmark_ms, newest_ms


def _counts(connection: sqlite3.Connection, engagement: Engagement) -> bool:
    """Whether it is the first of its user, ping and type on its day; it is not any more afterwards."""
    day = engagement.at_ms // DAY_MS
    name = f"{day} {engagement.user_id} {engagement.ping_id} {engagement.event_type}"
    key = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return connection.execute("INSERT OR IGNORE INTO counted (day, key) VALUES (?, ?)", (day, key)).rowcount == 1


def _sums(engagements: Sequence[Engagement], landmark_ms: int) -> Mapping[tuple[str, str], float]:
    """Weight to add by country and ping; each engagement adds to its country and to all together."""
    sums: dict[tuple[str, str], float] = {}
    for engagement in engagements:
        weight = forward_weight(engagement.event_type, engagement.at_ms, landmark_ms)
        for country in {engagement.country or _OVERALL, _OVERALL}:
            key = country, engagement.ping_id
            sums[key] = sums.get(key, 0.0) + weight
    return sums


def _raise(connection: sqlite3.Connection, country: str, ping_id: str, weight: float) -> bool:
    """Add to a weight; True if the ping is new in the country."""
    sql = "UPDATE weight SET weight = weight + ? WHERE country = ? AND ping_id = ?"
    if connection.execute(sql, (weight, country, ping_id)).rowcount:
        return False
    connection.execute("INSERT INTO weight VALUES (?, ?, ?)", (country, ping_id, weight))
    return True
