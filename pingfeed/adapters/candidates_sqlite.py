"""Packets in one SQLite file.

    packet(user_id, expires_ms, packet)    an ordinary rowid table: for blobs it reads faster than WITHOUT ROWID

`synchronous=NORMAL`: a power cut may take the last packets written, and the next tick writes them again.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

from pingfeed.adapters._sqlite import Database, Sweep
from pingfeed.core.packet import TTL_S
from pingfeed.settings import url_path

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS packet (user_id TEXT PRIMARY KEY, expires_ms INTEGER NOT NULL, packet BLOB NOT NULL)",
)
_UPSERT: Final = (
    "INSERT INTO packet VALUES (?, ?, ?) ON CONFLICT (user_id) "
    "DO UPDATE SET expires_ms = excluded.expires_ms, packet = excluded.packet"
)
_CHUNK: Final = 1000


class SqliteCandidateStore:
    """`sqlite:///path/of/the/file`."""

    def __init__(self, url: str) -> None:
        self._database = Database(url_path(url), _SCHEMA, durable=False, erase=True)
        self._sweep = Sweep("packet", "expires_ms <= ?", rows=2 * _CHUNK)

    async def get(self, user_id: str, now_ms: int) -> bytes | None:
        row = self._database.one("SELECT packet FROM packet WHERE user_id = ? AND expires_ms > ?", user_id, now_ms)
        return row[0] if row else None

    async def put_many(self, packets: Mapping[str, bytes], expires_ms: int) -> None:
        """One transaction per thousand packets, so that other processes get their turn to write."""
        items = iter(packets.items())
        while chunk := list(islice(items, _CHUNK)):
            rows = [(user_id, expires_ms, packet) for user_id, packet in chunk]
            await self._database.write(partial(self._put, rows, expires_ms))

    async def delete(self, user_id: str) -> None:
        """Also removes every byte of the id from the file."""
        await self._database.write(partial(_delete, user_id))
        await self._database.erase(user_id.encode())

    async def check(self) -> None:
        await self._database.check()

    async def close(self) -> None:
        await self._database.close()

    def _put(self, rows: Sequence[tuple[str, int, bytes]], expires_ms: int, connection: sqlite3.Connection) -> None:
        connection.executemany(_UPSERT, rows)
        self._database.rebuilt(connection)
        # A packet lives for TTL_S, so the expiry of these tells the current time.
        self._sweep.step(connection, expires_ms - TTL_S * 1000)


def _delete(user_id: str, connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM packet WHERE user_id = ?", (user_id,))
