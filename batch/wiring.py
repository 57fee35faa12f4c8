"""Builds the dependencies of every batch step from the settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from batch.features.engine import Engine
from batch.lake import tombstones
from batch.lake.tables import Tables
from batch.progress import Progress
from batch.ticks import Ticks
from pingfeed.adapters import registry
from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.features import FeatureSet
from pingfeed.ports import Artifacts, CandidateStore, UserSignals
from pingfeed.settings import Settings

NEEDS: Final = ("lake_url", "artifacts_url", "candidates_url", "cache_url")
"""The parts that must be reachable before it starts (`pingfeed/checks.py`)."""


@dataclass(frozen=True)
class Batch:
    """The batch side of one installation. Each step opens async ports itself (`asyncio.run`)."""

    settings: Settings
    tables: Tables
    engine: Engine
    ticks: Ticks
    features: FeatureSet
    clock: Clock
    progress: Progress
    open_artifacts: Callable[[], Artifacts]
    open_candidates: Callable[[], CandidateStore]
    open_signals: Callable[[], UserSignals]


def build(settings: Settings, *, clock: Clock = system_clock, quiet: bool = False) -> Batch:
    """The batch side for these settings."""
    return Batch(
        settings=settings,
        tables=Tables(registry.open_lake(settings), tombstones.pending),
        engine=Engine(),
        ticks=Ticks(settings.tick_ms),
        features=settings.features,
        clock=clock,
        progress=Progress(quiet=quiet),
        open_artifacts=lambda: registry.open_artifacts(settings),
        open_candidates=lambda: registry.open_candidates(settings),
        open_signals=lambda: registry.open_signals(settings),
    )
