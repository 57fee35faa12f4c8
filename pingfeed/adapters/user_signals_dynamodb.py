"""Users' recent acts in a DynamoDB table, one bounded item a user.

    s/<user id>    `s` (binary) compressed: epoch ms of the latest act (8 bytes, little-endian), encoded `UserState`
                   `v` (binary) 8 random bytes, new with every write
                   `t` (number) seconds, for TTL: `STATE_TTL_MS` after the latest act; readers go by `s`

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
import struct
import weakref
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import msgspec

from pingfeed.adapters._dynamodb.connection import SharedConnection, is_throttled
from pingfeed.adapters._dynamodb.deleted import DeletedList
from pingfeed.adapters._dynamodb.items import Item, compress, decompress, ttl
from pingfeed.aws import KEY, TTL, TableUrl
from pingfeed.core.clock import system_clock
from pingfeed.core.errors import FormatError, PingfeedError, Unavailable
from pingfeed.core.retry import Backoff, until_true
from pingfeed.core.signals import STATE_TTL_MS, Act, Signals, UserState
from pingfeed.telemetry import nameless

USERS_AT_ONCE: Final = 32
TRIES: Final = 12
"""Attempts at one user's write against conflicts or throttling: a few seconds. After that the spool retries."""
_WRITTEN: Final = struct.Struct("<q")
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
        item, head = await asyncio.gather(
            self._dynamodb().get(self._table, _key(user_id), consistent=True), self._deleted.head()
        )
        written_ms, state = _state_in(user_id, item)
        deleted = await self._deleted.at(head, now_ms)
        return Signals(state if written_ms > now_ms - STATE_TTL_MS else UserState(), deleted)

    async def forget(self, user_id: str) -> None:
        await self._dynamodb().delete(self._table, _key(user_id))

    async def check(self) -> None:
        """Writes, and fetches the deletions that the first read would wait for."""
        item = {KEY: {"S": "check"}, TTL: ttl(system_clock())}
        await self._dynamodb().call("put_item", self._table, TableName=self._table, Item=item)
        try:
            await self._deleted.refresh()
        except FormatError as error:  # At start-up equivalent to being down: feeds are served without it.
            raise Unavailable(error.message) from error

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
    written_ms, state = _state_in(user_id, before)
    newest_ms = max(act.at_ms for act in acts)
    if written_ms <= newest_ms - STATE_TTL_MS:
        written_ms, state = 0, UserState()
    unchanged = state.encode() if before is not None and written_ms >= newest_ms else None
    for act in acts:
        state.apply(act)
    encoded = state.encode()
    if encoded == unchanged:
        return None
    written_ms = max(written_ms, newest_ms)
    return {
        KEY: {"S": _key(user_id)},
        "s": {"B": compress(_WRITTEN.pack(written_ms) + encoded)},
        "v": {"B": os.urandom(8)},
        TTL: ttl(written_ms + STATE_TTL_MS),
    }


def _state_in(user_id: str, item: Item | None) -> tuple[int, UserState]:
    """When the stored state was written, and the state.

    A damaged state is discarded, and the user starts over. One of another format raises FormatError and is kept.
    """
    if item is None:
        return 0, UserState()
    if "s" not in item or "v" not in item:
        raise FormatError(f"the stored signals {_key(user_id)} have another format")
    try:
        data = decompress(f"the stored signals {_key(user_id)}", item["s"]["B"])
        (written_ms,) = _WRITTEN.unpack_from(data)
        return written_ms, UserState.decode(data[_WRITTEN.size :])
    except (ValueError, struct.error, msgspec.DecodeError) as error:
        _log.error("a user's stored signals are damaged", extra={"user": nameless(user_id), "reason": str(error)})
        return 0, UserState()
