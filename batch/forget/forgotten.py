"""Which rows are a forgotten user's: those up to the moment of forgetting.

What a user did goes. What a user made stays, for it is content: `ping_created` and `ping_deleted` keep their row and
lose the user's id (the ping itself is taken back by a `ping_deleted`, as ever).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from batch.forget.mentions import ids_in
from batch.forget.tombstones import Tombstone, hash_of

CONTENT: Final = ("ping_created", "ping_deleted")


class Forgotten:
    """Forgotten users by the hash of their ids, each with the last moment that is forgotten (in any unit).

    An id is hashed once, however many tables it stands in. For any number of threads.
    """

    def __init__(self, until: Mapping[str, int]) -> None:
        self._until = until
        self._found: dict[str, int] = {}
        self._strangers: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._until)

    def until(self, user_id: str) -> int | None:
        """The last moment of a user that is forgotten, None for a stranger."""
        self._look([user_id])
        return self._found.get(user_id)

    def among(self, user_ids: Iterable[str], at: int) -> list[str]:
        """Those of whom the moment `at` is forgotten."""
        return [user_id for user_id in user_ids if (self.until(user_id) or -1) >= at]

    def rows(self, table: pa.Table, clock: str) -> pa.ChunkedArray | None:
        """Which rows of (`user_id`, `clock`) are forgotten, as booleans; None if none is.

        A row without a time is as old as can be.
        """
        if not self._until or "user_id" not in table.column_names:
            return None
        users = table["user_id"].cast(pa.string())
        here = pc.unique(users).drop_null().to_pylist()
        self._look(here)
        ids = [user_id for user_id in here if user_id in self._found]
        if not ids:
            return None
        until = pa.array([self._found[user_id] for user_id in ids], pa.int64())
        limit = pc.take(until, pc.index_in(users, value_set=pa.array(ids, pa.string())))
        when = pc.fill_null(table[clock].cast(pa.int64()), 0)
        found = pc.fill_null(pc.less_equal(when, limit), False)
        return found if pc.any(found).as_py() else None

    def without(self, table: pa.Table, clock: str) -> pa.Table:
        """The table without the forgotten rows; content among them keeps its place and has no user any more."""
        gone = self.rows(table, clock)
        if gone is None:
            return table
        if "event_type" in table.column_names:
            content = pc.and_(gone, is_content(table))
            users = table["user_id"].cast(pa.string())
            nobody = pc.if_else(content, pa.scalar(None, pa.string()), users)
            table = table.set_column(table.column_names.index("user_id"), "user_id", nobody)
            gone = pc.and_(gone, pc.invert(content))
        return table.filter(pc.invert(gone))

    def mentioned(self, document: str, at: int) -> list[str]:
        """Of whom a document that is no row, JSON perhaps, may be, and of whom the moment `at` is forgotten."""
        return sorted(self.among(ids_in(document), at)) if self._until else []

    def _look(self, user_ids: Iterable[str]) -> None:
        for user_id in user_ids:
            if user_id in self._strangers or user_id in self._found:
                continue
            until = self._until.get(hash_of(user_id))
            if until is None:
                self._strangers.add(user_id)
            else:
                self._found[user_id] = until


def is_content(table: pa.Table) -> Any:
    """Which events are about what was made, not about what somebody did."""
    return pc.fill_null(pc.is_in(table["event_type"].cast(pa.string()), value_set=pa.array(CONTENT)), False)


@dataclass(frozen=True)
class Pending:
    """Who waits for the night, for tables that count in milliseconds and those that count in ticks."""

    by_ms: Forgotten
    by_tick: Forgotten

    @classmethod
    def of(cls, stones: Iterable[Tombstone]) -> "Pending":
        """From their notes, oldest first."""
        stones = list(stones)
        return cls(
            Forgotten({stone.hash: stone.at_ms for stone in stones}),
            Forgotten({stone.hash: stone.tick for stone in stones}),
        )

    def __bool__(self) -> bool:
        return bool(self.by_ms)

    def of_clock(self, clock: str) -> Forgotten:
        """The view in the unit of a column."""
        return self.by_ms if clock.endswith("_ms") else self.by_tick

    def without(self, table: pa.Table, clock: str) -> pa.Table:
        """The table without their rows."""
        return self.of_clock(clock).without(table, clock)
