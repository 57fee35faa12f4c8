"""Users' relations, profiles and sessions in Redis or Valkey, where every process of the services sees them.

    <namespace>:signals:<user_id>       a string: 8 random bytes (this value's version), the time of the latest act
                                        (int64, big-endian, epoch ms), the encoded `Session`
    <namespace>:{<user_id>}:relations   a hash of relations, the profile, and what is known of both:
                                        `_redis_relations.py`
    <namespace>:{<user_id>}:changes     a sorted set of that hash's fields by the number of their latest change
    <namespace>:{<user_id>}:taken-back  a sorted set of the relations taken back, by kind, then timestamp
    <namespace>:signals-complete        present once every relation of the lake has been applied
    <namespace>:{deleted}:log           a stream of recently deleted pings in order of arrival: `p` the ping, `t` epoch
                                        ms
    <namespace>:{deleted}:index         a hash, ping -> "<its id in the log> <t>": a ping is in the log once

A session is read, changed by `Session.apply`, and written by a script if its version is unchanged; otherwise the script
returns the new value, and the acts are applied to that. So writers never undo each other's acts, none waits, and each
round one of them succeeds. All users of an `apply` share a pipeline.

A read is one pipeline: the session, the mark, the log after the last entry that this process saw, and the relations:
all of them, or only those that changed since the copy that this process keeps.

Bounded: a session by its parts and relations by `LIMITS` (`pingfeed/core/signals.py`), log and index by `MAX_DELETED`.
A session expires `STATE_TTL_MS` after its last write, log and index `DELETED_TTL_MS` after the last deletion; relations
and profiles never. What survives a restart depends on the server's `appendonly`.
"""

import logging
import os
import re
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import msgspec

from pingfeed.adapters._cache import Cache
from pingfeed.adapters._redis import Command, RedisClient, Script, chunks
from pingfeed.adapters._redis_relations import NEWS, RELATE, RelationsCopy, lasts, relate
from pingfeed.core.deleted_pings import DeletedPings
from pingfeed.core.errors import Rebuilding, Unavailable
from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.signals import (
    DELETED_TTL_MS,
    INCOMPLETE,
    MAX_DELETED,
    STATE_TTL_MS,
    Act,
    Session,
    Signals,
    beyond_limit,
)
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
_COMMANDS: Final = 2 * _USERS
_DELETIONS: Final = 500
_ROUNDS: Final = 200
_CACHE_BYTES: Final = 32 << 20
_FULL: Final = 0.7
_log = logging.getLogger(__name__)


class RedisUserSignals:
    """`redis://host:port/database?namespace=name`."""

    def __init__(self, url: str) -> None:
        self._redis = RedisClient(url, [_SWAP, RELATE, NEWS, _DELETE])
        self._deleted = _DeletedNews(self._redis)
        self._copies: Cache[RelationsCopy] = Cache(_CACHE_BYTES)
        self._mark = self._redis.key("signals-complete")
        self._is_full = False

    async def apply(self, acts: Sequence[Act]) -> None:
        by_user: dict[str, list[Act]] = {}
        for act in acts:
            by_user.setdefault("" if act.kind == "deleted" else act.user_id, []).append(act)
        await self._deleted.append(by_user.pop("", []))
        for users in chunks(by_user.items(), _USERS):
            await self._change(dict(users))

    async def read(self, user_id: str, now_ms: int) -> Signals:
        """The state belongs to the store: it must not be changed."""
        held = self._copies.get(user_id)
        keys = self._lasting(user_id)[:2]
        relations = NEWS.on(keys, held.name, held.change) if held else ("HGETALL", keys[0])
        value, mark, news, answer = await self._redis.run(
            ("GET", self._key(user_id)), ("GET", self._mark), self._deleted.ask(), relations
        )
        self._deleted.take(news)
        whole, flat = answer if held else (1, answer)
        copy = self._merged(user_id, RelationsCopy() if whole or held is None else held, flat)
        written_ms, session, intact = _opened(user_id, value)
        session = session if written_ms > now_ms - STATE_TTL_MS else Session()
        state = replace(copy.state, session=session)
        complete = mark is not None and intact and not copy.damaged
        return Signals(state, self._deleted.pings.at(now_ms), complete)

    async def forget(self, user_id: str) -> None:
        self._copies.drop(user_id)
        await self._redis.run(("UNLINK", self._key(user_id)), ("UNLINK", *self._lasting(user_id)))

    async def is_complete(self) -> bool:
        return (await self._redis.run(("GET", self._mark)))[0] is not None

    async def mark_complete(self) -> None:
        await self._redis.run(("SET", self._mark, 1))

    async def check(self) -> None:
        """Also fetches the deletions that the first read would wait for, and warns of a server that is nearly full."""
        await self._redis.check()
        news, mark = await self._redis.run(self._deleted.ask(), ("GET", self._mark))
        self._deleted.take(news)
        with suppress(Unavailable):  # A server may not let this user ask.
            self._watch(*await self._redis.run(("INFO", "memory")))
        if mark is None:
            raise Rebuilding(INCOMPLETE)

    async def close(self) -> None:
        await self._redis.close()

    async def _change(self, by_user: Mapping[str, Sequence[Act]]) -> None:
        """Upsert relations; read, apply and write sessions until every user's acts are applied."""
        scripts = [script for user_id, acts in by_user.items() for script in relate(self._lasting(user_id), acts)]
        sessions = {user_id: own for user_id, acts in by_user.items() if (own := [a for a in acts if not lasts(a)])}
        commands: list[Command] = [*scripts, *(("GET", self._key(user_id)) for user_id in sessions)]
        answers = [answer for some in chunks(commands, _COMMANDS) for answer in await self._redis.run(*some)]
        for beyond in answers[: len(scripts)]:
            beyond_limit.update(name.partition(b":")[0].decode() for name in beyond)
        held: dict[str, bytes | None] = dict(zip(sessions, answers[len(scripts) :], strict=True))
        for _ in range(_ROUNDS):
            swaps = {user_id: self._swap(user_id, value, sessions[user_id]) for user_id, value in held.items()}
            waiting = {user_id: swap for user_id, swap in swaps.items() if swap}
            answers = await self._redis.run(*waiting.values())
            held = {user_id: now for user_id, now in zip(waiting, answers, strict=True) if now != 1}
            if not held:
                return
        raise Unavailable(f"{self._redis.address.shown}: too many concurrent writes of one user's signals")

    def _swap(self, user_id: str, value: bytes | None, acts: Sequence[Act]) -> Command | None:
        """The command that applies the acts to the stored session; None if they change nothing."""
        written_ms, session, _ = _opened(user_id, value)
        newest_ms = max(act.at_ms for act in acts)
        if written_ms <= newest_ms - STATE_TTL_MS:
            session = Session()
        for act in acts:
            session.apply(act)
        head, before = (value or b"")[: _HEAD.size], (value or b"")[_HEAD.size :]
        after = msgspec.msgpack.encode(session)
        if after == before and newest_ms <= written_ms:
            return None
        entry = _HEAD.pack(os.urandom(8), max(written_ms, newest_ms)) + after
        return _SWAP.on([self._key(user_id)], head, entry, STATE_TTL_MS)

    def _merged(self, user_id: str, held: RelationsCopy, flat: Sequence[bytes]) -> RelationsCopy:
        """The copy with what the server answered, kept for the next read."""
        if not flat:
            if not held.name:  # The user was forgotten.
                self._copies.drop(user_id)
            return held
        copy = held.merged(flat)
        if copy.damaged - held.damaged:
            _log.error("a user's stored relations are damaged", extra={"user": nameless(user_id)})
        if copy.name and copy.change.isdigit():
            self._copies.put(user_id, copy, copy.size)
        return copy

    def _watch(self, info: bytes) -> None:
        """Warn once when the server's memory becomes scarce: relations never expire."""
        memory = dict(re.findall(rb"^(used_memory|maxmemory):(\d+)", info, re.MULTILINE))
        used, most = int(memory.get(b"used_memory", 0)), int(memory.get(b"maxmemory", 0))
        is_full = used > _FULL * most > 0
        if is_full and not self._is_full:
            facts = {"server": self._redis.address.shown, "used_bytes": used, "maxmemory_bytes": most}
            _log.warning("Redis uses more than 70 % of its memory", extra=facts)
        self._is_full = is_full

    def _key(self, user_id: str) -> str:
        return self._redis.key(f"signals:{user_id}")

    def _lasting(self, user_id: str) -> list[str]:
        """The keys without TTL, in one slot."""
        return [self._redis.key(f"{{{user_id}}}:{part}") for part in ("relations", "changes", "taken-back")]


def _opened(user_id: str, value: bytes | None) -> tuple[int, Session, bool]:
    """When a stored session was written, the session, and whether it was intact. A damaged one starts over."""
    if not value:
        return 0, Session(), True
    try:
        _, written_ms = _HEAD.unpack_from(value)
        return written_ms, msgspec.msgpack.decode(value[_HEAD.size :], type=Session), True
    except (struct.error, *UNREADABLE) as error:
        _log.error("a user's stored signals are damaged", extra={"user": nameless(user_id), "reason": str(error)})
        return 0, Session(), False


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
