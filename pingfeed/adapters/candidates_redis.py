"""A cache in Redis or Valkey in front of another CandidateStore: the packets of the currently active users.

    <namespace>:packet:<user_id>    a string, one of
        p <expires_ms, int64 big-endian> <packet>    the packet
        l <8 random bytes>    a lease: a reader found nothing here and is fetching it; for `LEASE_MS`
        h                     a hold: it was just replaced, removed or evicted; for `HOLD_MS` readers may not fill it in
    <namespace>:packets             a sorted set, user -> when the packet was last read or refreshed, epoch ms

The store is written first, then the cache. A reader fills in a packet only if its lease is still there: a put or
delete in between has overwritten it. A hold outlasts the moment in which a replica of the store may still return the
old packet. If a put cannot reach the cache, cached packets are at most `CACHED_MS` old.

A put refreshes cached packets, and adds others only while there is room: the nightly job writes a packet for every user
and must not evict the active ones. A read that misses adds its user and evicts the least recently active one. So there
are about `MAX_CACHED` packets, and every key expires.

The cache may be late, full or gone. A read waits for `PATIENCE_S`, then reads the store; after `_FAILURES` failures in
a row reads bypass it for `REST_S`. A put always tries it.
"""

import asyncio
import logging
import os
import struct
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from pingfeed.adapters._redis import Command, RedisClient, Script, chunks
from pingfeed.core.clock import HOUR_MS
from pingfeed.core.errors import PingfeedError, Unavailable
from pingfeed.core.packet import TTL_S
from pingfeed.ports import CandidateStore

MAX_CACHED: Final = 10_000
CACHED_MS: Final = HOUR_MS
LEASE_MS: Final = 2000
HOLD_MS: Final = 5000
PATIENCE_S: Final = 0.01
REST_S: Final = 1.0
_FAILURES: Final = 3
_TELL_S: Final = 60.0
_EVICT: Final = 64
_AT_ONCE: Final = 500
_HOLD: Final = b"h"
_PACKET: Final = struct.Struct(">cq")

_READ: Final = Script("""
-- KEYS: the user's. ARGV: a lease, its TTL in ms. Gives what is there, or leaves the lease and gives that.
local held = redis.call('GET', KEYS[1])
if held then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
""")
_FILL: Final = Script("""
-- KEYS: the user's. ARGV: the lease, the packet, its TTL in ms.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
""")
_REFRESH: Final = Script("""
-- KEYS: the user's. ARGV: the packet, its TTL in ms, 1 to let it in, a hold, its TTL in ms.
if ARGV[3] == '1' or redis.call('GETRANGE', KEYS[1], 0, 0) == 'p' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
return 0
""")
_log = logging.getLogger(__name__)


class RedisCandidateStore:
    """`redis://host:port/database?namespace=name`, before `store`."""

    def __init__(
        self,
        url: str,
        store: CandidateStore,
        *,
        patience_s: float = PATIENCE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = RedisClient(url, [_READ, _FILL, _REFRESH])
        self._store = store
        self._active = self._redis.key("packets")
        self._patience_s = patience_s
        self._passing_by = _PassingBy(monotonic)
        self._late: set[asyncio.Task[Any]] = set()

    @property
    def passed_by(self) -> int:
        return self._passing_by.reads

    async def get(self, user_id: str, now_ms: int) -> bytes | None:
        """Reads from the cache, else from the store."""
        lease = b"l" + os.urandom(8)
        held = await self._patiently(self._look(user_id, lease, now_ms))
        if _is_packet(held, now_ms):
            return bytes(held[_PACKET.size :])
        if held != lease:
            return await self._store.get(user_id, now_ms)
        return await self._fetch(user_id, lease, now_ms)

    async def put_many(self, packets: Mapping[str, bytes], expires_ms: int) -> None:
        """Writes to the store first, then to the cache."""
        await self._store.put_many(packets, expires_ms)
        try:
            for some in chunks(packets.items(), _AT_ONCE):
                await self._refresh(some, expires_ms)
        except Unavailable as error:
            _log.error("cached packets may be up to %d minutes old: %s", CACHED_MS // 60_000, error.message)

    async def delete(self, user_id: str) -> None:
        """Raises Unavailable if the packet may still be in the store or the cache."""
        await self._store.delete(user_id)
        await self._redis.run(self._hold(user_id), ("ZREM", self._active, user_id))

    async def check(self) -> None:
        """Raises Unavailable if the store does not respond. The cache may be missing."""
        try:
            await self._redis.check()
        except Unavailable as error:
            self._passing_by.failed(error.message)
        await self._store.check()

    async def close(self) -> None:
        if self._late:
            await asyncio.wait(self._late)
        await self._redis.close()
        await self._store.close()

    async def _look(self, user_id: str, lease: bytes, now_ms: int) -> Any:
        """The cached entry; `lease` if there is none and this reader may fill it in."""
        held, _ = await self._redis.run(
            _READ.on([self._key(user_id)], lease, LEASE_MS), ("ZADD", self._active, "XX", now_ms, user_id)
        )
        return held

    async def _fetch(self, user_id: str, lease: bytes, now_ms: int) -> bytes | None:
        """The store's packet; cached if it outlives `CACHED_MS` (the store does not return its expiry)."""
        packet = await self._store.get(user_id, now_ms + CACHED_MS)
        if packet is None:
            return await self._store.get(user_id, now_ms)
        await self._patiently(self._fill(user_id, lease, packet, now_ms))
        return packet

    async def _fill(self, user_id: str, lease: bytes, packet: bytes, now_ms: int) -> None:
        value = _PACKET.pack(b"p", now_ms + CACHED_MS) + packet
        (filled,) = await self._redis.run(_FILL.on([self._key(user_id)], lease, value, CACHED_MS))
        if filled:
            await self._admit([user_id], now_ms)

    async def _refresh(self, packets: Sequence[tuple[str, bytes]], expires_ms: int) -> None:
        """Replace cached packets; add others while there is room, and hold the rest."""
        (cached,) = await self._redis.run(("ZCARD", self._active))
        commands = []
        for number, (user_id, packet) in enumerate(packets):
            value, enter = _PACKET.pack(b"p", expires_ms) + packet, int(number < MAX_CACHED - cached)
            commands.append(_REFRESH.on([self._key(user_id)], value, CACHED_MS, enter, _HOLD, HOLD_MS))
        kept = await self._redis.run(*commands)
        # A packet lives for TTL_S, so its expiry tells the current time.
        await self._admit([user for (user, _), k in zip(packets, kept, strict=True) if k], expires_ms - TTL_S * 1000)

    async def _admit(self, users: Sequence[str], now_ms: int) -> None:
        """Mark users as active, and evict the least recently active ones."""
        if not users:
            return
        scores = [value for user_id in users for value in (now_ms, user_id)]
        _, _, cached = await self._redis.run(
            ("ZADD", self._active, *scores), ("PEXPIRE", self._active, CACHED_MS), ("ZCARD", self._active)
        )
        if cached >= MAX_CACHED + _EVICT:
            (oldest,) = await self._redis.run(("ZRANGE", self._active, 0, cached - MAX_CACHED - 1))
            gone: list[Command] = [self._hold(user_id.decode()) for user_id in oldest]
            await self._redis.run(*gone, ("ZREM", self._active, *oldest))

    async def _patiently(self, asked: Coroutine[Any, Any, Any]) -> Any:
        """The cache's answer; None if it is late, fails or is bypassed.

        A late call continues (it may be opening the connection that the next read needs).
        """
        if self._passing_by.resting():
            self._passing_by.reads += 1
            asked.close()
            return None
        task = asyncio.ensure_future(asked)
        self._late.add(task)
        task.add_done_callback(self._settle)
        try:
            await asyncio.wait([task], timeout=self._patience_s)
            if task.done():
                answer = task.result()
                self._passing_by.answered()
                return answer
            self._passing_by.failed("it is slow")
        except PingfeedError as error:
            self._passing_by.failed(error.message)
        self._passing_by.reads += 1
        return None

    def _settle(self, task: asyncio.Task[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # Retrieve the exception here, as there may be no waiter left.

    def _hold(self, user_id: str) -> Command:
        return ("SET", self._key(user_id), _HOLD, "PX", HOLD_MS)

    def _key(self, user_id: str) -> str:
        return self._redis.key(f"packet:{user_id}")


def _is_packet(held: bytes | None, now_ms: int) -> bool:
    """Whether an entry is a packet that has not expired."""
    if not held or held[:1] != b"p" or len(held) < _PACKET.size:
        return False
    _, expires_ms = _PACKET.unpack_from(held)
    return bool(expires_ms > now_ms)


class _PassingBy:
    """Whether reads bypass the cache for now; logs it once a minute at most."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._until = self._tell_from = float("-inf")
        self._in_a_row = self._missed = 0
        self.reads = 0

    def resting(self) -> bool:
        return self._monotonic() < self._until

    def answered(self) -> None:
        self._in_a_row = 0

    def failed(self, reason: str) -> None:
        now = self._monotonic()
        self._in_a_row += 1
        self._missed += 1
        if self._in_a_row >= _FAILURES:
            self._until = now + REST_S
        if now >= self._tell_from:
            self._tell_from = now + _TELL_S
            _log.warning("packet cache bypassed: %s", reason, extra={"times": self._missed})
            self._missed = 0
