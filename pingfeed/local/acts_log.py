"""Acts that wait in a log until they are folded into states: the tables, the rows, and what they do to a state.

    log(seq, acts)                                     `seq` ascends by one; the newest row is never removed, so that no
                                                       `seq` is used twice
    progress(id, folded_to, folded_ms, forgets, step)  one row: the last `seq` whose acts are in the states, the time
                                                       of the newest act when that fold began, how often a user was
                                                       forgotten, the sign of the last step (`fold.py`)

A log row is what one call applied, a chunk for each user. Little-endian, 32 bits each:

    n | n times the CRC-32 of a user id | n + 1 times an offset in the row: where chunks begin, and the end | the chunks

so that who looks for a user, or sorts by users, decodes nothing else. A chunk is MessagePack, [user id, entries]; an
entry is an act, [kind, target, at_ms, pings] where there are pings. A seen and an engaged of the same ping and time, as
every like leaves them, are one entry of the kind "both". A row of `folded_to` and before counts no more and goes soon.
"""

import logging
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, Literal
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from pingfeed.core.signals import STATE_TTL_MS, Act, ActKind, UserState
from pingfeed.telemetry import nameless

LOG_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS log (seq INTEGER PRIMARY KEY, acts BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS progress (id INTEGER PRIMARY KEY CHECK (id = 1), folded_to INTEGER NOT NULL, "
    "folded_ms INTEGER NOT NULL, forgets INTEGER NOT NULL, step INTEGER NOT NULL)",
    "INSERT OR IGNORE INTO progress VALUES (1, 0, 0, 0, 0)",
)
Numbers = NDArray[np.uint32]
_log = logging.getLogger(__name__)


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An act but for its user."""

    kind: ActKind | Literal["both"]
    target: str
    at_ms: int
    pings: tuple[str, ...] = ()


_encode: Final = msgspec.msgpack.Encoder().encode
_chunks: Final = msgspec.msgpack.Decoder(list[tuple[str, list[Entry]]])


def encode_row(acts: Iterable[Act]) -> bytes:
    """A log row; acts of one user keep their order."""
    by_user: dict[str, list[tuple[object, ...]]] = {}
    for act in acts:
        kind, target, at_ms = act.kind, act.target, act.at_ms
        entry = (kind, target, at_ms, act.pings) if act.pings else (kind, target, at_ms)
        found = by_user.get(act.user_id)
        if found is None:
            by_user[act.user_id] = [entry]
        elif kind == "engaged" and found[-1] == ("seen", target, at_ms):
            found[-1] = ("both", target, at_ms)
        else:
            found.append(entry)
    return _row(by_user)


def _row(by_user: Mapping[str, Sequence[object]]) -> bytes:
    size = 8 + 8 * len(by_user)
    chunks, numbers, bounds = [], [len(by_user)], [size]
    for chunk in by_user.items():
        data = _encode(chunk)
        size += len(data)
        chunks.append(data)
        numbers.append(crc32(chunk[0].encode()))
        bounds.append(size)
    return b"".join([struct.pack(f"<{2 + 2 * len(chunks)}I", *numbers, *bounds), *chunks])


def layout(row: bytes) -> tuple[Numbers, Numbers]:
    """The CRC of every chunk, and the bounds; no chunks for a row that is damaged: it is lost alone."""
    numbers = np.frombuffer(row, "<u4", len(row) // 4)
    chunks = int(numbers[0]) if len(numbers) else 0
    bounds = numbers[1 + chunks : 2 + 2 * chunks]
    if len(bounds) != chunks + 1 or bounds[0] != 8 + 8 * chunks or bounds[-1] != len(row):
        _log.error("a row of users' acts is damaged", extra={"bytes": len(row)})
        return numbers[:0], np.zeros(1, np.uint32)
    return numbers[1 : 1 + chunks], bounds


def decode_chunks(chunks: Sequence[bytes]) -> list[tuple[str, list[Entry]]]:
    """User and entries of each chunk, but of those that are damaged."""
    try:
        return _chunks.decode(b"".join([b"\xdd", len(chunks).to_bytes(4, "big"), *chunks]))  # As one array.
    except msgspec.DecodeError as error:
        if len(chunks) > 1:
            return [found for chunk in chunks for found in decode_chunks([chunk])]
        _log.error("a user's acts are damaged", extra={"reason": str(error)})
        return []


def without(row: bytes, user_id: str) -> bytes:
    """The row with nothing of the user in it."""
    _, bounds = layout(row)
    chunks = decode_chunks([row[start:end] for start, end in pairwise(bounds.tolist())])
    return _row({user: entries for user, entries in chunks if user != user_id})


def decode_state(user_id: str, data: bytes | None) -> UserState:
    """A stored state. One that cannot be read is lost, and the user begins anew: better than no feed for ever."""
    try:
        return UserState.decode(data)
    except msgspec.DecodeError as error:
        _log.error("a user's stored signals are damaged", extra={"user": nameless(user_id), "reason": str(error)})
        return UserState()


def replay(user_id: str, written_ms: int, state: UserState, entries: Iterable[Entry]) -> tuple[int, UserState]:
    """The time of the latest act, and the state, after the entries; may change `state` itself.

    What had expired when an act came is not taken up again.
    """
    for entry in entries:
        kind, target, at_ms = entry.kind, entry.target, entry.at_ms
        if at_ms > written_ms:
            if at_ms - STATE_TTL_MS >= written_ms:
                state = UserState()
            written_ms = at_ms
        if kind == "seen":
            state.see(target, at_ms)
        elif kind == "both":
            state.see(target, at_ms)
            state.engage(target, at_ms)
        else:
            state.apply(Act(user_id, kind, target, at_ms, entry.pings))
    return written_ms, state
