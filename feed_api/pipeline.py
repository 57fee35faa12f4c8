"""A feed, from a request to an answer: the table of contents of the feed service."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from feed_api.artifact_loader import Loader
from feed_api.cursor import Cursors
from feed_api.metrics import FeedMetrics
from feed_api.schema import Feed
from feed_api.stages.boost import boost
from feed_api.stages.diversify import diversify
from feed_api.stages.explore import dice_of, nominate, place
from feed_api.stages.featurize import describe
from feed_api.stages.fetch import fetch
from feed_api.stages.filter import drop
from feed_api.stages.hydrate import hydrate
from feed_api.stages.log_served import Effects
from feed_api.stages.pin_followed import lead
from feed_api.stages.refill import refill
from feed_api.stages.respond import page
from feed_api.stages.score import score
from feed_api.state import Deadline, FeedRequest, FeedState
from feed_api.trending_cache import TrendingBoard
from pingfeed.core.features import FeatureSet, place_name
from pingfeed.core.packet import UserPart, unknown_user
from pingfeed.ports import CandidateStore, UserSignals
from pingfeed.settings import Settings

STAGES: Final[tuple[Callable[[FeedState], None], ...]] = (
    hydrate,  # the packet's numbers as snapshot rows, joined by what was just followed and what is hot
    drop,  # seen, served, hidden, blocked, deleted, own: left out with their reason
    refill,  # from the snapshot's lists, through the same filters
    nominate,  # perhaps a newcomer, to explore
    describe,  # the feature vectors
    score,  # the ranker
    boost,  # trending, just followed
    diversify,  # creators and topics, on this page and across the last requests
    lead,  # who was followed in this session is on the page
    place,  # the newcomer's slot
)
"""What happens between the reads and the answer, in order."""


@dataclass
class Pipeline:
    """Makes feeds. Everything that it works with is given; `monotonic` gives seconds that only grow."""

    settings: Settings
    candidates: CandidateStore
    signals: UserSignals
    loader: Loader
    board: TrendingBoard
    effects: Effects
    cursors: Cursors
    metrics: FeedMetrics
    monotonic: Callable[[], float] = time.perf_counter
    make_dice: Callable[[str], Random] = dice_of
    _features: FeatureSet = field(init=False)
    _stranger: UserPart = field(init=False)

    def __post_init__(self) -> None:
        # The settings make a new feature set every time that they are asked; its digest is not free.
        self._features = self.settings.features
        self._stranger = unknown_user(self._features)

    async def feed(self, request: FeedRequest) -> Feed:
        """One page of a user's feed, whatever is missing."""
        watch = _Stopwatch(self.metrics, self.monotonic)
        state = self._begin(request)
        await fetch(state, self.candidates, self.signals)
        state.hot = self.board.hot(place_name(state.user.country), state.snapshot, request.now_ms)
        watch.lap("fetch")
        for stage in STAGES:
            stage(state)
            watch.lap(stage.__name__)
        answer = page(state, self.cursors, self.settings.tick_ms)
        watch.lap("page")
        await self.effects.record(state)
        watch.lap("effects")
        self._count(state)
        return answer

    def warm_up(self, now_ms: int) -> None:
        """Rank once for nobody: what loads at its first use (memory, numpy, the model) keeps no user waiting."""
        state = self._begin(FeedRequest("warm-up", "warm-up", limit=10, now_ms=now_ms))
        for stage in STAGES:
            stage(state)

    def _begin(self, request: FeedRequest) -> FeedState:
        state = FeedState(
            request=request,
            features=self._features,
            live=self.loader.live,
            deadline=Deadline(self.settings.feed_budget_ms / 1000, self.monotonic),
            dice=self.make_dice(request.request_id),
            explore_share=self.settings.explore_share,
            user=self._stranger,
        )
        if not state.live.has_snapshot:
            state.degraded.add("snapshot")
        if not state.live.has_model:
            state.degraded.add("model")
        return state

    def _count(self, state: FeedState) -> None:
        removed = (removal.reason for removal in state.removed)
        self.metrics.answered(state.rankable, len(state.order), state.degraded, removed)


class _Stopwatch:
    """Where the time of a feed goes."""

    def __init__(self, metrics: FeedMetrics, monotonic: Callable[[], float]) -> None:
        self._metrics, self._monotonic = metrics, monotonic
        self._since = monotonic()

    def lap(self, stage: str) -> None:
        """The time since the last lap was this stage's."""
        now = self._monotonic()
        self._metrics.spent(stage, now - self._since)
        self._since = now
