"""What the stages of a feed pass along: the request, what is live, and what has been made of it so far."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from feed_api.offer import nothing
from feed_api.pool import Pool
from feed_api.serving_state import Live
from feed_api.trending_cache import Hot
from pingfeed.core.features import REALTIME, FeatureSet, Float32
from pingfeed.core.packet import Packet, UserPart
from pingfeed.core.ranker import Float64
from pingfeed.core.signals import Signals, UserState
from pingfeed.core.snapshot import Snapshot

Part = Literal["signals", "candidates", "snapshot", "model", "deadline"]
PARTS: Final[tuple[Part, ...]] = ("signals", "candidates", "snapshot", "model", "deadline")
"""What an answer may have been made without, in the order in which `degraded` names it."""

Reason = Literal["deleted", "hidden", "blocked", "own", "seen", "served"]


@dataclass(frozen=True, slots=True)
class Chain:
    """A first page and those that follow it: when it began, and the position that the next item gets."""

    began_ms: int
    position: int


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """One call of GET /get-feed, checked; `chain` is None where it asks for a first page."""

    request_id: str
    user_id: str
    limit: int
    now_ms: int
    chain: Chain | None = None
    explain: bool = False

    @property
    def began_ms(self) -> int:
        """When the chain's first page was asked for."""
        return self.chain.began_ms if self.chain else self.now_ms

    @property
    def position(self) -> int:
        """The position of the first item, counted from the chain's first page."""
        return self.chain.position if self.chain else 0


class Deadline:
    """A request's time budget. `monotonic` gives seconds that only grow."""

    def __init__(self, budget_s: float, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._end = monotonic() + budget_s

    def left_s(self) -> float:
        """Seconds that are left, 0 when it is over."""
        return max(0.0, self._end - self._monotonic())


@dataclass(frozen=True, slots=True)
class Removed:
    """A candidate that was left out, and why."""

    ping_id: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Explorer:
    """A new ping that may take a slot by chance; `choices` is among how many it (or none) was drawn."""

    at: int | None  # its position in the pool, None where this request does not explore
    choices: int


@dataclass(slots=True)
class FeedState:
    """One feed in the making. Each stage reads what earlier ones left and adds its own."""

    request: FeedRequest
    features: FeatureSet
    live: Live
    deadline: Deadline
    dice: random.Random
    explore_share: float
    user: UserPart
    """The packet's user part; a stranger's where there is none that this program reads."""
    degraded: set[Part] = field(default_factory=set)

    # fetch
    packet: Packet | None = None
    signals: Signals | None = None
    hot: Hot | None = None
    # hydrate
    pool: Pool = field(init=False)
    offered: set[int] = field(default_factory=set)
    """Every row that a source offered so far, kept or removed."""
    # filter, refill
    removed: list[Removed] = field(default_factory=list)
    explorer: Explorer = Explorer(None, 0)
    # features, score, boost: one row a candidate
    realtime: Float32 | None = None
    matrix: Float32 | None = None
    scores: Float64 | None = None
    boosts: dict[str, Float64] = field(default_factory=dict)
    totals: Float64 | None = None
    # diversify, explore: positions in the pool, as they will be shown, and the probability of each at its slot
    order: list[int] = field(default_factory=list)
    propensities: list[float] = field(default_factory=list)
    explored_slot: int | None = None
    more: bool = False

    def __post_init__(self) -> None:
        self.pool = Pool.of(self.live.snapshot, nothing())

    @property
    def rankable(self) -> int:
        """How many candidates compete by their score: the drawn newcomer, the last of the pool, does not."""
        return len(self.pool) - (self.explorer.at is not None)

    @property
    def snapshot(self) -> Snapshot:
        """The live snapshot, an empty one where there is none."""
        return self.live.snapshot

    @property
    def recent(self) -> UserState:
        """The user's recent acts, none where signals failed."""
        return self.signals.state if self.signals else _NO_ACTS

    @property
    def skip(self) -> int:
        """How many of the best were shown on earlier pages and cannot be told by what was served: no signals."""
        return min(self.request.position, _MAX_SKIP) if self.signals is None else 0


_NO_ACTS: Final = UserState()
_MAX_SKIP: Final = 500
REALTIME_AT: Final = {feature.name: at for at, feature in enumerate(REALTIME)}
"""Column of each real-time feature in its block."""
