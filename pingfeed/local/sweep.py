"""How outdated rows leave a table in SQLite: a few at a time."""

import sqlite3


class Sweep:
    """Removes a table's outdated rows a few at a time, so that no write ever waits for a whole table.

    Each step looks at the next rows in rowid order and begins again at the end. `table` and `column` are names in this
    package's own code, never a caller's.
    """

    def __init__(self, table: str, column: str, *, rows: int = 200) -> None:
        self._next = f"SELECT MAX(rowid) FROM (SELECT rowid FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {rows})"  # noqa: S608
        self._delete = f"DELETE FROM {table} WHERE rowid > ? AND rowid <= ? AND {column} <= ?"  # noqa: S608
        self._at = 0

    def step(self, connection: sqlite3.Connection, outdated: int) -> None:
        """Remove those of the next rows whose column is at most `outdated`."""
        (end,) = connection.execute(self._next, (self._at,)).fetchone()
        if end is None:
            self._at = 0
            (end,) = connection.execute(self._next, (0,)).fetchone()
        connection.execute(self._delete, (self._at, end or 0, outdated))
        self._at = end or 0
