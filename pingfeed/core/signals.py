"""What a user did seconds ago, as one small bounded item, and what is hot right now.

`UserState` is the item: every backend that stores one item a user keeps its encoded bytes. Acts are idempotent and
carry their time, so that a replay from the spool, a duplicate or a late arrival leaves the same state.
"""

import math
from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from pingfeed.core.clock import DAY_MS, HOUR_MS
from pingfeed.core.events import Row

MAX_FOLLOWS: Final = 1000
MAX_HIDES: Final = 1000
MAX_BLOCKS: Final = 500
MAX_SEEN: Final = 600
MAX_SERVED: Final = 12
MAX_ENGAGED: Final = 40
SESSION_MS: Final = 30 * 60_000
SERVED_MS: Final = HOUR_MS
STATE_TTL_MS: Final = 35 * DAY_MS
DELETED_TTL_MS: Final = 7 * DAY_MS
MAX_DELETED: Final = 10_000

ActKind = Literal["follow", "unfollow", "block", "hide", "seen", "engaged", "served", "deleted"]


class Act(msgspec.Struct, frozen=True, gc=False):
    """One thing that a user did (or was served), or a ping's deletion (`user_id` empty).

    `target` is a creator id for follow, unfollow and block, the request id for served, else a ping id.
    """

    user_id: str
    kind: ActKind
    target: str
    at_ms: int
    pings: tuple[str, ...] = ()


class Served(msgspec.Struct, array_like=True):
    """One response of the feed to this user."""

    request_id: str
    at_ms: int
    pings: list[str]


class UserState(msgspec.Struct, array_like=True):
    """One user's recent acts; each part is bounded, the oldest go first.

    `follows` holds the time of the latest follow of a creator, negated where an unfollow came later.
    """

    follows: dict[str, int] = {}
    blocks: dict[str, int] = {}
    hides: dict[str, int] = {}
    seen: dict[str, int] = {}
    engaged: list[tuple[int, str]] = []
    served: list[Served] = []

    def apply(self, act: Act) -> None:
        """Apply one act; an act older than what is known of its target changes nothing."""
        match act.kind:
            case "seen":
                self.see(act.target, act.at_ms)
            case "engaged":
                self.engage(act.target, act.at_ms)
            case "follow" | "unfollow":
                if abs(self.follows.get(act.target, 0)) <= act.at_ms:
                    self.follows[act.target] = act.at_ms if act.kind == "follow" else -act.at_ms
                    _keep_newest(self.follows, MAX_FOLLOWS, lambda creator: abs(self.follows[creator]))
            case "block":
                _remember(self.blocks, act.target, act.at_ms, MAX_BLOCKS)
            case "hide":
                _remember(self.hides, act.target, act.at_ms, MAX_HIDES)
            case "served":
                kept = [s for s in self.served if s.request_id != act.target]
                kept = sorted([*kept, Served(act.target, act.at_ms, list(act.pings))], key=_served_order)
                self.served = [s for s in kept if s.at_ms > kept[-1].at_ms - SERVED_MS][-MAX_SERVED:]
            case "deleted":
                raise ValueError("a deletion belongs to the catalogue, not to one user's state")

    def see(self, ping: str, at_ms: int) -> None:
        """The user saw a ping."""
        seen = self.seen
        if seen.get(ping, 0) < at_ms:
            seen[ping] = at_ms
            if len(seen) > MAX_SEEN:
                _keep_newest(seen, MAX_SEEN, seen.__getitem__)

    def engage(self, ping: str, at_ms: int) -> None:
        """The user engaged with a ping."""
        engaged, entry = self.engaged, (at_ms, ping)
        if not engaged or entry > engaged[-1]:
            engaged.append(entry)
        elif entry not in engaged:
            insort(engaged, entry)
        if len(engaged) > MAX_ENGAGED:
            del engaged[0]

    def following(self) -> Set[str]:
        """Creators that the user follows as far as recent acts tell."""
        return {creator for creator, at_ms in self.follows.items() if at_ms > 0}

    def session(self, now_ms: int) -> list[str]:
        """Pings that the user engaged with in this session, one entry an engagement."""
        return [ping for at_ms, ping in self.engaged if at_ms > now_ms - SESSION_MS]

    def encode(self) -> bytes:
        """MessagePack bytes, for a store."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes | None) -> "UserState":
        """The state in `data`; an empty one for None."""
        return msgspec.msgpack.decode(data, type=cls) if data else cls()


def _served_order(served: Served) -> tuple[int, str]:
    return served.at_ms, served.request_id


def _remember(part: dict[str, int], target: str, at_ms: int, limit: int) -> None:
    if part.get(target, 0) < at_ms:
        part[target] = at_ms
        if len(part) > limit:
            _keep_newest(part, limit, part.__getitem__)


def _keep_newest(part: dict[str, int], limit: int, at_ms: Callable[[str], int]) -> None:
    if len(part) > limit:
        # An eighth at once, so that a full part is not sorted for every further act.
        for target in sorted(part, key=at_ms)[: len(part) - limit + limit // 8]:
            del part[target]


@dataclass(frozen=True)
class Signals:
    """What one read gives the feed: the user's state and the recently deleted pings."""

    state: UserState
    deleted: Set[str]


class Engagement(msgspec.Struct, frozen=True, gc=False):
    """One engagement that may count towards trending; a backend counts (user, ping, event type) once a day."""

    user_id: str
    ping_id: str
    event_type: str
    country: str | None
    at_ms: int


TRENDING_WEIGHTS: Final = {"view": 1.0, "like": 3.0, "comment": 4.0, "share": 5.0}
_HALF_LIFE_MS: Final = HOUR_MS
DECAY_RATE: Final = math.log(2) / _HALF_LIFE_MS
MAX_LANDMARK_AGE_MS: Final = 200 * _HALF_LIFE_MS
"""Past this a weight nears what a double can hold beside a fresh one: move the landmark (2 ** 200)."""


def forward_weight(event_type: str, at_ms: int, landmark_ms: int) -> float:
    """`weight * exp(rate * (t - landmark))`: forward decay, Cormode et al., ICDE 2009. Times before count as then."""
    return TRENDING_WEIGHTS[event_type] * math.exp(DECAY_RATE * (at_ms - landmark_ms))


def decay_between(from_ms: int, to_ms: int) -> float:
    """The factor that brings a forward weight with its landmark at `from_ms` to one at `to_ms`."""
    return math.exp(-DECAY_RATE * (to_ms - from_ms))


def acts_of(row: Row) -> list[Act]:
    """The acts in an accepted row, at the time when the server received it."""
    of = _ACTS.get(row["event_type"])
    return of(row) if of else []


def _of_creator(row: Row) -> list[Act]:
    return [Act(row["user_id"], row["event_type"], row["creator_id"], row["received_ms"])]


def _hidden(row: Row) -> list[Act]:
    user, ping, at_ms = row["user_id"], row["ping_id"], row["received_ms"]
    return [Act(user, "hide", ping, at_ms), Act(user, "seen", ping, at_ms)]


def _seen(row: Row) -> list[Act]:
    return [Act(row["user_id"], "seen", row["ping_id"], row["received_ms"])]


def _engaged(row: Row) -> list[Act]:
    user, ping, at_ms = row["user_id"], row["ping_id"], row["received_ms"]
    return [Act(user, "seen", ping, at_ms), Act(user, "engaged", ping, at_ms)]


def _deleted(row: Row) -> list[Act]:
    return [Act("", "deleted", row["ping_id"], row["received_ms"])]


def _served(row: Row) -> list[Act]:
    return [Act(row["user_id"], "served", row["request_id"], row["received_ms"], tuple(row["served_pings"]))]


_ACTS: Final[Mapping[str, Callable[[Row], list[Act]]]] = {
    **dict.fromkeys(("follow", "unfollow", "block"), _of_creator),
    **dict.fromkeys(("hide", "report"), _hidden),
    "impression": _seen,
    **dict.fromkeys(("view", "like", "comment", "share"), _engaged),
    "ping_deleted": _deleted,
    "feed_served": _served,
}


def engagements_of(rows: Iterable[Row]) -> list[Engagement]:
    """The engagements in accepted rows; a view counts from half a watch."""
    return [
        Engagement(row["user_id"], row["ping_id"], kind, row.get("country"), row["received_ms"])
        for row in rows
        if (kind := row["event_type"]) in TRENDING_WEIGHTS and (kind != "view" or row["watch_time_ratio"] >= 0.5)
    ]
