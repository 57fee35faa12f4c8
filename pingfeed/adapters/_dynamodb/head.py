"""The head of a user's signals: new acts, appended without reading, and what is in the other items.

    s/<user>    `h` (list) sealed `Acts`, one an append    `n` their bytes    `i` 6 random bytes: this head
                `f` how often it was folded    `z` the session's version at least    `p` how many parts relations have
                `g` the fold that wrote relations last    `c` how many relations there are, two bytes a kind
                `b` epoch ms: when relations were found damaged last
                `t` TTL; `x` (never) in its place where relations or a profile are stored

An append is one UpdateItem. It is refused where the head would pass `HEAD_BYTES`: then the head is folded (`fold.py`).
`t` is a week later than the session's, as acts may arrive late.

The earlier format was one item at this key: `s` (a compressed `_Whole`), `v`, `t`. An append is refused there too, and
the fold takes it over.
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from pingfeed.adapters._dynamodb.acts import Acts, lasts
from pingfeed.adapters._dynamodb.items import Item, decompress, ttl
from pingfeed.adapters._dynamodb.session import acts_of
from pingfeed.aws import KEY, TTL
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import FormatError
from pingfeed.core.signals import LIMITS, RELATIONS, STATE_TTL_MS, Act, Profile, Relation, Session
from pingfeed.telemetry import nameless

HEAD_BYTES: Final = 1024
"""One write unit."""
EARLY_BYTES: Final = 120
"""Room that is left to processes which append without having read the head."""
_FIXED_BYTES: Final = 90
"""The most that the attributes beside the key and the acts take."""
_TTL_MS: Final = STATE_TTL_MS + 7 * DAY_MS
_NEVER: Final = {"N": "253370764800"}
"""The year 9999."""
_APPEND: Final = "h = list_append(if_not_exists(h, :none), :acts), i = if_not_exists(i, :id)"
_ROOM: Final = "attribute_not_exists(s) AND (attribute_not_exists(n) OR n <= :room)"
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Head:
    """A head that was read, or a new one."""

    user_id: str
    item: Item | None
    id: bytes = field(default_factory=lambda: os.urandom(6))
    folds: int = 0
    session: int = 0
    parts: int = 0
    relations: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * len(LIMITS))
    damaged_ms: int = 0
    entries: list[Acts] = field(default_factory=list)
    intact: bool = True

    @classmethod
    def of(cls, user_id: str, item: Item | None) -> "Head":
        """The head in an item. Entries that are damaged are left out. FormatError for one of another format."""
        head = cls(user_id, item)
        if item is None:
            return head
        if "s" in item or "i" not in item:
            head._take_over(item)
            return head
        head.id = bytes(item["i"]["B"])
        numbers = (int(item[name]["N"]) if name in item else 0 for name in "fzpgb")
        head.folds, head.session, head.parts, head.relations, head.damaged_ms = numbers
        if "c" in item:
            data = bytes(item["c"]["B"])
            head.counts = [int.from_bytes(data[at : at + 2]) for at in range(0, 2 * len(LIMITS), 2)]
        for entry in item.get("h", {"L": []})["L"]:
            try:
                head.entries.append(Acts.decode("a user's latest acts", user_id, bytes(entry["B"])))
            except (ValueError, msgspec.DecodeError) as error:
                head._damaged(error)
        return head

    @property
    def size(self) -> int:
        """The bytes of the acts in it."""
        return int(self.item["n"]["N"]) if self.item and "n" in self.item else 0

    @property
    def lasting(self) -> list[Act]:
        """The acts on relations and the profile."""
        return [act for entry in self.entries for act in entry.acts if lasts(act)]

    def is_full(self, lasting: Sequence[Act]) -> bool:
        """Whether a relation may reach its limit by these acts: that is decided where all of them are."""
        new = Counter(RELATIONS[act.kind][0] for act in lasting if act.kind in RELATIONS)
        known = dict(zip(LIMITS, self.counts, strict=True))
        return any(known[kind] + count >= LIMITS[kind] for kind, count in new.items())

    def folded(self, kept: Sequence[Act], written_ms: int) -> dict[str, Any]:
        """PutItem's parameters for the head after a fold that leaves `kept` in it, if nothing was appended since."""
        entry = [Acts.of(kept).encode()] if kept else []
        item: dict[str, Any] = {KEY: {"S": head_key(self.user_id)}, "i": {"B": self.id}, TTL: ttl(written_ms + _TTL_MS)}
        numbers = (_size(entry), self.folds + 1, self.session, self.parts, self.relations, self.damaged_ms)
        item |= {name: {"N": str(number)} for name, number in zip("nfzpgb", numbers, strict=True)}
        if entry:
            item["h"] = {"L": [{"B": data} for data in entry]}
        if self.parts:
            item["c"] = {"B": b"".join(count.to_bytes(2) for count in self.counts)}
        if self.parts or kept:
            item |= {"x": _NEVER, TTL: _NEVER}
        return {"Item": item, **self._unchanged()}

    def _unchanged(self) -> dict[str, Any]:
        """The condition that the head is as it was read."""
        if self.item is None:
            return {"ConditionExpression": f"attribute_not_exists({KEY})"}
        known = "v" if "s" in self.item else "inf"
        equal = [f"{name} = :{name}" if name in self.item else f"attribute_not_exists({name})" for name in known]
        values = {f":{name}": self.item[name] for name in known if name in self.item}
        return {"ConditionExpression": " AND ".join(equal), "ExpressionAttributeValues": values}

    def _take_over(self, item: Item) -> None:
        try:
            self.id = bytes(item["v"]["B"])[:6]
            data = decompress(f"the stored signals of {nameless(self.user_id)}", bytes(item["s"]["B"]))
            self.entries = msgspec.msgpack.decode(data, type=_Whole).entries(self.user_id)
        except KeyError as error:
            raise FormatError("a user's stored signals have another format") from error
        except (ValueError, msgspec.DecodeError) as error:
            self._damaged(error)

    def _damaged(self, error: Exception) -> None:
        self.intact = False
        _log.error("a user's stored signals are damaged", extra={"user": nameless(self.user_id), "reason": str(error)})


def head_key(user_id: str) -> str:
    """The key of a user's head."""
    return f"s/{user_id}"


def appending(user_id: str, acts: Sequence[Act], head: Head | None) -> dict[str, Any] | None:
    """UpdateItem's parameters that append acts; None if the head would be too large, or full soon where it is known.

    A process that has read the head folds it early: one that has not would pay for an append that is refused.
    """
    packed = Acts.of(acts)
    data = packed.encode()
    room = HEAD_BYTES - _FIXED_BYTES - len(head_key(user_id).encode()) - _size([data])
    if room < 0 or (head is not None and head.size > room - EARLY_BYTES):
        return None
    stays = any(map(lasts, acts))
    values = {
        ":none": {"L": []},
        ":acts": {"L": [{"B": data}]},
        ":id": {"B": os.urandom(6)},
        ":size": {"N": str(_size([data]))},
        ":room": {"N": str(room)},
        ":until": _NEVER if stays else ttl(packed.at_ms + _TTL_MS),
    }
    until = "x = :until, t = :until" if stays else "t = if_not_exists(x, :until)"
    return {
        "Key": {KEY: {"S": head_key(user_id)}},
        "UpdateExpression": f"SET {_APPEND}, {until} ADD n :size",
        "ConditionExpression": _ROOM,
        "ExpressionAttributeValues": values,
        "ReturnValues": "ALL_NEW" if stays else "NONE",
    }


def _size(entries: Sequence[bytes]) -> int:
    return sum(1 + len(data) for data in entries)


class _Whole(msgspec.Struct, array_like=True):
    """A user's state in the earlier format: relations with the time of the latest decision, negated if it took back."""

    written_ms: int = 0
    relations: dict[Relation, dict[str, int]] = {}
    session: Session = msgspec.field(default_factory=Session)
    profile: Profile = msgspec.field(default_factory=Profile)

    def entries(self, user_id: str) -> list[Acts]:
        """The state as acts."""
        kinds = {act: kind for kind, act in RELATIONS.items()}
        found = [
            Act(user_id, kinds[relation, at_ms > 0], target, abs(at_ms))  # type: ignore[arg-type]
            for relation, part in self.relations.items()
            for target, at_ms in part.items()
        ]
        if self.profile.values:
            found.append(Act(user_id, "profile", "", 1, profile=self.profile))
        found += acts_of(user_id, self.session, self.written_ms)
        return [Acts(self.written_ms, self.session.seen, found)]
