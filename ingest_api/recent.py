"""The door's duplicate window: which events this process made durable lately."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from pingfeed.events import Row

MAX_KEYS: Final = 100_000

Key = tuple[str, str]
"""`user_id` (empty where there is none) and `event_id`: what makes an event the same event, here and in the batch."""


def key_of(row: Row) -> Key:
    """The key of a row."""
    return row.get("user_id", ""), row["event_id"]


class RecentEvents:
    """The last `limit` keys. It spares retries a second row; the batch side removes what slips through."""

    def __init__(self, limit: int = MAX_KEYS) -> None:
        self._limit = limit
        # A plain dict scans over what was deleted from its front; this one keeps a list.
        self._keys: OrderedDict[Key, None] = OrderedDict()

    def new_of(self, rows: Iterable[Row]) -> dict[Key, Row]:
        """Those rows that are neither remembered nor repeated among themselves, in order, by key."""
        fresh: dict[Key, Row] = {}
        for row in rows:
            key = key_of(row)
            if key not in self._keys:
                fresh.setdefault(key, row)
        return fresh

    def remember(self, keys: Iterable[Key]) -> None:
        """Enter keys of rows that are durable; the oldest leave."""
        self._keys.update(dict.fromkeys(keys))
        while len(self._keys) > self._limit:
            self._keys.popitem(last=False)
