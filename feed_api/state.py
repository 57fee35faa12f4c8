"""What the stages of one feed share: the request, the live ranker and snapshot, and their results so far.

A request works with one `Live` from its first stage to its last.
"""

import random
from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from feed_api.candidates import FRESH, Pool, candidates, no_candidates
from feed_api.trending_cache import Hot
from pingfeed.core.features import FACET_WIDTH, REALTIME, FeatureSet, Float32, PingBlock
from pingfeed.core.packet import Packet, UserPart
from pingfeed.core.ranker import FallbackRanker, Float64, Ranker
from pingfeed.core.signals import Signals, UserState
from pingfeed.core.snapshot import Snapshot, SnapshotContent, write

Part = Literal["signals", "candidates", "snapshot", "model", "deadline", "overload"]
PARTS: Final[tuple[Part, ...]] = ("signals", "candidates", "snapshot", "model", "deadline", "overload")
"""What a response may lack, in the order of `degraded`."""

Reason = Literal["deleted", "hidden", "blocked", "muted", "own", "seen", "served", "language"]

FEW_IMPRESSIONS: Final = 50
"""A ping with fewer impressions is eligible for exploration: its rates are mostly noise."""
_READ_SHARE: Final = 0.6
_ACT_SHARE: Final = 0.3
_SEND_SHARE: Final = 0.1
"""Shares of the budget: for reading, for applying the `served` act (at most), and for sending the response."""
_FRESH_EXAMINED: Final = 500
_MAX_NEW_PINGS: Final = 32


@dataclass(frozen=True, slots=True)
class Chain:
    """A first page and the pages after it: when it began, and the position of the next item."""

    began_ms: int
    position: int


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """One validated GET /get-feed; `chain` is None for a first page."""

    request_id: str
    user_id: str
    limit: int
    now_ms: int
    chain: Chain | None = None
    explain: bool = False
    arrived_s: float | None = None
    """When its first byte arrived, in seconds of the pipeline's `monotonic`; None: now."""
    cheap: bool = False
    """Whether it is to be served for little work (`admission.py`)."""
    country: str | None = None
    language: str | None = None
    """Hints, used where neither profile nor packet gives the value."""

    @property
    def began_ms(self) -> int:
        """When the chain's first page was requested."""
        return self.chain.began_ms if self.chain else self.now_ms

    @property
    def position(self) -> int:
        """Position of the first item, counted from the chain's first page."""
        return self.chain.position if self.chain else 0


class Deadline:
    """A request's time budget, from its first byte. `monotonic` returns seconds that never go back."""

    def __init__(self, arrived_s: float | None, budget_s: float, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._end = (monotonic() if arrived_s is None else arrived_s) + budget_s * (1 - _SEND_SHARE)
        self._act_s = budget_s * _ACT_SHARE
        self.read_s = budget_s * _READ_SHARE
        """How long to wait for reads, also when late: leaving out what the user hid matters more than being in time."""

    def left_s(self) -> float:
        """Seconds left before the response has to be sent, 0 when the budget is used up."""
        return max(0.0, self._end - self._monotonic())

    def act_s(self) -> float:
        """How long to wait for the `served` act."""
        return min(self.left_s(), self._act_s)


@dataclass(frozen=True)
class Live:
    """An immutable serving state: swapping it never mixes two states within a request."""

    ranker: Ranker
    snapshot: Snapshot
    has_model: bool
    has_snapshot: bool
    new_pings: Pool
    """Fresh pings with few impressions, newest first: what exploration samples from."""

    def with_model(self, ranker: Ranker) -> "Live":
        """This state with another model."""
        return replace(self, ranker=ranker, has_model=True)

    def with_snapshot(self, snapshot: Snapshot) -> "Live":
        """This state with another snapshot."""
        return _live(self.ranker, snapshot, has_model=self.has_model, has_snapshot=True)


def nothing_live(features: FeatureSet) -> Live:
    """The state before anything is published: the fallback ranker and an empty snapshot."""
    return _live(FallbackRanker(features), _empty(features), has_model=False, has_snapshot=False)


def _live(ranker: Ranker, snapshot: Snapshot, *, has_model: bool, has_snapshot: bool) -> Live:
    fresh = snapshot.listed("fresh", _FRESH_EXAMINED)
    rows = fresh[snapshot.impressions[fresh] < FEW_IMPRESSIONS][:_MAX_NEW_PINGS]
    new_pings = Pool.of(snapshot, candidates(rows, FRESH))
    return Live(ranker, snapshot, has_model, has_snapshot, new_pings)


def _empty(features: FeatureSet) -> Snapshot:
    """Stands in for a missing snapshot, so that no stage needs a special case."""
    none = np.empty(0, np.uint32)
    facets = np.empty((0, len(features.facets), FACET_WIDTH), np.uint32)
    pings = PingBlock(np.empty((0, len(features.ping)), np.float32), none, facets, none, none)
    content = SnapshotContent(0, features.digest, features.facets, [], none, none, none, pings, {}, {})
    return Snapshot(write(content))


@dataclass(frozen=True, slots=True)
class Removed:
    """A candidate that was filtered out, with the reason."""

    ping_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Exploration:
    """A new ping that may take a slot by chance, drawn from `choices` pings."""

    at: int | None  # its position in the pool, None where this request does not explore
    choices: int


@dataclass(slots=True)
class FeedState:
    """One feed in progress. Each stage reads the results of earlier stages and adds its own."""

    request: FeedRequest
    features: FeatureSet
    live: Live
    deadline: Deadline
    rng: random.Random
    explore_share: float
    user: UserPart
    """The packet's user part, or that of an unknown user where it has none for this feature digest.

    Country and language are those of the user's profile, else the packet's, else the request's.
    """
    degraded: set[Part] = field(default_factory=set)

    # fetch
    packet: Packet | None = None
    signals: Signals | None = None
    last_deleted: Set[str] = frozenset()
    """The deleted pings as of the last request whose signals could be read."""
    hot: Hot | None = None
    # hydrate
    latest_follows: list[tuple[int, str]] = field(default_factory=list)
    """(time, creator id) of the latest follows, the latest first."""
    pool: Pool = field(init=False)
    packet_only: bool = False
    """Whether nothing but the packet's candidates may be served, since what the user forbade is not all known."""
    proposed: set[int] = field(default_factory=set)
    """Every row that a source has proposed so far, kept or removed."""
    forbidden: frozenset[int] = frozenset()
    seen: frozenset[int] = frozenset()
    """Rows that the batch side excluded, as far as the packet carries them."""
    # filter, refill
    removed: list[Removed] = field(default_factory=list)
    foreign: Pool = field(init=False)
    """The packet's candidates in languages that the user does not read."""
    # reserve: the last candidates of the pool, of which those from `first_again` on were seen before
    reserved: int = 0
    first_again: int | None = None
    # sample_new
    exploration: Exploration = Exploration(None, 0)
    # featurize, score, boost: one row per candidate
    realtime: Float32 | None = None
    matrix: Float32 | None = None
    scores: Float64 | None = None
    boosts: dict[str, Float64] = field(default_factory=dict)
    totals: Float64 | None = None
    diversity: dict[int, dict[str, float]] = field(default_factory=dict)
    """What was added to the totals of the chosen candidates, by pool position; only for `explain`."""
    # diversify, pin_followed, insert_new: pool positions in display order, and each one's probability at its slot
    order: list[int] = field(default_factory=list)
    propensities: list[float] = field(default_factory=list)
    explored_slot: int | None = None
    more: bool = False

    def __post_init__(self) -> None:
        self.pool = self.foreign = Pool.of(self.live.snapshot, no_candidates())

    @property
    def rankable(self) -> int:
        """Number of candidates that compete by score: all but the last, the reserve and then a sampled new ping."""
        return len(self.pool) - self.reserved - (self.exploration.at is not None)

    @property
    def snapshot(self) -> Snapshot:
        """The live snapshot, an empty one where none is published."""
        return self.live.snapshot

    @property
    def recent(self) -> UserState:
        """The user's recent acts, empty where signals failed."""
        return self.signals.state if self.signals else _NO_ACTS

    @property
    def interests(self) -> list[int]:
        """The topics that the user chose at sign-up and some ping has."""
        names, numbers = self.recent.profile.interests, self.snapshot.topic_numbers
        return [numbers[name] for name in names if name in numbers]

    @property
    def skip(self) -> int:
        """Ranks to skip because earlier pages showed them; used only where signals, which know what was, failed."""
        return min(self.request.position, _MAX_SKIP) if self.signals is None else 0


_NO_ACTS: Final = UserState()
_MAX_SKIP: Final = 500
REALTIME_AT: Final = {feature.name: at for at, feature in enumerate(REALTIME)}
"""Column of each real-time feature in its block."""
