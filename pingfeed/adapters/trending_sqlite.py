"""What is hot, as forward-decay counters in one SQLite file.

    clock(id, landmark_ms, newest_ms)   one row: the instant that weights are relative to, and the newest engagement
    weight(country, ping_id, weight)    sum of `signals.forward_weight`; the country "" is all of them together
    counted(id, day, key)               hashes of the (user, ping, event type, UTC day) that counted, oldest first

With forward decay (Cormode et al., ICDE 2009) the order of stored weights is that of the decayed ones at any time;
weights are rewritten only for a new landmark, every `MAX_LANDMARK_AGE_MS`.

Engagements are buffered and counted together, `FLUSH_S` after the first or at `MAX_WAITING`, so that shared pages and
counters are written once. A kill loses the buffer, except what the spool replays; a failed flush loses its engagements,
which the next `add` reports. Flushed engagements survive a power cut (`synchronous=FULL`).

Bounded: `MAX_PINGS` per country (and an eighth more), `MAX_COUNTED` keys. An engagement more than `COUNTED_MS` older
than the newest is ignored: it would weigh 2 ** -48 of a fresh one, and its key is gone by then.

Formats 1 and 2 had other keys: weights are kept, but an engagement of the day of the upgrade may count again.
"""

import asyncio
import hashlib
import logging
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from pingfeed.adapters._sqlite import Database
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import PingfeedError, Unavailable
from pingfeed.core.trending import MAX_LANDMARK_AGE_MS, Engagement, decay_between, forward_weight
from pingfeed.core.words import counted
from pingfeed.settings import url_path

FLUSH_S: Final = 0.4
MAX_WAITING: Final = 20_000
MAX_PINGS: Final = 4000
MAX_COUNTED: Final = 2_000_000
COUNTED_MS: Final = 2 * DAY_MS
_MISSING_S: Final = 86_400.0
"""What a damaged file held weighs little after a day."""
_OVERALL: Final = ""
_NOTHING: Final = 1e-15

_FORMAT: Final = 3
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS clock "
    "(id INTEGER PRIMARY KEY CHECK (id = 1), landmark_ms INTEGER NOT NULL, newest_ms INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS weight "
    # Small rows that are changed all the time: one tree fewer to write.
    "(country TEXT, ping_id TEXT, weight REAL NOT NULL, PRIMARY KEY (country, ping_id)) WITHOUT ROWID",
    "DROP TABLE IF EXISTS counted",
    "DROP TABLE IF EXISTS counted_keys",
    "DROP INDEX IF EXISTS hottest",
    "CREATE TABLE counted (id INTEGER PRIMARY KEY, day INTEGER NOT NULL, key INTEGER NOT NULL UNIQUE)",
)
_TOP: Final = (
    # Sorts the country's few thousand rows: a millisecond every few seconds, an index would cost one a flush.
    "SELECT ping_id, weight, (SELECT landmark_ms FROM clock) FROM weight "
    "WHERE country = ? ORDER BY weight DESC, ping_id LIMIT ?"
)
_RAISE: Final = "INSERT INTO weight VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET weight = weight + excluded.weight"
_TRIM: Final = (
    "DELETE FROM weight WHERE country = ?1 AND ping_id IN "
    "(SELECT ping_id FROM weight WHERE country = ?1 ORDER BY weight DESC, ping_id LIMIT -1 OFFSET ?2)"
)
_COUNT: Final = "INSERT OR IGNORE INTO counted (day, key) VALUES (?, ?)"
_FORGET: Final = (
    "DELETE FROM counted WHERE id IN (SELECT id FROM counted ORDER BY id LIMIT ?1) "
    "AND (day < ?2 OR id <= (SELECT MAX(id) FROM counted) - ?3)"
)
_log = logging.getLogger(__name__)


class SqliteTrending:
    """`sqlite:///path/of/the/file`."""

    def __init__(self, url: str) -> None:
        self._database = Database(url_path(url), _SCHEMA, durable=True, version=_FORMAT, missing_s=_MISSING_S)
        self._waiting: list[Engagement] = []
        self._timer: asyncio.Task[None] | None = None
        self._one_flush = asyncio.Lock()
        self._failed: PingfeedError | None = None
        self._rows: Counter[str] = Counter()

    async def add(self, engagements: Sequence[Engagement]) -> None:
        """Raises Unavailable once if earlier engagements could not be counted; these ones are counted."""
        self._waiting += engagements
        if len(self._waiting) >= MAX_WAITING:
            await self._flush()
        elif self._waiting and (self._timer is None or self._timer.done()):
            self._timer = asyncio.create_task(self._flush_later())
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    async def top(self, country: str | None, limit: int, now_ms: int) -> list[tuple[str, float]]:
        """Includes what this object added, and what others added up to a second ago."""
        if self._waiting or self._one_flush.locked():
            await self._flush()
        rows = self._database.all(_TOP, country or _OVERALL, limit)
        if not rows:
            return []
        if any(None in row for row in rows):
            self._database.discard("counters without their values")
            return []
        landmark_ms = rows[0][2]
        factor = decay_between(landmark_ms, max(now_ms, landmark_ms - MAX_LANDMARK_AGE_MS))
        return [(ping_id, weight * factor) for ping_id, weight, _ in rows]

    async def check(self) -> None:
        await self._database.check()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._flush()
        except PingfeedError as error:
            _log.warning("trending missed engagements", extra={"reason": error.message})
        await self._database.close()

    async def _flush_later(self) -> None:
        while self._waiting:  # An add during a flush starts no second timer.
            await asyncio.sleep(FLUSH_S)
            try:
                await self._flush()
            except PingfeedError as error:
                self._failed = error

    async def _flush(self) -> None:
        """Count the buffer, after a flush that is already running. A flush that fails is not retried."""
        async with self._one_flush:
            batch, self._waiting = self._waiting, []
            if not batch:
                return
            try:
                # Shielded: a caller that gives up must not let the next flush into this one's transaction.
                await asyncio.shield(self._database.write(partial(self._count, batch)))
            except Unavailable as error:
                lost = counted(len(batch), "engagement was", "engagements were")
                raise Unavailable(f"{lost} not counted: {error.message}") from error

    def _count(self, batch: Sequence[Engagement], connection: sqlite3.Connection) -> None:
        landmark_ms, newest_ms = _tell_time(connection, max(e.at_ms for e in batch))
        batch = [e for e in batch if e.at_ms > newest_ms - COUNTED_MS]
        fresh = [e for e in batch if connection.execute(_COUNT, (e.at_ms // DAY_MS, _key(e))).rowcount]
        if fresh:
            sums = _sums(fresh, landmark_ms)
            connection.executemany(_RAISE, [(c, ping, weight) for c in sums for ping, weight in sums[c].items()])
            self._keep_hottest(connection, {country: len(pings) for country, pings in sums.items()})
        # Twice what was added, so that old keys leave faster than new ones come.
        connection.execute(_FORGET, (2 * len(batch) + 1, (newest_ms - COUNTED_MS) // DAY_MS, MAX_COUNTED))

    def _keep_hottest(self, connection: sqlite3.Connection, touched: Mapping[str, int]) -> None:
        """Trim countries that have outgrown an eighth more than their bound; `_rows` is at most too large."""
        for country, pings in touched.items():
            self._rows[country] += pings if country in self._rows else MAX_PINGS * 2
            if self._rows[country] > MAX_PINGS + MAX_PINGS // 8:
                sql = "SELECT COUNT(*) FROM weight WHERE country = ?"
                (self._rows[country],) = connection.execute(sql, (country,)).fetchone()
            if self._rows[country] > MAX_PINGS + MAX_PINGS // 8:
                connection.execute(_TRIM, (country, MAX_PINGS))
                self._rows[country] = MAX_PINGS


def _key(e: Engagement) -> int:
    """A signed 64-bit hash of what counts once."""
    name = f"{e.at_ms // DAY_MS} {e.user_id} {e.ping_id} {e.event_type}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little", signed=True)


def _tell_time(connection: sqlite3.Connection, at_ms: int) -> tuple[int, int]:
    """The landmark and the newest engagement's time, after one at `at_ms`; moves an old landmark."""
    connection.execute("INSERT OR IGNORE INTO clock VALUES (1, ?, ?)", (at_ms, at_ms))
    landmark_ms, newest_ms = connection.execute("SELECT landmark_ms, newest_ms FROM clock").fetchone()
    newest_ms = max(newest_ms, at_ms)
    if newest_ms - landmark_ms > MAX_LANDMARK_AGE_MS:
        connection.execute("UPDATE weight SET weight = weight * ?", (decay_between(landmark_ms, newest_ms),))
        connection.execute("DELETE FROM weight WHERE weight < ?", (_NOTHING,))
        landmark_ms = newest_ms
    connection.execute("UPDATE clock SET landmark_ms = ?, newest_ms = ?", (landmark_ms, newest_ms))
    return landmark_ms, newest_ms


def _sums(engagements: Sequence[Engagement], landmark_ms: int) -> Mapping[str, Mapping[str, float]]:
    """Weight to add by country, then by ping; each engagement adds to its country and to all together."""
    sums: dict[str, dict[str, float]] = {_OVERALL: {}}
    for e in engagements:
        pings = sums.setdefault(e.country or _OVERALL, {})
        weight = forward_weight(e.event_type, e.at_ms, landmark_ms)
        pings[e.ping_id] = pings.get(e.ping_id, 0.0) + weight
    overall = sums[_OVERALL]
    for country in sums.keys() - {_OVERALL}:
        for ping_id, weight in sums[country].items():
            overall[ping_id] = overall.get(ping_id, 0.0) + weight
    return sums
