"""Users' relations, profiles and sessions in Redis or Valkey, where every process of the services sees them.

    <namespace>:signals:<user_id>       a string: 8 random bytes (this value's version), the time of the latest act
                                        (int64, big-endian, epoch ms), the encoded `Session`
    <namespace>:{<user_id>}:relations   a hash of relations, the profile, and what is known of both; see below
    <namespace>:{<user_id>}:changes     a sorted set of that hash's fields by the number of their latest change
    <namespace>:{<user_id>}:taken-back  a sorted set of the relations taken back, by kind, then timestamp
    <namespace>:signals-complete        present once every relation of the lake has been applied
    <namespace>:{deleted}:log           a stream of recently deleted pings in order of arrival: `p` the ping, `t` epoch
                                        ms
    <namespace>:{deleted}:index         a hash, ping -> "<its id in the log> <t>": a ping is in the log once

    field of the hash      value
    <relation>:<target>    <1, or 0 if taken back> <timestamp> <ms until receipt> <seq> <event id>
    profile:<name>         1 <epoch ms> 0 0  <JSON>
    #:<relation>           how many of them there are
    #:id                   random bytes that name this hash
    #:change               the number of the latest change

A session is read, changed by `Session.apply`, and written by a script if its version is unchanged; otherwise the script
returns the new value, and the acts are applied to that. So writers never undo each other's acts, none waits, and each
round one of them succeeds. Relations are upserted by a script: the greatest order key wins, an equal one replaces. All
users of an `apply` share a pipeline.

A read is one pipeline: the session, the mark, the log after the last entry that this process saw, and the relations:
all of them, or only those that changed since the copy that this process keeps. Numbers of changes follow the server's
clock, so that a server which lost its last writes does not use a number twice. The copy is discarded where the hash has
another name (the user was forgotten, or relations were removed to make room) or an earlier number.

Bounded: a session by its parts and relations by `LIMITS` (`pingfeed/core/signals.py`), log and index by `MAX_DELETED`.
A session expires `STATE_TTL_MS` after its last write, log and index `DELETED_TTL_MS` after the last deletion; relations
and profiles never. What survives a restart depends on the server's `appendonly`.
"""

import logging
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import msgspec

from pingfeed.adapters._cache import Cache
from pingfeed.adapters._redis import Command, RedisClient, Script, chunks
from pingfeed.core.deleted_pings import DeletedPings
from pingfeed.core.errors import Rebuilding, Unavailable
from pingfeed.core.integrity import UNREADABLE
from pingfeed.core.signals import (
    DELETED_TTL_MS,
    INCOMPLETE,
    LIMITS,
    MAX_DELETED,
    RELATIONS,
    STATE_TTL_MS,
    Act,
    Profile,
    Session,
    Signals,
    UserState,
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
_RELATE: Final = Script("""
-- KEYS: the user's relations, changes, taken-back. ARGV: 8 random bytes, then each act's field, limit and value.
-- Returns the fields that were beyond their limit.
local hash, changes, back = KEYS[1], KEYS[2], KEYS[3]
local key = '^([01]) (%-?%d+) (%-?%d+) (%d+) ([^ ]*)'
local first = {follow = 0, block = 1e14, hide = 2e14, mute = 3e14}

local function older(value, than)
  local a, b = {string.match(value, key)}, {string.match(than, key)}
  for i = 2, 4 do
    if a[i] ~= b[i] then return tonumber(a[i]) < tonumber(b[i] or -1) end
  end
  return a[5] < b[5]
end

local function make_room(kind, limit, count)
  local low = first[kind] or 4e14
  local range = {string.format('%.0f', low), string.format('%.0f', low + 1e14 - 1)}
  local out = redis.call('ZRANGEBYSCORE', back, range[1], range[2], 'LIMIT', 0, math.ceil(limit / 8))
  for _, field in ipairs(out) do
    redis.call('HDEL', hash, field)
    redis.call('ZREM', changes, field)
    redis.call('ZREM', back, field)
  end
  if #out > 0 then redis.call('HSET', hash, '#:id', ARGV[1]) end
  return count - #out
end

local change
local function write(field, kind, value)
  if not change then
    local now = redis.call('TIME')
    local last = tonumber(redis.call('HGET', hash, '#:change') or 0) or 0
    change = string.format('%.0f', math.max(last + 1, now[1] * 1e6 + now[2]))
    redis.call('HSET', hash, '#:change', change)
    redis.call('HSETNX', hash, '#:id', ARGV[1])
  end
  redis.call('HSET', hash, field, value)
  redis.call('ZADD', changes, change, field)
  if string.sub(value, 1, 1) == '0' then
    local at = (first[kind] or 4e14) + tonumber(string.match(value, '%d+', 2))
    redis.call('ZADD', back, string.format('%.0f', at), field)
  else
    redis.call('ZREM', back, field)
  end
end

local beyond = {}
for i = 2, #ARGV, 3 do
  local field, limit, value = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local kind, known = string.match(field, '^%a+'), redis.call('HGET', hash, field)
  if known then
    if value ~= known and not older(value, known) then write(field, kind, value) end
  else
    local count = tonumber(redis.call('HGET', hash, '#:' .. kind) or 0) or 0
    if count >= limit then count = make_room(kind, limit, count) end
    if count >= limit then
      beyond[#beyond + 1] = field
    else
      redis.call('HSET', hash, '#:' .. kind, count + 1)
      write(field, kind, value)
    end
  end
end
return beyond
""")
_NEWS: Final = Script("""
-- KEYS: the user's relations, changes. ARGV: name and change of the reader's copy.
-- Returns fields and values: with 0 those that changed since, with 1 all.
local hash, name, change = KEYS[1], ARGV[1], ARGV[2]
local now = redis.call('HMGET', hash, '#:id', '#:change')
if now[1] == name and now[2] == change then return {0, {}} end
local fields = {}
if now[1] == name and tonumber(now[2] or 0) > tonumber(change) then
  fields = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. change, '+inf')
end
if #fields == 0 then return {1, redis.call('HGETALL', hash)} end
local news = {'#:change', now[2]}
for i, field in ipairs(fields) do
  news[2 * i + 1], news[2 * i + 2] = field, redis.call('HGET', hash, field)
end
return {0, news}
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
_ACTS: Final = 25
"""On relations, in one script. As many scripts as a pipeline holds take some 100 ms."""
_COMMANDS: Final = 2 * _USERS
_DELETIONS: Final = 500
_ROUNDS: Final = 200
_PROFILE_FIELDS: Final = 16
_CACHE_BYTES: Final = 32 << 20
_FIELD_BYTES: Final = 150
"""Of a relation in a reader's copy, about."""
_CHANGE: Final = {b"1 ": set[str].add, b"0 ": set[str].discard}
_FULL: Final = 0.7
_log = logging.getLogger(__name__)


class RedisUserSignals:
    """`redis://host:port/database?namespace=name`."""

    def __init__(self, url: str) -> None:
        self._redis = RedisClient(url, [_SWAP, _RELATE, _NEWS, _DELETE])
        self._deleted = _DeletedNews(self._redis)
        self._copies: Cache[_Copy] = Cache(_CACHE_BYTES)
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
        relations = _NEWS.on(keys, held.name, held.change) if held else ("HGETALL", keys[0])
        value, mark, news, answer = await self._redis.run(
            ("GET", self._key(user_id)), ("GET", self._mark), self._deleted.ask(), relations
        )
        self._deleted.take(news)
        whole, flat = answer if held else (1, answer)
        copy = self._merged(user_id, _Copy() if whole or held is None else held, flat)
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
        scripts = [script for user_id, acts in by_user.items() for script in self._relate(user_id, acts)]
        sessions = {user_id: own for user_id, acts in by_user.items() if (own := [a for a in acts if not _lasts(a)])}
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

    def _relate(self, user_id: str, acts: Sequence[Act]) -> Iterator[Command]:
        entries = (entry for act in acts if _lasts(act) for entry in _entries(act))
        for some in chunks(entries, _ACTS):
            what = [part for entry in some for part in entry]
            yield _RELATE.on(self._lasting(user_id), os.urandom(8), *what)

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

    def _merged(self, user_id: str, held: "_Copy", flat: Sequence[bytes]) -> "_Copy":
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


@dataclass(frozen=True, slots=True)
class _Copy:
    """A reader's copy of a user's relations and profile."""

    name: bytes = b""
    change: bytes = b""
    state: UserState = field(default_factory=UserState)
    damaged: frozenset[bytes] = frozenset()
    """Fields that cannot be read."""
    size: int = 0

    def merged(self, flat: Sequence[bytes]) -> "_Copy":
        """Another copy, with the hash's fields and values in `flat`."""
        head, damaged = {b"id": self.name, b"change": self.change}, set(self.damaged)
        follows, profile = self.state.follows.copy(), self.state.profile.values.copy()
        parts = (self.state.blocks, self.state.hides, self.state.mutes, self.state.freed)
        blocks, hides, mutes, freed = (set(cast("set[str]", part)) for part in parts)
        sets = {b"block": blocks, b"hide": hides, b"mute": mutes}
        for name, value in zip(flat[::2], flat[1::2], strict=True):
            kind, _, target = name.partition(b":")
            try:
                if kind in sets:
                    _CHANGE[value[:2]](sets[kind], target.decode())
                    (freed.add if value.startswith(b"0") else freed.discard)(name.decode())
                elif kind == b"follow":
                    active, at_ms, _ = value.split(b" ", 2)
                    follows[target.decode()] = {b"1": 1, b"0": -1}[active] * int(at_ms)
                elif kind == b"profile":
                    _, at_ms, *_, said = value.split(b" ", 5)
                    profile[target.decode()] = int(at_ms), msgspec.json.decode(said, type=str | list[str])
                elif kind == b"#":
                    head[target] = value
                damaged.discard(name)
            except (KeyError, ValueError, msgspec.DecodeError):
                damaged.add(name)
        state = UserState(follows, blocks, hides, mutes, profile=Profile(profile), freed=freed)
        size = self.size + _FIELD_BYTES * len(flat) // 2
        return _Copy(head[b"id"], head[b"change"], state, frozenset(damaged), size)


def _lasts(act: Act) -> bool:
    return act.kind in RELATIONS or act.profile is not None


def _entries(act: Act) -> Iterator[tuple[str, int, bytes]]:
    """Field, limit and value in the user's hash: of one relation, or of each field of a profile."""
    if act.profile is not None:
        for name, (at_ms, said) in act.profile.values.items():
            yield f"profile:{name}", _PROFILE_FIELDS, b"1 %d 0 0  %b" % (at_ms, msgspec.json.encode(said))
    else:
        relation, active = RELATIONS[act.kind]
        at_ms, received_ms, seq, event_id = act.key
        value = f"{active:d} {at_ms} {received_ms - at_ms} {seq} {event_id}"  # Up to 64 bytes are stored compactly.
        yield f"{relation}:{act.target}", LIMITS[relation], value.encode()


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
