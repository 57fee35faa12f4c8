"""The duplicate window: the events that this process made durable recently, or is making durable now."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from pingfeed.core.events import Row

MAX_KEYS: Final = 100_000


def key_of(row: Row) -> str:
    """An event's identity, here and in the batch: `event_id`, of fixed length, then `user_id`."""
    key: str = row["event_id"] + row.get("user_id", "")
    return key


class RecentEvents:
    """At least the last `limit` keys, at most twice as many: two generations, the older of which is dropped as a whole.

    It keeps retries from being stored twice; the batch side removes duplicates that slip through.
    """

    def __init__(self, limit: int = MAX_KEYS) -> None:
        self._limit = limit
        self._young: set[str] = set()
        self._old: set[str] = set()
        self._claimed: set[str] = set()
        self._released: asyncio.Future[None] | None = None

    @asynccontextmanager
    async def claimed(self, rows: Sequence[Row]) -> AsyncIterator[Sequence[Row]]:
        """The new ones of some rows, for the `with` body to make durable; they are remembered unless it raises.

        A row that another request is making durable is waited for: it is new only if that fails.
        """
        keys = [key_of(row) for row in rows]
        while not self._claimed.isdisjoint(keys):
            self._released = self._released or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._released)
        fresh, new = self.new_of(rows)
        self._claimed |= new
        try:
            yield fresh
            self.remember(new)
        finally:
            self._claimed -= new
            if self._released is not None:
                self._released.set_result(None)
                self._released = None

    def new_of(self, rows: Sequence[Row]) -> tuple[Sequence[Row], set[str]]:
        """The rows that are neither remembered nor repeated, in order, and their keys."""
        keys = [key_of(row) for row in rows]
        distinct = set(keys)
        if len(distinct) == len(keys) and self._young.isdisjoint(keys) and self._old.isdisjoint(keys):
            return rows, distinct
        fresh: dict[str, Row] = {}
        for key, row in zip(keys, rows, strict=True):
            if key not in self._young and key not in self._old:
                fresh.setdefault(key, row)
        return list(fresh.values()), set(fresh)

    def remember(self, keys: Iterable[str]) -> None:
        """Add the keys of durable rows and drop the oldest."""
        self._young.update(keys)
        if len(self._young) >= self._limit:
            self._old, self._young = self._young, set()
