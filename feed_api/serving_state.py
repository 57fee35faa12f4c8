"""What is live: the ranker and the snapshot that a request works with from its first stage to its last."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from feed_api.offer import FRESH, offer
from feed_api.pool import Pool
from pingfeed.core.features import FACET_WIDTH, FeatureSet, PingBlock
from pingfeed.core.ranker import FallbackRanker, Ranker
from pingfeed.core.snapshot import Snapshot, SnapshotContent, write

FEW_IMPRESSIONS: Final = 50
"""Below this a ping's rates say more about luck than about the ping: exploration may show it."""
_FRESH_LOOKED_AT: Final = 500
_MAX_NEWCOMERS: Final = 32


@dataclass(frozen=True)
class Live:
    """One state of the world. A request takes it once, so that a swap never mixes two of them."""

    ranker: Ranker
    snapshot: Snapshot
    has_model: bool
    has_snapshot: bool
    newcomers: Pool
    """Fresh pings that few have seen, freshest first: what exploration chooses from."""
    newcomers_language: list[int]
    """Their `features.language_code`."""

    def with_model(self, ranker: Ranker) -> "Live":
        """This state with another model."""
        return replace(self, ranker=ranker, has_model=True)

    def with_snapshot(self, snapshot: Snapshot) -> "Live":
        """This state with another snapshot."""
        return _live(self.ranker, snapshot, has_model=self.has_model, has_snapshot=True)


def nothing_live(features: FeatureSet) -> Live:
    """Before anything was published: the default ranker, and a snapshot without pings."""
    return _live(FallbackRanker(features), _empty(features), has_model=False, has_snapshot=False)


def _live(ranker: Ranker, snapshot: Snapshot, *, has_model: bool, has_snapshot: bool) -> Live:
    fresh = snapshot.listed("fresh", _FRESH_LOOKED_AT)
    rows = fresh[snapshot.impressions[fresh] < FEW_IMPRESSIONS][:_MAX_NEWCOMERS]
    newcomers = Pool.of(snapshot, offer(rows, FRESH))
    return Live(ranker, snapshot, has_model, has_snapshot, newcomers, snapshot.language[rows].tolist())


def _empty(features: FeatureSet) -> Snapshot:
    """Stands in for a missing snapshot, so that no stage needs a branch for it."""
    none = np.empty(0, np.uint32)
    facets = np.empty((0, len(features.facets), FACET_WIDTH), np.uint32)
    pings = PingBlock(np.empty((0, len(features.ping)), np.float32), none, facets, none, none)
    content = SnapshotContent(0, features.digest, features.facets, [], none, none, none, pings, {}, {})
    return Snapshot(write(content))
