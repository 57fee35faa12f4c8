"""The pings that were deleted lately, as every reader sees them at once without reading them all each time.

    d/           `d` the names of the parts, 8 bytes each, oldest first, after a format byte
    d/<name>     `d` one part, sealed: MessagePack of [[ping id, epoch ms], ...], oldest first; never changed

The first item is the head. It is small, and a reader gets it with every user's state, in the same call; only where it
names parts that the reader has not seen does a second call fetch those. A deletion writes its ping into a new part,
with what the last part held while that has room, and then the head, if nobody has changed it meanwhile: before that
nobody sees anything, and what a writer leaves that dies or loses is never read. The names are random, so a head is as
good as a version. Both items carry the TTL attribute `t`: seven days after their latest deletion they mean nothing.

A reader may have less time than the parts take. So a fetch of a part belongs to the process and not to a reader: it
goes on when they leave, all who want the part wait for the same one, and what it brought is there for the next.

One item for all readers bears what DynamoDB gives one key: 3,000 consistent reads a second.
"""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from pingfeed.adapters._dynamodb.connection import SharedConnection
from pingfeed.adapters._dynamodb.items import KEY, TTL, Item, ttl
from pingfeed.adapters._dynamodb.loader import Answer
from pingfeed.adapters._dynamodb.sealed import seal, unseal
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.core.retry import Backoff
from pingfeed.core.signals import DELETED_TTL_MS, MAX_DELETED, Act

HEAD: Final = "d/"
PART: Final = 1000
"""Deletions in a part: 6 to 20 KB, 100 KB if every id has 128 bytes."""
TRIES: Final = 12
_FORMAT: Final = b"\x01"
_NAME_BYTES: Final = 8
_log = logging.getLogger(__name__)

Times = dict[str, int]
"""Ping id to when it was deleted, oldest deletion first."""
Names = tuple[str, ...]


class DeletedPings:
    """One process's view of a table's list."""

    def __init__(self, table: str, connection: SharedConnection, backoff: Backoff) -> None:
        self._table, self._connection, self._backoff = table, connection, backoff
        self._parts: dict[str, Times] = {}
        self._names: Names = ()
        self._fetches: dict[str, asyncio.Task[Times]] = {}
        self._times: Times = {}
        self._live: frozenset[str] = frozenset()
        self._valid = range(0)  # The instants for which `_live` is right.
        self._writing = asyncio.Lock()

    def head(self) -> Answer:
        """The head item, for `at`."""
        return self._connection().get(self._table, HEAD, consistent=True)

    async def at(self, head: Item | None, now_ms: int) -> frozenset[str]:
        """The newest `MAX_DELETED` pings that were deleted within `DELETED_TTL_MS` before `now_ms`."""
        await self._follow(_names_in(head))
        if now_ms not in self._valid:
            live = {ping_id: at_ms for ping_id, at_ms in self._times.items() if at_ms > now_ms - DELETED_TTL_MS}
            self._live = frozenset(live)
            self._valid = range(now_ms, min(live.values(), default=now_ms) + DELETED_TTL_MS)
        return self._live

    async def bring(self) -> None:
        """Have what `at` would wait for. Raises Unavailable, and FormatError as `at` does."""
        await self._follow(_names_in(await self.head()))

    async def close(self) -> None:
        """Give up what is being fetched; those who wait for it get Unavailable."""
        fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.cancel()
        if fetches:
            await asyncio.wait(fetches)

    async def add(self, acts: Sequence[Act]) -> None:
        """Take deletions in; one that is known already costs no write. Raises Unavailable."""
        async with self._writing:
            for failures in range(1, TRIES + 1):
                if await self._try(await self.head(), acts):
                    return
                await asyncio.sleep(self._backoff.pause_s(failures))
        raise Unavailable(f"the DynamoDB table {self._table}: others delete pings all the time")

    async def _try(self, head: Item | None, acts: Sequence[Act]) -> bool:
        """Write what is new; False if another process changed the head meanwhile."""
        await self._follow(_names_in(head))
        new = _newer(acts, self._times)
        if not new:
            return True
        # From here on reads may follow other heads: what is written comes of the one that was read.
        parts = dict(self._parts)
        if self._names and len(parts[self._names[-1]]) < PART:
            new = _merged([parts.pop(self._names[-1]), new])
        added = {os.urandom(_NAME_BYTES).hex(): part for part in _in_parts(new)}
        after = _head_item(_still_needed({**parts, **added}, max(new.values())))
        connection = self._connection()
        items = [_part_item(name, part) for name, part in added.items()]
        await asyncio.gather(
            *(connection.call("put_item", self._table, TableName=self._table, Item=item) for item in items)
        )
        return await connection.replace(self._table, head, after, by="d")

    async def _follow(self, names: Names) -> None:
        """Have the parts that are named, and no others."""
        if names == self._names:
            return
        known = self._parts
        found = await self._fetched([name for name in names if name not in known])
        if names == self._names:
            return  # Of those who waited another was first, and merging takes milliseconds.
        # Another read may have gone on meanwhile, or back: what counts here is the head that this one has seen.
        self._parts = {name: found[name] if name in found else known[name] for name in names}
        self._names = names
        self._times = _newest(_merged(list(self._parts.values())), MAX_DELETED)
        self._valid = range(0)

    async def _fetched(self, names: Sequence[str]) -> dict[str, Times]:
        """Parts by name. Who is cancelled here leaves the fetches to the next; one that fails is begun anew then."""
        # Kept are those under way, and of those that ended the ones that are wanted still.
        self._fetches = {name: fetch for name, fetch in self._fetches.items() if name in names or not fetch.done()}
        fetches = {name: self._fetches.get(name) or self._begin(name) for name in names}
        if fetches:
            await asyncio.wait(fetches.values())
        if any(fetch.cancelled() for fetch in fetches.values()):
            raise Unavailable(f"the DynamoDB table {self._table} was let go")
        return {name: fetch.result() for name, fetch in fetches.items()}

    def _begin(self, name: str) -> "asyncio.Task[Times]":
        fetch = asyncio.create_task(self._fetch(name))
        fetch.add_done_callback(partial(self._settle, name))
        self._fetches[name] = fetch
        return fetch

    async def _fetch(self, name: str) -> Times:
        return _part_in(await self._connection().get(self._table, HEAD + name, consistent=True))

    def _settle(self, name: str, fetch: "asyncio.Task[Times]") -> None:
        # An error is looked at here, for nobody may wait any more.
        if fetch.cancelled() or fetch.exception() is not None:
            self._fetches.pop(name, None)


def _names_in(head: Item | None) -> Names:
    if head is None:
        return ()
    value = bytes(head["d"]["B"]) if "d" in head else b""
    if value[:1] != _FORMAT or len(value) % _NAME_BYTES != 1:
        raise FormatError("the stored list of deleted pings is of another format")
    return tuple(value[at : at + _NAME_BYTES].hex() for at in range(1, len(value), _NAME_BYTES))


def _head_item(parts: Mapping[str, Times]) -> Item:
    expires_ms = max(max(part.values()) for part in parts.values()) + DELETED_TTL_MS
    return {KEY: {"S": HEAD}, "d": {"B": _FORMAT + bytes.fromhex("".join(parts))}, TTL: ttl(expires_ms)}


def _part_item(name: str, part: Times) -> Item:
    value = seal(msgspec.msgpack.encode(list(part.items())))
    return {KEY: {"S": HEAD + name}, "d": {"B": value}, TTL: ttl(max(part.values()) + DELETED_TTL_MS)}


def _part_in(item: Item | None) -> Times:
    """A part's deletions. None is left of one that TTL removed: then all of them are over."""
    if item is None:
        return {}
    try:
        value = unseal("a list of deleted pings", item["d"]["B"])
        return dict(msgspec.msgpack.decode(value, type=list[tuple[str, int]]))
    except (ValueError, msgspec.DecodeError) as error:
        _log.error("a list of deleted pings is damaged", extra={"reason": str(error)})
        return {}


def _newer(acts: Sequence[Act], known: Times) -> Times:
    """The acts that say more than is known, at most as many as are kept."""
    new: Times = {}
    for act in acts:
        if act.at_ms > new.get(act.target, known.get(act.target, act.at_ms - 1)):
            new.pop(act.target, None)
            new[act.target] = act.at_ms
    return _newest(new, MAX_DELETED)


def _merged(parts: Sequence[Times]) -> Times:
    """One after the other; a ping that is deleted again moves to the end."""
    merged: Times = {}
    for part in parts:
        for ping_id, at_ms in part.items():
            merged.pop(ping_id, None)
            merged[ping_id] = at_ms
    return merged


def _newest(times: Times, count: int) -> Times:
    return dict(islice(times.items(), max(0, len(times) - count), None))


def _in_parts(times: Times) -> list[Times]:
    entries = iter(times.items())
    return list(iter(lambda: dict(islice(entries, PART)), {}))


def _still_needed(parts: Mapping[str, Times], now_ms: int) -> Mapping[str, Times]:
    """Without the oldest parts that have only what is over, or what newer parts push out."""
    names = list(parts)
    while len(names) > 1:
        newer = {ping_id for name in names[1:] for ping_id in parts[name]}
        is_over = all(at_ms <= now_ms - DELETED_TTL_MS for at_ms in parts[names[0]].values())
        if not is_over and len(newer) < MAX_DELETED:
            break
        del names[0]
    return {name: parts[name] for name in names}
