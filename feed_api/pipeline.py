"""A feed, from request to response: the table of contents of the feed service."""

import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from random import Random
from typing import Final

from feed_api.artifact_loader import ArtifactLoader
from feed_api.metrics import FeedMetrics
from feed_api.request_refresh import RequestRefresh
from feed_api.schema import Feed
from feed_api.stages.diversify import diversify
from feed_api.stages.explore import insert_new, rng_of, sample_new
from feed_api.stages.featurize import featurize
from feed_api.stages.fetch import fetch
from feed_api.stages.filter import filter_candidates
from feed_api.stages.hydrate import hydrate
from feed_api.stages.log_served import ServedLog
from feed_api.stages.pin_followed import pin_followed
from feed_api.stages.refill import refill
from feed_api.stages.reserve import reserve
from feed_api.stages.respond import respond
from feed_api.stages.score import boost, score
from feed_api.state import Deadline, FeedRequest, FeedState
from feed_api.trending_cache import TrendingCache
from pingfeed.core.features import FeatureSet, place_name
from pingfeed.core.packet import UserPart, unknown_user
from pingfeed.ports import CandidateStore, UserSignals
from pingfeed.settings import Settings

STAGES: Final[tuple[Callable[[FeedState], None], ...]] = (
    hydrate,  # packet candidates as snapshot rows, plus new follows and trending pings
    filter_candidates,  # remove seen, served, hidden, blocked, muted, deleted and own pings, with reasons
    refill,  # from the snapshot's lists, through the same filter
    reserve,  # for a short page: other languages, then pings seen before
    sample_new,  # perhaps a new ping to explore
    featurize,  # the feature matrix
    score,  # the ranker
    boost,  # trending, just followed, more and less, interests
    diversify,  # by creator and topic, on this page and across recent requests
    pin_followed,  # creators followed in this session
    insert_new,  # the sampled ping at its slot
)
"""The stages between fetching and responding, in order."""


@dataclass
class Pipeline:
    """Makes feeds from injected dependencies; `monotonic` returns seconds that never go back."""

    settings: Settings
    candidates: CandidateStore
    signals: UserSignals
    loader: ArtifactLoader
    trending: TrendingCache
    log_served: ServedLog
    metrics: FeedMetrics
    monotonic: Callable[[], float] = time.monotonic
    make_rng: Callable[[str], Random] = rng_of
    refresh: RequestRefresh | None = None
    """Where no background task refreshes the model, the snapshot and trending."""
    _features: FeatureSet = field(init=False)
    _unknown_user: UserPart = field(init=False)
    _deleted: Set[str] = frozenset()

    def __post_init__(self) -> None:
        # `settings.features` builds a new set, with its digest, on each access.
        self._features = self.settings.features
        self._unknown_user = unknown_user(self._features)

    async def feed(self, request: FeedRequest) -> Feed:
        """One page of a user's feed; missing parts degrade it, they never fail it."""
        if self.refresh:
            await self.refresh.begin()
        stopwatch = _Stopwatch(self.metrics, self.monotonic)
        state = self._begin(request)
        if request.chain:
            await self.log_served.settle(state)
        await fetch(state, self.candidates, self.signals, again=self.refresh is not None)
        if state.signals:
            self._deleted = state.signals.deleted
        state.hot = self.trending.hot(place_name(state.user.country), state.snapshot, request.now_ms)
        stopwatch.lap("fetch")
        for stage in STAGES:
            stage(state)
            stopwatch.lap(stage.__name__)
        is_late = not state.deadline.left_s()
        await self.log_served(state)
        stopwatch.lap("log_served")
        # A function may wait for its event as long as there is time.
        if is_late or (self.refresh is None and not state.deadline.left_s()):
            state.degraded.add("deadline")
        response = respond(state, self.settings.tick_ms)
        stopwatch.lap("respond")
        self._count(state)
        if self.refresh:
            await self.refresh.finish(state.deadline.left_s())
        return response

    def warm_up(self, now_ms: int) -> None:
        """Rank once, so that first-use costs (memory, numpy, the model) do not delay a user."""
        state = self._begin(FeedRequest("warm-up", "warm-up", limit=10, now_ms=now_ms))
        for stage in STAGES:
            stage(state)

    def _begin(self, request: FeedRequest) -> FeedState:
        state = FeedState(
            request=request,
            features=self._features,
            live=self.loader.live,
            deadline=Deadline(request.arrived_s, self.settings.feed_budget_ms / 1000, self.monotonic),
            rng=self.make_rng(request.request_id),
            explore_share=self.settings.explore_share,
            user=self._unknown_user,
            last_deleted=self._deleted,
        )
        if not state.live.has_snapshot:
            state.degraded.add("snapshot")
        if not state.live.has_model:
            state.degraded.add("model")
        if request.cheap:
            state.degraded.add("overload")
        return state

    def _count(self, state: FeedState) -> None:
        removed = (removal.reason for removal in state.removed)
        self.metrics.responded(state.rankable, len(state.order), state.degraded, removed)


class _Stopwatch:
    """Measures the stages of one feed."""

    def __init__(self, metrics: FeedMetrics, monotonic: Callable[[], float]) -> None:
        self._metrics, self._monotonic = metrics, monotonic
        self._since = monotonic()

    def lap(self, stage: str) -> None:
        """Attribute the time since the last lap to this stage."""
        now = self._monotonic()
        self._metrics.stage_seconds(stage).inc(now - self._since)
        self._since = now
