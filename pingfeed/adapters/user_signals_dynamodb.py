"""Users' recent acts in a DynamoDB table, one bounded item a user.

    s/<user id>    `s` (binary) epoch ms of the latest act, 8 bytes little-endian, and the encoded `UserState`: sealed
                   `v` (binary) 8 random bytes, new with every write
                   `t` (number) seconds, for TTL: `STATE_TTL_MS` after the latest act; readers go by `s`

The pings deleted lately are beside them (`pingfeed/adapters/_dynamodb/deleted.py`).

A state is read, changed and written if its `v` is still the one that was read; if not, somebody else wrote in between,
and it is read and changed again. So no process undoes another's acts, and a forgotten user does not come back. One
process writes a user's acts one after the other. A write that would change nothing is left out.

Reads are consistent: a hide shows in the very next feed. The state, the head of the deleted pings and, by the shared
loader, the packet come in one call.

Write units follow the item's size. Sealed, a user of 20 follows, 300 seen pings and 12 remembered responses is 4 to 13
KiB (ids of 10 characters, or UUIDs), one of 40 seen pings 1 to 3. The largest state that its bounds allow, every id of
128 random characters, is 394 KiB of the 400 that an item may have.
"""

import asyncio
import logging
import os
import struct
import weakref
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import msgspec

from pingfeed.adapters._dynamodb.answers import is_throttled
from pingfeed.adapters._dynamodb.connection import SharedConnection, TableUrl
from pingfeed.adapters._dynamodb.deleted import DeletedPings
from pingfeed.adapters._dynamodb.items import KEY, TTL, Item, ttl
from pingfeed.adapters._dynamodb.sealed import seal, unseal
from pingfeed.core.errors import FormatError, PingfeedError, Unavailable
from pingfeed.core.retry import Backoff
from pingfeed.core.signals import STATE_TTL_MS, Act, Signals, UserState
from pingfeed.telemetry import nameless

USERS_AT_ONCE: Final = 32
TRIES: Final = 12
"""Of one user's write, against other writers or throttling: a few seconds. The spool tries again after that."""
_WRITTEN: Final = struct.Struct("<q")
_log = logging.getLogger(__name__)


class DynamodbUserSignals:
    """`dynamodb://table`."""

    def __init__(self, url: str, *, backoff: Backoff | None = None) -> None:
        self._table = TableUrl.parse(url).table
        self._backoff = backoff or Backoff(first_s=0.01, longest_s=0.5)
        self._dynamodb = SharedConnection()
        self._deleted = DeletedPings(self._table, self._dynamodb, self._backoff)
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._places = asyncio.Semaphore(USERS_AT_ONCE)

    async def apply(self, acts: Sequence[Act]) -> None:
        """Take acts in, in order for each user; seen by the next read of any process. Raises Unavailable.

        Where it raises, some users' acts may have been taken in.
        """
        by_user: dict[str, list[Act]] = {}
        for act in acts:
            by_user.setdefault("" if act.kind == "deleted" else act.user_id, []).append(act)
        deletions = by_user.pop("", [])
        changes: list[Coroutine[Any, Any, None]] = [self._change(user_id, own) for user_id, own in by_user.items()]
        if deletions:
            changes.append(self._deleted.add(deletions))
        # Each of them ends before this does: what was called off half-way would be neither done nor tried again.
        for outcome in await asyncio.gather(*changes, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def read(self, user_id: str, now_ms: int) -> Signals:
        """The user's state, empty for a stranger or where it has expired, and the pings deleted lately."""
        item, head = await asyncio.gather(
            self._dynamodb().get(self._table, _key(user_id), consistent=True), self._deleted.head()
        )
        written_ms, state = _state_in(user_id, item)
        deleted = await self._deleted.at(head, now_ms)
        return Signals(state if written_ms > now_ms - STATE_TTL_MS else UserState(), deleted)

    async def forget(self, user_id: str) -> None:
        """Remove everything held about the user; absent is fine."""
        await self._dynamodb().delete(self._table, _key(user_id))

    async def check(self) -> None:
        """Raise Unavailable if the table does not answer. Brings the deletions that the first read would wait for."""
        try:
            await self._deleted.bring()
        except FormatError as error:  # For a start it is as good as down: feeds are served without it.
            raise Unavailable(error.message) from error

    async def close(self) -> None:
        """Let the connection go, and what is being fetched."""
        await self._deleted.close()
        await self._dynamodb.close()

    async def _change(self, user_id: str, acts: Sequence[Act]) -> None:
        """Apply one user's acts to the user's state."""
        turn = self._turns.setdefault(user_id, asyncio.Lock())
        async with turn, self._places:
            for failures in range(1, TRIES + 1):
                if await self._try(user_id, acts, last=failures == TRIES):
                    return
                await asyncio.sleep(self._backoff.pause_s(failures))
        raise Unavailable(f"the DynamoDB table {self._table}: others write the same user's signals all the time")

    async def _try(self, user_id: str, acts: Sequence[Act], *, last: bool) -> bool:
        """False if another process wrote in between, or, but for the last try, if there was a throttling."""
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
        "s": {"B": seal(_WRITTEN.pack(written_ms) + encoded)},
        "v": {"B": os.urandom(8)},
        TTL: ttl(written_ms + STATE_TTL_MS),
    }


def _state_in(user_id: str, item: Item | None) -> tuple[int, UserState]:
    """When the stored state was written, and the state.

    One that cannot be read is lost, and the user begins anew: better than no feed for ever. One of another format is a
    FormatError: it is left as it is.
    """
    if item is None:
        return 0, UserState()
    if "s" not in item or "v" not in item:
        raise FormatError(f"the stored signals {_key(user_id)} are of another format")
    try:
        data = unseal(f"the stored signals {_key(user_id)}", item["s"]["B"])
        (written_ms,) = _WRITTEN.unpack_from(data)
        return written_ms, UserState.decode(data[_WRITTEN.size :])
    except (ValueError, struct.error, msgspec.DecodeError) as error:
        _log.error("a user's stored signals are damaged", extra={"user": nameless(user_id), "reason": str(error)})
        return 0, UserState()
