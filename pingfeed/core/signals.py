"""What a user did, as the feed reads it: relations that last, a bounded session, and the user's profile.

Relations (follows, blocks, hides, mutes) are the user's decisions: of all acts on one target the one with the greatest
order key counts, whenever it arrives, and none expires. The session holds what was seen, engaged with and served, and
expires `STATE_TTL_MS` after the last act. Acts are idempotent: a replay from the spool, a duplicate or a late arrival
leaves the same state.
"""

from bisect import insort
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal, Protocol, TypeVar

import msgspec

from pingfeed.core.clock import DAY_MS, HOUR_MS
from pingfeed.core.events import OrderKey

Relation = Literal["follow", "block", "hide", "mute"]
LIMITS: Final[dict[Relation, int]] = {"follow": 5000, "block": 10_000, "hide": 5000, "mute": 10_000}
"""Relations of one user. Beyond a limit a new one is only in the lake, and applied by the batch side."""
beyond_limit: Final[Counter[str]] = Counter()
"""How many new relations this process did not store because the user had reached the limit, by relation."""
MAX_SEEN: Final = 2000
MAX_SERVED: Final = 12
MAX_ENGAGED: Final = 40
SEEN_MS: Final = 30 * DAY_MS
SESSION_MS: Final = 30 * 60_000
SERVED_MS: Final = HOUR_MS
STATE_TTL_MS: Final = 35 * DAY_MS
DELETED_TTL_MS: Final = 7 * DAY_MS
MAX_DELETED: Final = 10_000
INCOMPLETE: Final = "the signals began anew; the next tick rebuilds what users decided before"

RelationAct = Literal["follow", "unfollow", "block", "unblock", "hide", "unhide", "mute", "unmute"]
SessionAct = Literal["seen", "engaged", "like", "unlike", "more", "less", "served"]
ActKind = RelationAct | SessionAct | Literal["profile", "deleted"]
RELATIONS: Final[dict[str, tuple[Relation, bool]]] = {
    "follow": ("follow", True),
    "unfollow": ("follow", False),
    "block": ("block", True),
    "unblock": ("block", False),
    "hide": ("hide", True),
    "unhide": ("hide", False),
    "mute": ("mute", True),
    "unmute": ("mute", False),
}
"""The relation that an act decides, and whether it holds afterwards."""
_Key = TypeVar("_Key", str, int)


class Profile(msgspec.Struct, array_like=True):
    """What `user_updated` events said: each field's latest value with its time."""

    values: dict[str, tuple[int, str | list[str]]] = {}

    def merge(self, other: "Profile") -> None:
        """Take over each value that is not older."""
        for name, value in other.values.items():
            if name not in self.values or self.values[name][0] <= value[0]:
                self.values[name] = value

    def get(self, name: str) -> str | None:
        """`country` or `language`; None if unknown."""
        value = self.values.get(name, (0, ""))[1]
        return value if isinstance(value, str) and value else None

    @property
    def interests(self) -> list[str]:
        """Topics chosen at sign-up."""
        value = self.values.get("interests", (0, ""))[1]
        return value if isinstance(value, list) else []


class Act(msgspec.Struct, frozen=True, gc=False):
    """One thing that a user did (or was served), or a ping's deletion (`user_id` empty).

    `target` is a creator id for follow and block, `creator:<id>` or `topic:<name>` for mute, those or `ping:<id>` for
    more and less, the request id for served, empty for profile, else a ping id. `at_ms` is the time of receipt.
    """

    user_id: str
    kind: ActKind
    target: str
    at_ms: int
    pings: tuple[str, ...] = ()
    timestamp_ms: int | None = None
    seq: int = 0
    event_id: str = ""
    profile: Profile | None = None

    @property
    def happened_ms(self) -> int:
        """When it happened, at the latest when it was received; at least 1, for its sign says more."""
        return self.at_ms if self.timestamp_ms is None else max(1, min(self.timestamp_ms, self.at_ms))

    @property
    def key(self) -> OrderKey:
        """What orders the acts on one target."""
        return self.happened_ms, self.at_ms, self.seq, self.event_id


class Served(msgspec.Struct, array_like=True):
    """One response of the feed to this user."""

    request_id: str
    at_ms: int
    pings: list[str]


class Engaged(msgspec.Struct, array_like=True, order=True):
    """One engagement; `liked_ms` is when it happened if it was a like, which may be taken back."""

    at_ms: int
    ping: str
    liked_ms: int = 0


@lru_cache(maxsize=1 << 16)
def seen_key(ping: str) -> int:
    """A ping's key in `Session.seen`: 32 bits in place of an id of up to 128 characters.

    Of a million unseen pings one counts as seen by a user who saw `MAX_SEEN`.
    """
    return int.from_bytes(blake2b(ping.encode(), digest_size=4).digest())


class Session(msgspec.Struct, array_like=True):
    """What a user did lately; each part is bounded, the oldest go first."""

    seen: dict[int, int] = {}
    """By `seen_key`, when a ping was last seen."""
    engaged: list[Engaged] = []
    served: list[Served] = []
    unlikes: dict[str, int] = {}
    steered: dict[str, int] = {}
    """Targets of more and less, when it happened, negated for less."""

    def apply(self, act: Act) -> None:
        """Apply one act; an act older than what is known of its target changes nothing."""
        match act.kind:
            case "seen":
                self._see(act.target, act.at_ms)
            case "engaged":
                self._engage(Engaged(act.at_ms, act.target))
            case "like":
                if self.unlikes.get(act.target, 0) <= act.happened_ms:
                    self._engage(Engaged(act.at_ms, act.target, act.happened_ms))
            case "unlike":
                self._unlike(act.target, act.happened_ms)
            case "more" | "less":
                decide(self.steered, act.target, act.happened_ms, act.kind == "more", MAX_ENGAGED)
            case "served":
                kept = [s for s in self.served if s.request_id != act.target]
                kept = sorted([*kept, Served(act.target, act.at_ms, list(act.pings))], key=_served_order)
                self.served = [s for s in kept if s.at_ms > kept[-1].at_ms - SERVED_MS][-MAX_SERVED:]
            case _:
                raise ValueError(f"{act.kind} is not an act of a session")

    def has_seen(self, ping: str, now_ms: int) -> bool:
        """Whether the user saw the ping within `SEEN_MS`."""
        return self.seen.get(seen_key(ping), 0) > now_ms - SEEN_MS

    def interactions(self, now_ms: int) -> list[str]:
        """Pings that the user engaged with in this session, one entry an engagement."""
        return [entry.ping for entry in self.engaged if entry.at_ms > now_ms - SESSION_MS]

    def steering(self, now_ms: int) -> dict[str, bool]:
        """Targets of which the user wanted more (True) or less in this session."""
        return {target: at_ms > 0 for target, at_ms in self.steered.items() if abs(at_ms) > now_ms - SESSION_MS}

    def copy(self) -> "Session":
        """A copy that may be changed."""
        return Session(
            self.seen.copy(), self.engaged.copy(), self.served.copy(), self.unlikes.copy(), self.steered.copy()
        )

    def _see(self, ping: str, at_ms: int) -> None:
        key, seen = seen_key(ping), self.seen
        if seen.get(key, 0) < at_ms:
            seen[key] = at_ms
            _keep_newest(seen, MAX_SEEN, seen.__getitem__)

    def _engage(self, entry: Engaged) -> None:
        if not self.engaged or entry > self.engaged[-1]:
            self.engaged.append(entry)
        elif entry not in self.engaged:
            insort(self.engaged, entry)
        if len(self.engaged) > MAX_ENGAGED:
            del self.engaged[0]

    def _unlike(self, ping: str, happened_ms: int) -> None:
        self.engaged = [e for e in self.engaged if e.ping != ping or not 0 < e.liked_ms <= happened_ms]
        if self.unlikes.get(ping, 0) < happened_ms:
            self.unlikes[ping] = happened_ms
            _keep_newest(self.unlikes, MAX_ENGAGED, self.unlikes.__getitem__)


class Targets(Protocol):
    """The targets of a relation. A store may know hashes of them only, which cannot be listed."""

    def __contains__(self, target: object, /) -> bool: ...
    def __len__(self) -> int: ...


@dataclass(slots=True)
class UserState:
    """What a store knows of one user."""

    follows: dict[str, int] = field(default_factory=dict)
    """When the user followed a creator, negated if the user has unfollowed since."""
    blocks: Targets = field(default_factory=set)
    hides: Targets = field(default_factory=set)
    mutes: Targets = field(default_factory=set)
    """`creator:<id>` and `topic:<name>`."""
    session: Session = field(default_factory=Session)
    profile: Profile = field(default_factory=Profile)
    freed: Targets = field(default_factory=set)
    """`block:<target>`, `hide:...` and `mute:...` that the user took back: packets may not know it yet."""

    def following(self) -> Set[str]:
        """Creators that the user follows as far as the store knows."""
        return {creator for creator, at_ms in self.follows.items() if at_ms > 0}


def _served_order(served: Served) -> tuple[int, str]:
    return served.at_ms, served.request_id


def decide(part: dict[str, int], target: str, at_ms: int, active: bool, limit: int) -> None:
    """Note a decision at its time, negated if it takes back, unless a later one is known; a tie goes to the last."""
    if abs(part.get(target, 0)) <= at_ms:
        part[target] = at_ms if active else -at_ms
        _keep_newest(part, limit, lambda target: abs(part[target]))


def _keep_newest(part: dict[_Key, int], limit: int, at_ms: Callable[[_Key], int]) -> None:
    if len(part) > limit:
        # An eighth at once, so that a full part is not sorted for every further act.
        for target in sorted(part, key=at_ms)[: len(part) - limit + limit // 8]:
            del part[target]


@dataclass(frozen=True)
class Signals:
    """What one read gives the feed: the user's state and the recently deleted pings.

    `complete` is False if the store began anew and was not rebuilt from the lake, or the user's part was damaged.
    """

    state: UserState
    deleted: Set[str]
    complete: bool = True
