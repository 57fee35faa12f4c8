"""A user's relations and profile: what the user decided, by hash of the target, in items without TTL.

    s/<user>/<parts>.<part>    `d` a sealed `_Part`, `v` a version, `i` the head's id

A target is a hash of 8 bytes of "<kind>:<target>", keyed by the user. Its value is a byte (the kind, and whether the
decision holds) and the order key in 22 bytes that compare as the keys do: the greatest one wins, an equal one replaces.
Only follows and fields of the profile need more: the creator's id, the field and its value. A hash modulo the number of
parts, a power of two, tells the part; the number doubles when one passes `PART_BYTES`.
"""

import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from typing import Final, get_args

import msgspec

from pingfeed.adapters._dynamodb.acts import packed
from pingfeed.adapters._dynamodb.items import Item, seal, unseal
from pingfeed.core.errors import FormatError
from pingfeed.core.signals import LIMITS, RELATIONS, Act, Relation, UserState

PART_BYTES: Final = 24 * 1024
"""Below the 100 KB that an item should have at most: a decision rewrites a part."""
MAX_PARTS: Final = 256
KINDS: Final[tuple[Relation, ...]] = get_args(Relation)
_PROFILE: Final = len(KINDS)
_VALUE_BYTES: Final = 23
_HASH_BYTES: Final = 8
_EVENT_BYTES: Final = 8


class Hashed:
    """The targets of a relation: tells whether one is among them and how many there are, but cannot list them."""

    def __init__(self, relations: "Relations", prefix: str, flags: Collection[int]) -> None:
        self._relations, self._prefix, self._flags = relations, prefix, flags
        self._size = sum(relations.flags[flag] for flag in flags)

    def __contains__(self, target: object) -> bool:
        value = self._relations.held.get(self._relations.hash_of(f"{self._prefix}{target}")) if self._size else None
        return value is not None and value[0] in self._flags

    def __len__(self) -> int:
        return self._size

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Hashed):
            return self._hashes() == other._hashes()
        return isinstance(other, Collection) and len(other) == self._size and all(name in self for name in other)

    __hash__ = None  # type: ignore[assignment]

    def _hashes(self) -> set[int]:
        return {at for at, value in self._relations.held.items() if value[0] in self._flags}


class Relations:
    """Decisions by the hash of their targets."""

    def __init__(self, user_id: str, held: Mapping[int, bytes]) -> None:
        self.user_id, self.held = user_id, dict(held)
        key = blake2b(user_id.encode(), digest_size=16).digest()
        self._hash = partial(blake2b, digest_size=_HASH_BYTES, key=key)
        self.flags = Counter(value[0] for value in self.held.values())

    def hash_of(self, name: str) -> int:
        """Of "<kind>:<target>"."""
        return int.from_bytes(self._hash(name.encode()).digest(), "little")

    def apply(self, acts: Iterable[Act], *, limited: bool) -> set[str]:
        """Apply acts; with `limited`, returns the names of new relations that were over their limit."""
        beyond = set[str]()
        for act in acts:
            for name, value in _entries(act):
                at = self.hash_of(name)
                known, kind = self.held.get(at), value[0] >> 1
                if known is None and limited and kind != _PROFILE and not self._has_room(kind):
                    beyond.add(name)
                elif known is None or known[1:_VALUE_BYTES] <= value[1:_VALUE_BYTES]:
                    self._put(at, value)
        return beyond

    def merge(self, held: Mapping[int, bytes]) -> None:
        """Take over decisions that are not older."""
        for at, value in held.items():
            if at not in self.held or self.held[at][1:_VALUE_BYTES] <= value[1:_VALUE_BYTES]:
                self._put(at, value)

    def counts(self) -> list[int]:
        """How many relations of each kind there are."""
        return [self.flags[2 * kind] + self.flags[2 * kind + 1] for kind in range(len(KINDS))]

    def state(self) -> UserState:
        """What a reader gets; the session is still empty."""
        state = UserState()
        long = ((value[0], value) for value in self.held.values() if len(value) > _VALUE_BYTES)
        for flag, value in long:
            text, at_ms = value[_VALUE_BYTES:], int.from_bytes(value[1:7])
            if flag >> 1 == _PROFILE:
                name, said = msgspec.json.decode(text, type=tuple[str, str | list[str]])
                state.profile.values[name] = at_ms, said
            else:
                state.follows[text.decode()] = at_ms if flag & 1 else -at_ms
        held = {kind: Hashed(self, f"{kind}:", (2 * KINDS.index(kind) + 1,)) for kind in KINDS}
        state.blocks, state.hides, state.mutes = held["block"], held["hide"], held["mute"]
        state.freed = Hashed(self, "", [2 * number for number in range(1, len(KINDS))])
        return state

    def encode(self, parts: int) -> list[bytes]:
        """The parts, in order."""
        of_part: list[dict[int, bytes]] = [{} for _ in range(parts)]
        for at, value in self.held.items():
            of_part[at % parts][at] = value
        return list(map(_encode, of_part))

    def _put(self, at: int, value: bytes) -> None:
        if at in self.held:
            self.flags[self.held[at][0]] -= 1
        self.flags[value[0]] += 1
        self.held[at] = value

    def _has_room(self, kind: int) -> bool:
        """Whether a new relation may be stored; at the limit the oldest that were taken back make room."""
        limit = LIMITS[KINDS[kind]]
        if self.flags[2 * kind] + self.flags[2 * kind + 1] < limit:
            return True
        back = [(value[1:_VALUE_BYTES], at) for at, value in self.held.items() if value[0] == 2 * kind]
        for _, at in sorted(back)[: max(1, limit // 8)]:
            del self.held[at]
            self.flags[2 * kind] -= 1
        return bool(back)


class _Part(msgspec.Struct, array_like=True):
    hashes: bytes
    values: bytes
    long: list[tuple[int, bytes]]


def part_key(user_id: str, parts: int, part: int) -> str:
    """The key of a part's item."""
    return f"s/{user_id}/{parts}.{part}"


def part_keys(user_id: str, parts: int) -> list[str]:
    """The keys of all parts, in order."""
    return [part_key(user_id, parts, part) for part in range(parts)]


def decode(owner: bytes, items: Iterable[Item | None]) -> tuple[dict[int, bytes], bool]:
    """The decisions in the items of all parts, and whether all were there and intact."""
    held, intact = dict[int, bytes](), True
    for item in items:
        try:
            if item is None or bytes(item["i"]["B"]) != owner:
                raise ValueError("a part is missing")
            part = msgspec.msgpack.decode(unseal("a user's stored relations", bytes(item["d"]["B"])), type=_Part)
            hashes = struct.unpack(f"<{len(part.hashes) // _HASH_BYTES}Q", part.hashes)
        except KeyError as error:
            raise FormatError("a user's stored relations have another format") from error
        except (ValueError, msgspec.DecodeError, struct.error):
            intact = False
        else:
            held.update(zip(hashes, struct.unpack(f"{_VALUE_BYTES}s" * len(hashes), part.values), strict=True))
            held.update(part.long)
    return held, intact


def _encode(held: Mapping[int, bytes]) -> bytes:
    short = sorted(at for at, value in held.items() if len(value) == _VALUE_BYTES)
    long = sorted((at, value) for at, value in held.items() if len(value) > _VALUE_BYTES)
    part = _Part(struct.pack(f"<{len(short)}Q", *short), b"".join(held[at] for at in short), long)
    return seal(msgspec.msgpack.encode(part))


def _entries(act: Act) -> Iterator[tuple[str, bytes]]:
    """The names that an act decides, and their values."""
    if act.profile is not None:
        for name, (at_ms, said) in act.profile.values.items():
            yield f"profile:{name}", _value(2 * _PROFILE + 1, at_ms, act) + msgspec.json.encode((name, said))
    else:
        relation, active = RELATIONS[act.kind]
        target = act.target.encode() if relation == "follow" else b""
        flag = 2 * KINDS.index(relation) + active
        yield f"{relation}:{act.target}", _value(flag, act.happened_ms, act) + target


def _value(flag: int, happened_ms: int, act: Act) -> bytes:
    """The order key ends with the start of the event id: only acts of one millisecond and place need more."""
    event = packed(act.event_id)
    event = event if isinstance(event, bytes) else event.encode()
    numbers = max(0, happened_ms).to_bytes(6) + max(0, act.at_ms).to_bytes(6) + min(act.seq, 0xFFFF).to_bytes(2)
    return bytes([flag]) + numbers + event[:_EVENT_BYTES].ljust(_EVENT_BYTES, b"\0")
