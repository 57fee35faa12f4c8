"""Acts as bytes: ids that are UUIDs take 16, seen pings four each (`seen_key`), times are relative.

A head's entry, a session and the older seen pings (`head.py`, `session.py`) are one `Acts` each. Seen times are kept in
units of 40 seconds, so that 30 days of them are 16 bits.
"""

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from pingfeed.adapters._dynamodb.items import seal, unseal
from pingfeed.core.signals import (
    RELATIONS,
    STATE_TTL_MS,
    Act,
    ActKind,
    Profile,
    RelationAct,
    Session,
    seen_key,
)

UNIT_MS: Final = 40_000
_LATER: Final[tuple[ActKind, ...]] = ("engaged", "like", "unlike", "more", "less", "served", "profile")
_KINDS: Final[tuple[ActKind, ...]] = (*get_args(RelationAct), *_LATER)
"""A kind is stored as its place here."""
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEY_BYTES: Final = 4


class Acts(msgspec.Struct):
    """Acts of one user: `at_ms` is the receipt of the latest, `seen` maps keys of seen pings to times."""

    at_ms: int
    seen: dict[int, int] = {}
    acts: list[Act] = []

    @classmethod
    def of(cls, acts: Iterable[Act]) -> "Acts":
        """These acts."""
        found = cls(0, {}, [])
        for act in acts:
            found.at_ms = max(found.at_ms, act.at_ms)
            if act.kind == "seen":
                see(found.seen, {seen_key(act.target): act.at_ms // UNIT_MS * UNIT_MS})
            else:
                found.acts.append(act)
        return found

    def replay(self, session: Session, written_ms: int) -> tuple[Session, int]:
        """The session, written at a time, after these acts, and when it is written now. It is changed."""
        if self.at_ms - STATE_TTL_MS >= written_ms:
            session = Session()
        see(session.seen, self.seen)
        for act in self.acts:
            if not lasts(act):
                session.apply(act)
        return session, max(self.at_ms, written_ms)

    def encode(self) -> bytes:
        """For `decode`."""
        seen: dict[int, bytearray] = {}
        for key, at_ms in self.seen.items():
            seen.setdefault(self.at_ms // UNIT_MS - at_ms // UNIT_MS, bytearray()).extend(key.to_bytes(_KEY_BYTES))
        acts = [_fields(act, self.at_ms) for act in self.acts]
        return seal(msgspec.msgpack.encode((self.at_ms, seen, acts)))

    @classmethod
    def decode(cls, what: str, user_id: str, data: bytes) -> "Acts":
        """From `encode`. ValueError if the bytes are damaged, FormatError if they have another format."""
        stored = msgspec.msgpack.decode(unseal(what, data), type=_Stored)
        newest, seen = stored.at_ms // UNIT_MS, dict[int, int]()
        for age, keys in stored.seen.items():
            numbers = struct.unpack(f">{len(keys) // _KEY_BYTES}I", keys)
            seen.update(dict.fromkeys(numbers, (newest - age) * UNIT_MS))
        return cls(stored.at_ms, seen, [act.restored(user_id, stored.at_ms) for act in stored.acts])


def see(seen: dict[int, int], more: Mapping[int, int]) -> None:
    """Add seen pings, each with its latest time."""
    for key, at_ms in more.items():
        if seen.get(key, 0) < at_ms:
            seen[key] = at_ms


def lasts(act: Act) -> bool:
    """Whether the act is about a relation or the profile."""
    return act.kind in RELATIONS or act.profile is not None


class _StoredAct(msgspec.Struct, array_like=True):
    """An act; trailing fields with these values are left out."""

    kind: int
    target: Any
    """As `packed`; so are the event id and the pings, unless all of those are UUIDs: then one value."""
    before_ms: int = 0
    """How long before the latest act it was received."""
    lag_ms: int = 0
    """How long before that it happened."""
    seq: int = 0
    event_id: Any = ""
    pings: Any = b""
    profile: Profile | None = None

    def restored(self, user_id: str, latest_ms: int) -> Act:
        """The act; of one that ends with the session the order key is its time."""
        at_ms = latest_ms - self.before_ms
        names = self.pings
        if isinstance(names, bytes):
            names = [names[at : at + 16] for at in range(0, len(names), 16)]
        pings = tuple(map(_unpacked, names))
        key = at_ms - self.lag_ms, self.seq, _unpacked(self.event_id)
        return Act(user_id, _KINDS[self.kind], _unpacked(self.target), at_ms, pings, *key, self.profile)


class _Stored(msgspec.Struct, array_like=True):
    at_ms: int
    seen: dict[int, bytes]
    """By age in units."""
    acts: list[_StoredAct]


def _fields(act: Act, latest_ms: int) -> Sequence[object]:
    order = (act.seq, packed(act.event_id)) if lasts(act) else (0, "")
    lag_ms = act.at_ms - act.happened_ms
    names = [packed(ping) for ping in act.pings]
    are_uuids = all(isinstance(name, bytes) for name in names)
    pings = b"".join(names) if are_uuids else list(act.pings)  # type: ignore[arg-type]
    fields = [_KINDS.index(act.kind), packed(act.target), latest_ms - act.at_ms, lag_ms, *order, pings, act.profile]
    while len(fields) > 2 and not fields[-1]:
        fields.pop()
    return fields


def packed(name: str) -> str | bytes:
    """A UUID's 16 bytes, any other id as it is."""
    return bytes.fromhex(name.replace("-", "")) if _UUID.fullmatch(name) else name


def _unpacked(name: str | bytes) -> str:
    if isinstance(name, str):
        return name
    text = name.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
