"""A user's relations and profile in one Redis hash: how they are written, and how a reader follows their changes.

    field of the hash      value
    <relation>:<target>    <1, or 0 if taken back> <timestamp> <ms until receipt> <seq> <event id>
    profile:<name>         1 <epoch ms> 0 0  <JSON>
    #:<relation>           how many of them there are
    #:id                   random bytes that name this hash
    #:change               the number of the latest change

A script upserts relations: the greatest order key wins, an equal one replaces. Numbers of changes follow the server's
clock, so that a server which lost its last writes does not use a number twice. A reader's copy is discarded where the
hash has another name (the user was forgotten, or relations were removed to make room) or an earlier number.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import msgspec

from pingfeed.adapters._redis import Command, Script, chunks
from pingfeed.core.signals import LIMITS, RELATIONS, Act, Profile, UserState

RELATE: Final = Script("""
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
NEWS: Final = Script("""
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
_ACTS: Final = 25
"""In one script. As many scripts as a pipeline holds take some 100 ms."""
_PROFILE_FIELDS: Final = 16
_FIELD_BYTES: Final = 150
"""Of a relation in a reader's copy, about."""
_CHANGE: Final = {b"1 ": set[str].add, b"0 ": set[str].discard}


@dataclass(frozen=True, slots=True)
class RelationsCopy:
    """A reader's copy of a user's relations and profile."""

    name: bytes = b""
    change: bytes = b""
    state: UserState = field(default_factory=UserState)
    damaged: frozenset[bytes] = frozenset()
    """Fields that cannot be read."""
    size: int = 0

    def merged(self, flat: Sequence[bytes]) -> "RelationsCopy":
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
        return RelationsCopy(head[b"id"], head[b"change"], state, frozenset(damaged), size)


def relate(keys: Sequence[str], acts: Sequence[Act]) -> Iterator[Command]:
    """The commands that store what lasts of the acts in the user's hash, changes and taken-back (`keys`).

    Each answers with the fields that were beyond their limit.
    """
    entries = (entry for act in acts if lasts(act) for entry in _entries(act))
    for some in chunks(entries, _ACTS):
        yield RELATE.on(keys, os.urandom(8), *(part for entry in some for part in entry))


def lasts(act: Act) -> bool:
    """Whether the act lasts: it decides a relation, or a part of the profile."""
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
