"""Users' recent acts in Redis or Valkey, where every process of the services sees them.

    <namespace>:signals:<user_id>   a string: 8 random bytes (this value's version), the time of the latest act (int64,
                                    big-endian, epoch ms), the encoded `UserState`
    <namespace>:{deleted}:log       a stream of recently deleted pings in order of arrival: `p` the ping, `t` epoch ms
    <namespace>:{deleted}:index     a hash, ping -> "<its id in the log> <t>": a ping is in the log once

A state is read, changed by `UserState.apply`, and written by a script if its version is unchanged; otherwise the script
returns the new value, and the acts are applied to that. So writers never undo each other's acts, none waits, and each
round one of them succeeds. All users of an `apply` share a pipeline. A read is one pipeline: the state, and the log
after the last entry that this process saw.

Bounded: a state by its parts (`pingfeed/core/signals.py`), log and index by `MAX_DELETED`. A state expires
`STATE_TTL_MS` after its last write, log and index `DELETED_TTL_MS` after the last deletion. What survives a restart
depends on the server's `appendonly`.
"""

import logging
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pingfeed.adapters._redis import Command, RedisClient, Script, chunks
from pingfeed.core.deleted_pings import DeletedPings
from pingfeed.core.errors import Unavailable
from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.signals import DELETED_TTL_MS, MAX_DELETED, STATE_TTL_MS, Act, Signals, UserState
from pingfeed.telemetry import nameless

_HEAD: Final = struct.Struct(">8sq")
_SWAP: Final = Script("""
-- KEYS: the user's. ARGV: the head that was read ('' if there was nothing), the new value, its TTL in ms.
if redis.call('GETRANGE', KEYS[1], 0, 15) ~= ARGV[1] then
  return redis.call('GET', KEYS[1]) or ''
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
""")
_DELETE: Final = Script("""
-- KEYS: log, index. ARGV: how many may stay, TTL in ms, then each deletion's ping and time.
local log, index = KEYS[1], KEYS[2]
if redis.call('EXISTS', log) == 0 then redis.call('DEL', index) end
for i = 3, #ARGV, 2 do
  local ping, at = ARGV[i], ARGV[i + 1]
  local known = redis.call('HGET', index, ping)
  local id, known_at = string.match(known or '', '(%S+) (%S+)')
  if not id or tonumber(known_at) < tonumber(at) then
    if id then redis.call('XDEL', log, id) end
    id = redis.call('XADD', log, '*', 'p', ping, 't', at)
    redis.call('HSET', index, ping, id .. ' ' .. at)
  end
end
local over = redis.call('XLEN', log) - tonumber(ARGV[1])
if over > 0 then
  for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', over)) do
    redis.call('XDEL', log, entry[1])
    redis.call('HDEL', index, entry[2][2])
  end
end
redis.call('PEXPIRE', log, ARGV[2])
redis.call('PEXPIRE', index, ARGV[2])
""")
_USERS: Final = 100
_DELETIONS: Final = 500
_ROUNDS: Final = 200
_log = logging.getLogger(__name__)


class RedisUserSignals:
    """`redis://host:port/database?namespace=name`."""

    def __init__(self, url: str) -> None:
        self._redis = RedisClient(url, [_SWAP, _DELETE])
        self._deleted = _DeletedNews(self._redis)

    async def apply(self, acts: Sequence[Act]) -> None:
        by_user: dict[str, list[Act]] = {}
        for act in acts:
            by_user.setdefault("" if act.kind == "deleted" else act.user_id, []).append(act)
        await self._deleted.append(by_user.pop("", []))
        for users in chunks(by_user.items(), _USERS):
            await self._change(dict(users))

    async def read(self, user_id: str, now_ms: int) -> Signals:
        value, news = await self._redis.run(("GET", self._key(user_id)), self._deleted.ask())
        self._deleted.take(news)
        written_ms, state = _opened(user_id, value)
        alive = written_ms > now_ms - STATE_TTL_MS
        return Signals(state if alive else UserState(), self._deleted.pings.at(now_ms))

    async def forget(self, user_id: str) -> None:
        await self._redis.run(("UNLINK", self._key(user_id)))

    async def check(self) -> None:
        """Also fetches the deletions that the first read would wait for."""
        self._deleted.take((await self._redis.run(self._deleted.ask()))[0])

    async def close(self) -> None:
        await self._redis.close()

    async def _change(self, by_user: Mapping[str, Sequence[Act]]) -> None:
        """Read, apply and write until every user's acts are applied."""
        values = await self._redis.run(*(("GET", self._key(user_id)) for user_id in by_user))
        held: dict[str, bytes | None] = dict(zip(by_user, values, strict=True))
        for _ in range(_ROUNDS):
            swaps = {user_id: self._swap(user_id, value, by_user[user_id]) for user_id, value in held.items()}
            waiting = {user_id: swap for user_id, swap in swaps.items() if swap}
            answers = await self._redis.run(*waiting.values())
            held = {user_id: now for user_id, now in zip(waiting, answers, strict=True) if now != 1}
            if not held:
                return
        raise Unavailable(f"{self._redis.address.shown}: too many concurrent writes of one user's signals")

    def _swap(self, user_id: str, value: bytes | None, acts: Sequence[Act]) -> Command | None:
        """The command that applies the acts to the stored value; None if they change nothing."""
        written_ms, state = _opened(user_id, value)
        newest_ms = max(act.at_ms for act in acts)
        if written_ms <= newest_ms - STATE_TTL_MS:
            state = UserState()
        for act in acts:
            state.apply(act)
        head, before = (value or b"")[: _HEAD.size], (value or b"")[_HEAD.size :]
        after = state.encode()
        if after == before and newest_ms <= written_ms:
            return None
        entry = _HEAD.pack(os.urandom(8), max(written_ms, newest_ms)) + after
        return _SWAP.on([self._key(user_id)], head, entry, STATE_TTL_MS)

    def _key(self, user_id: str) -> str:
        return self._redis.key(f"signals:{user_id}")


def _opened(user_id: str, value: bytes | None) -> tuple[int, UserState]:
    """When a stored value was written, and its state. A damaged one is discarded, and the user starts over."""
    if not value:
        return 0, UserState()
    try:
        _, written_ms = _HEAD.unpack_from(value)
        return written_ms, UserState.decode(value[_HEAD.size :])
    except (struct.error, *UNREADABLE) as error:
        _log.error("a user's stored signals are damaged", extra={"user": nameless(user_id), "reason": str(error)})
        return 0, UserState()


class _DeletedNews:
    """The log of deletions, and how far this process has read it."""

    def __init__(self, redis: RedisClient) -> None:
        self.pings = DeletedPings()
        self._redis = redis
        self._log, self._index = redis.key("{deleted}:log"), redis.key("{deleted}:index")
        self._seen_to = (0, 0)

    def ask(self) -> Command:
        """The command whose answer `take` takes."""
        return ("XRANGE", self._log, "({}-{}".format(*self._seen_to), "+", "COUNT", MAX_DELETED)

    def take(self, news: Sequence[Any]) -> None:
        """Add new entries; concurrent reads may be answered out of order, so known ones are skipped."""
        fresh = [(place, fields) for id_, fields in news if (place := _place(id_)) > self._seen_to]
        if fresh:
            self._seen_to = fresh[-1][0]
            self.pings.add((ping.decode(), int(at_ms)) for _, (_, ping, _, at_ms) in fresh)

    async def append(self, deletions: Sequence[Act]) -> None:
        """Write deletions for every reader."""
        for some in chunks(deletions, _DELETIONS):
            what = [value for act in some for value in (act.target, act.at_ms)]
            await self._redis.run(_DELETE.on([self._log, self._index], MAX_DELETED, DELETED_TTL_MS, *what))


def _place(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)
