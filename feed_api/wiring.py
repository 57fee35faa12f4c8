"""From settings to what the service works with. The only file here that knows which adapters there are."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from feed_api.stages.log_served import ServedActs
from pingfeed.adapters import registry
from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.ids import IdMaker, uuid7
from pingfeed.ports import Artifacts, CandidateStore, Trending, UserSignals
from pingfeed.settings import Settings
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import Publisher

NEEDS: Final = ("events_url", "artifacts_url", "candidates_url", "cache_url", "signals_url", "trending_url", "jwt_jwks")
"""The parts that must respond before the service starts (`pingfeed/checks.py`)."""


@dataclass(frozen=True)
class Services:
    """What the feed stands on. `create_app` starts it and closes it."""

    candidates: CandidateStore
    signals: UserSignals
    trending: Trending
    artifacts: Artifacts
    delivery: Delivery
    acts: ServedActs
    publisher: Publisher | None = None
    """Puts the spool's account into the lake."""
    clock: Clock = system_clock
    make_id: IdMaker = uuid7
    refresh_s: float = 2.0
    """How often the pointers to model and snapshot are looked at."""
    trending_s: float = 3.0
    """How often the hot lists are read."""
    monotonic: Callable[[], float] = time.perf_counter
    """Seconds that only grow: what a request's budget is measured by."""


def build(settings: Settings) -> Services:
    """Open everything; Busy if another process has the spool, Unavailable if a store cannot be opened."""
    spool = Spool(settings.spool_dir / "feed", max_bytes=settings.spool_max_mb << 20)
    sink = registry.open_event_sink(settings)
    signals = registry.open_signals(settings)
    acts = ServedActs(signals)
    return Services(
        candidates=registry.open_candidates(settings),
        signals=signals,
        trending=registry.open_trending(settings),
        artifacts=registry.open_artifacts(settings),
        delivery=Delivery(spool, sink, apply=acts.apply, flush_seconds=settings.sink_flush_seconds),
        acts=acts,
        publisher=Publisher(spool.directory, registry.open_lake_objects(settings)),
    )
