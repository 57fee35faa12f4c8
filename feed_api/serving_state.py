"""The ranker and the snapshot that are live. A request works with one `Live` from its first stage to its last."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from feed_api.candidates import FRESH, Pool, candidates
from pingfeed.core.features import FACET_WIDTH, FeatureSet, PingBlock
from pingfeed.core.ranker import FallbackRanker, Ranker
from pingfeed.core.snapshot import Snapshot, SnapshotContent, write

FEW_IMPRESSIONS: Final = 50
"""A ping with fewer impressions is eligible for exploration: its rates are mostly noise."""
_FRESH_EXAMINED: Final = 500
_MAX_NEW_PINGS: Final = 32


@dataclass(frozen=True)
class Live:
    """An immutable serving state: swapping it never mixes two states within a request."""

    ranker: Ranker
    snapshot: Snapshot
    has_model: bool
    has_snapshot: bool
    new_pings: Pool
    """Fresh pings with few impressions, newest first: what exploration samples from."""
    new_pings_language: list[int]
    """Their `features.language_code`."""

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
    return Live(ranker, snapshot, has_model, has_snapshot, new_pings, snapshot.language[rows].tolist())


def _empty(features: FeatureSet) -> Snapshot:
    """Stands in for a missing snapshot, so that no stage needs a special case."""
    none = np.empty(0, np.uint32)
    facets = np.empty((0, len(features.facets), FACET_WIDTH), np.uint32)
    pings = PingBlock(np.empty((0, len(features.ping)), np.float32), none, facets, none, none)
    content = SnapshotContent(0, features.digest, features.facets, [], none, none, none, pings, {}, {})
    return Snapshot(write(content))
