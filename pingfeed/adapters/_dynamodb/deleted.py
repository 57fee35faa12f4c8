"""The recently deleted pings: visible to every reader at once, without reading the whole list each time.

    d/           `d` the names of the parts, 8 bytes each, oldest first, after a format byte
    d/<name>     `d` one part, compressed: MessagePack of [[ping id, epoch ms], ...], oldest first; never changed

The first item is the head. It is small, and a reader gets it with every user's state, in the same call; a second call
fetches only parts that the reader has not seen. A deletion writes a new part (with the entries of the last part while
that has room), then replaces the head on condition that it is unchanged. Nothing is visible before that, and the parts
of a writer that dies or loses the race are never read. Part names are random, so a head identifies a version. Both
items carry the TTL attribute `t`: seven days after their latest deletion they are obsolete.

A request may time out before the parts arrive. So a fetch belongs to the process, not to the request: it continues when
the request is cancelled, concurrent requests share it, and its result serves later ones.

All readers share one head item: DynamoDB allows 3,000 consistent reads a second per key.
"""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from pingfeed.adapters._dynamodb.connection import Answer, SharedConnection
from pingfeed.adapters._dynamodb.items import Item, compress, decompress, ttl
from pingfeed.aws import KEY, TTL
from pingfeed.core.deleted_pings import DeletedPings
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.core.retry import Backoff, until_true
from pingfeed.core.signals import DELETED_TTL_MS, MAX_DELETED, Act

HEAD: Final = "d/"
PART: Final = 1000
"""Deletions in a part: 6 to 20 KB, 100 KB if every id has 128 bytes."""
TRIES: Final = 12
_FORMAT: Final = b"\x01"
_NAME_BYTES: Final = 8
_log = logging.getLogger(__name__)

Times = dict[str, int]
"""From ping id to the time of its deletion, oldest first."""
Names = tuple[str, ...]


class DeletedList:
    """One process's copy of a table's list."""

    def __init__(self, table: str, connection: SharedConnection, backoff: Backoff) -> None:
        self._table, self._connection, self._backoff = table, connection, backoff
        self._parts: dict[str, Times] = {}
        self._names: Names = ()
        self._fetches: dict[str, asyncio.Task[Times]] = {}
        self._pings = DeletedPings()
        self._writing = asyncio.Lock()

    def head(self) -> Answer:
        """The head item, for `at`."""
        return self._connection().get(self._table, HEAD, consistent=True)

    async def at(self, head: Item | None, now_ms: int) -> frozenset[str]:
        """The newest `MAX_DELETED` pings deleted within `DELETED_TTL_MS` before `now_ms`."""
        await self._follow(_names_in(head))
        return self._pings.at(now_ms)

    async def refresh(self) -> None:
        """Fetch what `at` would wait for. Raises Unavailable, and FormatError as `at` does."""
        await self._follow(_names_in(await self.head()))

    async def close(self) -> None:
        """Cancel the fetches under way; their waiters get Unavailable."""
        fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.cancel()
        if fetches:
            await asyncio.wait(fetches)

    async def add(self, acts: Sequence[Act]) -> None:
        """Add deletions; a known one costs no write. Raises Unavailable."""
        async with self._writing:
            if not await until_true(lambda _: self._try(acts), backoff=self._backoff, tries=TRIES):
                raise Unavailable(f"the DynamoDB table {self._table}: too many concurrent deletions")

    async def _try(self, acts: Sequence[Act]) -> bool:
        """Write the new deletions; False if another process changed the head in between."""
        head = await self.head()
        await self._follow(_names_in(head))
        new = _newer(acts, self._pings.times)
        if not new:
            return True
        # From here on reads may follow other heads; the write is based on the head that was read.
        parts = dict(self._parts)
        if self._names and len(parts[self._names[-1]]) < PART:
            last = parts.pop(self._names[-1])
            new = {ping_id: at_ms for ping_id, at_ms in last.items() if ping_id not in new} | new
        added = {os.urandom(_NAME_BYTES).hex(): part for part in _in_parts(new)}
        after = _head_item(_still_needed({**parts, **added}, max(new.values())))
        connection = self._connection()
        items = [_part_item(name, part) for name, part in added.items()]
        await asyncio.gather(
            *(connection.call("put_item", self._table, TableName=self._table, Item=item) for item in items)
        )
        return await connection.replace(self._table, head, after, by="d")

    async def _follow(self, names: Names) -> None:
        """Hold exactly the named parts."""
        if names == self._names:
            return
        known = self._parts
        found = await self._fetched([name for name in names if name not in known])
        if names == self._names:
            return  # Another waiter was first; merging takes milliseconds.
        # Another read may have moved to another head in between; this one follows its own.
        self._parts = {name: found[name] if name in found else known[name] for name in names}
        self._names = names
        self._pings = DeletedPings()
        self._pings.add(deletion for part in self._parts.values() for deletion in part.items())

    async def _fetched(self, names: Sequence[str]) -> dict[str, Times]:
        """Parts by name. A cancelled caller leaves its fetches to the next one; a failed fetch starts again then."""
        # Keep the fetches under way, and the finished ones that are still needed.
        self._fetches = {name: fetch for name, fetch in self._fetches.items() if name in names or not fetch.done()}
        fetches = {name: self._fetches.get(name) or self._begin(name) for name in names}
        if fetches:
            await asyncio.wait(fetches.values())
        if any(fetch.cancelled() for fetch in fetches.values()):
            raise Unavailable(f"the DynamoDB table {self._table} was closed")
        return {name: fetch.result() for name, fetch in fetches.items()}

    def _begin(self, name: str) -> "asyncio.Task[Times]":
        fetch = asyncio.create_task(self._fetch(name))
        fetch.add_done_callback(partial(self._settle, name))
        self._fetches[name] = fetch
        return fetch

    async def _fetch(self, name: str) -> Times:
        return _part_in(await self._connection().get(self._table, HEAD + name, consistent=True))

    def _settle(self, name: str, fetch: "asyncio.Task[Times]") -> None:
        # Retrieve the exception here, as there may be no waiter left.
        if fetch.cancelled() or fetch.exception() is not None:
            self._fetches.pop(name, None)


def _names_in(head: Item | None) -> Names:
    if head is None:
        return ()
    value = bytes(head["d"]["B"]) if "d" in head else b""
    if value[:1] != _FORMAT or len(value) % _NAME_BYTES != 1:
        raise FormatError("the stored list of deleted pings has another format")
    return tuple(value[at : at + _NAME_BYTES].hex() for at in range(1, len(value), _NAME_BYTES))


def _head_item(parts: Mapping[str, Times]) -> Item:
    expires_ms = max(max(part.values()) for part in parts.values()) + DELETED_TTL_MS
    return {KEY: {"S": HEAD}, "d": {"B": _FORMAT + bytes.fromhex("".join(parts))}, TTL: ttl(expires_ms)}


def _part_item(name: str, part: Times) -> Item:
    value = compress(msgspec.msgpack.encode(list(part.items())))
    return {KEY: {"S": HEAD + name}, "d": {"B": value}, TTL: ttl(max(part.values()) + DELETED_TTL_MS)}


def _part_in(item: Item | None) -> Times:
    """A part's deletions; none if TTL has removed it, as then all of them have expired."""
    if item is None:
        return {}
    try:
        value = decompress("a list of deleted pings", item["d"]["B"])
        return dict(msgspec.msgpack.decode(value, type=list[tuple[str, int]]))
    except (ValueError, msgspec.DecodeError) as error:
        _log.error("a list of deleted pings is damaged", extra={"reason": str(error)})
        return {}


def _newer(acts: Sequence[Act], known: Times) -> Times:
    """The deletions that are newer than the known ones, at most `MAX_DELETED`."""
    new: Times = {}
    for act in acts:
        if act.at_ms > new.get(act.target, known.get(act.target, act.at_ms - 1)):
            new.pop(act.target, None)
            new[act.target] = act.at_ms
    return dict(islice(new.items(), max(0, len(new) - MAX_DELETED), None))


def _in_parts(times: Times) -> list[Times]:
    entries = iter(times.items())
    return list(iter(lambda: dict(islice(entries, PART)), {}))


def _still_needed(parts: Mapping[str, Times], now_ms: int) -> Mapping[str, Times]:
    """Drop the oldest parts that have only expired deletions, or ones beyond the limit."""
    names = list(parts)
    while len(names) > 1:
        newer = {ping_id for name in names[1:] for ping_id in parts[name]}
        is_over = all(at_ms <= now_ms - DELETED_TTL_MS for at_ms in parts[names[0]].values())
        if not is_over and len(newer) < MAX_DELETED:
            break
        del names[0]
    return {name: parts[name] for name in names}
