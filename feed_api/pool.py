"""The candidates of one feed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feed_api.offer import Bits, Offer
from pingfeed.core.features import Float32
from pingfeed.core.snapshot import Rows, Snapshot


@dataclass(frozen=True, slots=True)
class Pool:
    """n candidates: their snapshot rows in the order in which their sources offered them, and who they are."""

    rows: Rows
    sources: Bits  # `features.SOURCES`
    retrieval: Float32  # the packet's score, NaN where it carried none
    ping_ids: list[str]
    creator_ids: list[str]

    @classmethod
    def of(cls, snapshot: Snapshot, offered: Offer) -> "Pool":
        """What was offered, distinct rows, with their ids."""
        return cls(*offered, snapshot.ping_ids(offered.rows), snapshot.creator_ids(offered.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, at: Sequence[int]) -> "Pool":
        """The candidates at these positions."""
        index = np.array(at, np.intp)
        return Pool(
            self.rows[index],
            self.sources[index],
            self.retrieval[index],
            [self.ping_ids[i] for i in at],
            [self.creator_ids[i] for i in at],
        )

    def first(self, count: int) -> "Pool":
        """The first candidates, at most so many."""
        return self if len(self) <= count else self.take(range(count))

    def plus(self, other: "Pool") -> "Pool":
        """These and then those, which must be others."""
        return Pool(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.sources, other.sources]),
            np.concatenate([self.retrieval, other.retrieval]),
            self.ping_ids + other.ping_ids,
            self.creator_ids + other.creator_ids,
        )
