"""Reading signals files of formats 1 and 2, once, when they are upgraded.

    state(user_id, written_ms, state)   an encoded `UserState` per user, relations included
    log(seq, acts)                      format 2 only: acts not yet in a state, if `seq > progress.folded_to`

A log row holds little-endian 32-bit numbers, then chunks, one per user: n, n checksums, n + 1 offsets in the row. A
chunk is MessagePack: [user id, [[kind, target, at_ms, pings?]]], where the kind "both" means seen and engaged.
"""

import logging
import sqlite3
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, Literal

import msgspec

from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.signals import Act, ActKind

_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    kind: ActKind | Literal["both"]
    target: str
    at_ms: int
    pings: tuple[str, ...] = ()


_user_of: Final = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])
_entries_of: Final = msgspec.msgpack.Decoder(tuple[str, list[_Entry]])


def _has(connection: sqlite3.Connection, table: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchone() is not None


def old_states(connection: sqlite3.Connection) -> Iterator[tuple[str, int, bytes]]:
    """User, time of the latest act and encoded state of every user."""
    if _has(connection, "state"):
        yield from connection.execute("SELECT user_id, written_ms, state FROM state")


def old_acts(connection: sqlite3.Connection) -> Iterator[tuple[str, list[Act]]]:
    """Every user's acts that are not in a state, in order; a damaged part of the log costs itself alone."""
    if not _has(connection, "log"):
        return
    by_user: dict[str, list[bytes]] = {}
    for (row,) in connection.execute("SELECT acts FROM log WHERE seq > (SELECT folded_to FROM progress) ORDER BY seq"):
        for chunk in _chunks(row):
            try:
                by_user.setdefault(_user_of.decode(chunk)[0], []).append(chunk)
            except UNREADABLE as error:
                _log.error("a user's acts are damaged", extra={"reason": str(error)})
    for user_id, chunks in by_user.items():
        yield user_id, [act for chunk in chunks for act in _acts(user_id, chunk)]


def _chunks(row: bytes) -> list[bytes]:
    numbers = [number for (number,) in struct.iter_unpack("<I", row[: len(row) // 4 * 4])]
    count = numbers[0] if numbers else 0
    bounds = numbers[1 + count : 2 + 2 * count]
    if len(bounds) != count + 1 or bounds[0] != 8 + 8 * count or bounds[-1] != len(row):
        _log.error("a row of users' acts is damaged", extra={"bytes": len(row)})
        return []
    return [row[start:end] for start, end in pairwise(bounds)]


def _acts(user_id: str, chunk: bytes) -> Iterator[Act]:
    try:
        _, entries = _entries_of.decode(chunk)
    except UNREADABLE as error:
        _log.error("a user's acts are damaged", extra={"reason": str(error)})
        return
    for entry in entries:
        if entry.kind == "both":
            yield Act(user_id, "seen", entry.target, entry.at_ms)
            yield Act(user_id, "engaged", entry.target, entry.at_ms)
        else:
            yield Act(user_id, entry.kind, entry.target, entry.at_ms, entry.pings)
