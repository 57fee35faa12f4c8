"""Acts that wait in a log until they are folded into states: their rows, and a process's copy of them in memory.

    log(seq, acts)                                     `seq` ascends by one; the newest row is never removed, so that no
                                                       `seq` is used twice
    progress(id, folded_to, folded_ms, forgets, step)  one row: the last `seq` whose acts are in the states, the time
                                                       of the newest act when that fold began, how often a user was
                                                       forgotten, the sign of the last step (`fold.py`)

A log row is what one call applied: a MessagePack map from user id to a list of [kind, target, at_ms, pings], where a
seen and an engaged of the same ping and time, as every like leaves them, are one entry of the kind "both". A row of
`folded_to` and before counts no more and goes soon.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

import msgspec

from pingfeed.local.sqlite import Database
from pingfeed.signals import STATE_TTL_MS, Act, ActKind, UserState

LOG_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS log (seq INTEGER PRIMARY KEY, acts BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS progress (id INTEGER PRIMARY KEY CHECK (id = 1), folded_to INTEGER NOT NULL, "
    "folded_ms INTEGER NOT NULL, forgets INTEGER NOT NULL, step INTEGER NOT NULL)",
    "INSERT OR IGNORE INTO progress VALUES (1, 0, 0, 0, 0)",
)
_PAGE_ROWS: Final = 500
_GENERATION: Final = 10_000
_log = logging.getLogger(__name__)

Chunk = msgspec.Raw
"""One user's acts in one row, still encoded."""

_BOTH: Final = "both"


class _Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An act but for its user."""

    kind: ActKind | Literal["both"]
    target: str
    at_ms: int
    pings: tuple[str, ...] = ()


_rows: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_chunks: Final = msgspec.msgpack.Decoder(list[_Entry])


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
            found[-1] = (_BOTH, target, at_ms)
        else:
            found.append(entry)
    return msgspec.msgpack.encode(by_user)


def decode_row(data: bytes) -> dict[str, Chunk]:
    """Chunks by user. A row that cannot be read is lost alone."""
    try:
        return _rows.decode(data)
    except msgspec.DecodeError as error:
        _log.error("a row of users' acts is damaged", extra={"reason": str(error)})
        return {}


def without(data: bytes, user_id: str) -> bytes:
    """The row with nothing of the user in it."""
    row = decode_row(data)
    row.pop(user_id, None)
    return msgspec.msgpack.encode(row)


def decode_state(user_id: str, data: bytes | None) -> UserState:
    """A stored state. One that cannot be read is lost, and the user begins anew: better than no feed for ever."""
    try:
        return UserState.decode(data)
    except msgspec.DecodeError as error:
        _log.error("a user's stored signals are damaged", extra={"user_id": user_id, "reason": str(error)})
        return UserState()


def replay(user_id: str, written_ms: int, state: UserState, chunks: Iterable[Chunk]) -> tuple[int, UserState]:
    """The time of the latest act, and the state, after the chunks; `state` itself may be changed.

    What had expired when a chunk came is not taken up again.
    """
    for chunk in chunks:
        entries = _entries(user_id, chunk)
        newest_ms = max([entry.at_ms for entry in entries], default=0)
        if written_ms <= newest_ms - STATE_TTL_MS:
            state = UserState()
        for entry in entries:
            kind = entry.kind
            if kind == "seen":
                state.see(entry.target, entry.at_ms)
            elif kind == _BOTH:
                state.see(entry.target, entry.at_ms)
                state.engage(entry.target, entry.at_ms)
            else:
                state.apply(Act(user_id, kind, entry.target, entry.at_ms, entry.pings))
        written_ms = max(written_ms, newest_ms)
    return written_ms, state


def _entries(user_id: str, chunk: Chunk) -> list[_Entry]:
    try:
        return _chunks.decode(chunk)
    except msgspec.DecodeError as error:
        _log.error("a user's acts are damaged", extra={"user_id": user_id, "reason": str(error)})
        return []


class Waiting:
    """A reader's copy of what waits in the log, by user: a look costs one query that finds nothing new, microseconds.

    Chunks stay encoded until their user is asked for. They are kept in generations, each dropped as a whole once it is
    folded, so that no read pays for all of them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen_to = 0
        self._generations: list[_Generation] = []

    def catch_up(self) -> None:
        """Take in what the log holds by now. Raises Unavailable."""
        sql = f"SELECT seq, acts FROM log WHERE seq > ? ORDER BY seq LIMIT {_PAGE_ROWS}"  # noqa: S608 - a number
        while rows := self._database.all(sql, self._seen_to):
            for seq, data in rows:
                self._take(seq, decode_row(data))
            if len(rows) < _PAGE_ROWS:
                return

    def of(self, user_id: str, folded_to: int) -> Iterator[Chunk]:
        """The user's chunks after `folded_to`, in order."""
        for generation in self._generations:
            for seq, chunk in generation.chunks.get(user_id, ()):
                if seq > folded_to:
                    yield chunk

    def drop(self, folded_to: int) -> None:
        """Let go of what is folded."""
        while self._generations and self._generations[0].last <= folded_to:
            del self._generations[0]

    def start_over(self) -> None:
        """Forget everything; the next look begins at the log's first row."""
        self._seen_to = 0
        self._generations = []

    def _take(self, seq: int, row: Mapping[str, Chunk]) -> None:
        if not self._generations or self._generations[-1].size >= _GENERATION:
            self._generations.append(_Generation())
        self._generations[-1].take(seq, row)
        self._seen_to = seq


class _Generation:
    """Some rows that follow one another."""

    def __init__(self) -> None:
        self.last = self.size = 0
        self.chunks: dict[str, list[tuple[int, Chunk]]] = {}

    def take(self, seq: int, row: Mapping[str, Chunk]) -> None:
        for user_id, chunk in row.items():
            found = self.chunks.get(user_id)
            if found is None:
                self.chunks[user_id] = [(seq, chunk)]
            else:
                found.append((seq, chunk))
        self.last = seq
        self.size += len(row)
