"""Users' recent acts in a DynamoDB table, one bounded item a user.

    s/<user id>    `s` (binary) a compressed, encoded `WholeState`
                   `v` (binary) 8 random bytes, new with every write
                   `t` (number) seconds, for TTL: `STATE_TTL_MS` after the latest act; readers go by `s`. A user with
                   relations or a profile has none.
    complete       present once the lake's relations are in the table

The recently deleted pings are in the same table (`pingfeed/adapters/_dynamodb/deleted.py`).

A state is read, changed, and written if its `v` is unchanged, else read and changed again. So no process undoes
another's acts, and a forgotten user does not reappear. Within a process, a user's writes are serialised. A write that
would change nothing is skipped. Reads are consistent: a hide takes effect in the very next feed. State, head of the
deleted pings and, through the shared loader, the packet come in one call.

Write units follow the item's size. Compressed, a user of 20 follows, 300 seen pings and 12 stored responses is 4 to 13
KiB (ids of 10 characters, or UUIDs), one of 40 seen pings 1 to 3. The largest state within its bounds, every id of 128
random characters, is 394 KiB of the 400 that an item may have.
"""

import asyncio
import logging
import os
import weakref
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import msgspec

from pingfeed.adapters._dynamodb.connection import SharedConnection, is_throttled
from pingfeed.adapters._dynamodb.deleted import DeletedList
from pingfeed.adapters._dynamodb.items import Item, compress, decompress, ttl
from pingfeed.aws import KEY, TTL, TableUrl
from pingfeed.core.clock import system_clock
from pingfeed.core.errors import FormatError, PingfeedError, Rebuilding, Unavailable
from pingfeed.core.retry import Backoff, until_true
from pingfeed.core.signals import INCOMPLETE, STATE_TTL_MS, Act, Signals
from pingfeed.core.whole_state import WholeState
from pingfeed.telemetry import nameless

USERS_AT_ONCE: Final = 32
TRIES: Final = 12
"""Attempts at one user's write against conflicts or throttling: a few seconds. After that the spool retries."""
_COMPLETE: Final = "complete"
_log = logging.getLogger(__name__)


class DynamodbUserSignals:
    """`dynamodb://table`."""

    def __init__(self, url: str, *, backoff: Backoff | None = None) -> None:
        self._table = TableUrl.parse(url).table
        self._backoff = backoff or Backoff(first_s=0.01, longest_s=0.5)
        self._dynamodb = SharedConnection()
        self._deleted = DeletedList(self._table, self._dynamodb, self._backoff)
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._places = asyncio.Semaphore(USERS_AT_ONCE)
        self._complete = False

    async def apply(self, acts: Sequence[Act]) -> None:
        """If it raises, some users' acts may have been applied."""
        by_user: dict[str, list[Act]] = {}
        for act in acts:
            by_user.setdefault("" if act.kind == "deleted" else act.user_id, []).append(act)
        deletions = by_user.pop("", [])
        changes: list[Coroutine[Any, Any, None]] = [self._change(user_id, own) for user_id, own in by_user.items()]
        if deletions:
            changes.append(self._deleted.add(deletions))
        # Wait for all of them: a cancelled one would be neither done nor retried.
        for outcome in await asyncio.gather(*changes, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def read(self, user_id: str, now_ms: int) -> Signals:
        mark = None if self._complete else self._dynamodb().get(self._table, _COMPLETE, consistent=True)
        item, head = await asyncio.gather(
            self._dynamodb().get(self._table, _key(user_id), consistent=True), self._deleted.head()
        )
        self._complete = self._complete or (mark is not None and await mark is not None)
        state, intact = _state_in(user_id, item)
        return Signals(state.at(now_ms), await self._deleted.at(head, now_ms), self._complete and intact)

    async def forget(self, user_id: str) -> None:
        await self._dynamodb().delete(self._table, _key(user_id))

    async def is_complete(self) -> bool:
        """Asks until the answer is yes: the mark does not go away while the process lives."""
        if not self._complete:
            self._complete = await self._dynamodb().get(self._table, _COMPLETE) is not None
        return self._complete

    async def mark_complete(self) -> None:
        item = {KEY: {"S": _COMPLETE}}
        await self._dynamodb().call("put_item", self._table, TableName=self._table, Item=item)

    async def check(self) -> None:
        """Writes, and fetches the deletions that the first read would wait for."""
        item = {KEY: {"S": "check"}, TTL: ttl(system_clock())}
        await self._dynamodb().call("put_item", self._table, TableName=self._table, Item=item)
        try:
            await self._deleted.refresh()
        except FormatError as error:  # At start-up equivalent to being down: feeds are served without it.
            raise Unavailable(error.message) from error
        if not await self.is_complete():
            raise Rebuilding(INCOMPLETE)

    async def close(self) -> None:
        await self._deleted.close()
        await self._dynamodb.close()

    async def _change(self, user_id: str, acts: Sequence[Act]) -> None:
        """Apply one user's acts to the user's state."""
        turn = self._turns.setdefault(user_id, asyncio.Lock())
        async with turn, self._places:
            done = await until_true(
                lambda last: self._try(user_id, acts, last=last), backoff=self._backoff, tries=TRIES
            )
        if not done:
            raise Unavailable(f"the DynamoDB table {self._table}: too many concurrent writes of one user's signals")

    async def _try(self, user_id: str, acts: Sequence[Act], *, last: bool) -> bool:
        """False if another process wrote in between or, except on the last attempt, the request was throttled."""
        try:
            before = await self._dynamodb().get(self._table, _key(user_id), consistent=True)
            after = _changed(user_id, before, acts)
            return after is None or await self._dynamodb().replace(self._table, before, after, by="v")
        except PingfeedError as error:
            if last or not is_throttled(error):
                raise
            return False


def _key(user_id: str) -> str:
    return f"s/{user_id}"


def _changed(user_id: str, before: Item | None, acts: Sequence[Act]) -> Item | None:
    """The item after the acts; None if they change nothing."""
    state, _ = _state_in(user_id, before)
    unchanged = state.encode() if before is not None else None
    for act in acts:
        state.apply(act)
    encoded = state.encode()
    if encoded == unchanged:
        return None
    item: dict[str, Any] = {KEY: {"S": _key(user_id)}, "s": {"B": compress(encoded)}, "v": {"B": os.urandom(8)}}
    if state.expires:
        item[TTL] = ttl(state.written_ms + STATE_TTL_MS)
    return item


def _state_in(user_id: str, item: Item | None) -> tuple[WholeState, bool]:
    """The stored state, and whether it was intact.

    A damaged state is discarded, and the user starts over. One of another format raises FormatError and is kept.
    """
    if item is None:
        return WholeState(), True
    if "s" not in item or "v" not in item:
        raise FormatError(f"the stored signals {_key(user_id)} have another format")
    try:
        return WholeState.decode(decompress(f"the stored signals {_key(user_id)}", item["s"]["B"])), True
    except (ValueError, msgspec.DecodeError) as error:
        _log.error("a user's stored signals are damaged", extra={"user": nameless(user_id), "reason": str(error)})
        return WholeState(), False
