"""Candidates: the snapshot rows that a source proposes, and the pool of one request, which knows their ids too."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.features import Float32, source_bits
from pingfeed.core.snapshot import Rows, Snapshot

Bits = NDArray[np.uint8]

FOLLOWED: Final = source_bits(["followed"])
TOPIC: Final = source_bits(["topic"])
ENGAGED_CREATOR: Final = source_bits(["engaged_creator"])
TRENDING: Final = source_bits(["trending"])
EVERGREEN: Final = source_bits(["evergreen"])
FRESH: Final = source_bits(["fresh"])
PERSONAL: Final = FOLLOWED | ENGAGED_CREATOR
"""Sources that the user chose, so that the language does not matter."""


class Candidates(NamedTuple):
    """Rows of one snapshot, best first; the three arrays have one length."""

    rows: Rows
    sources: Bits  # bits by `features.SOURCES`
    retrieval: Float32  # 0 to 1, NaN where a source has none

    def part(self, start: int, stop: int | None) -> "Candidates":
        """Rows `start` (inclusive) to `stop` (exclusive)."""
        return Candidates(self.rows[start:stop], self.sources[start:stop], self.retrieval[start:stop])

    def without(self, known: Container[int]) -> "Candidates":
        """The rows that are not in `known`."""
        return self.take(np.array([at for at, row in enumerate(self.rows.tolist()) if row not in known], np.intp))

    def take(self, at: NDArray[Any]) -> "Candidates":
        """The rows at these positions, or where the mask is true."""
        return Candidates(self.rows[at], self.sources[at], self.retrieval[at])


def candidates(rows: Rows, source: int) -> Candidates:
    """Rows from one source, without scores."""
    return Candidates(rows, np.full(len(rows), source, np.uint8), np.full(len(rows), np.nan, np.float32))


def no_candidates() -> Candidates:
    """No rows."""
    return candidates(np.empty(0, np.intp), 0)


def merge(parts: Sequence[Candidates]) -> Candidates:
    """Distinct rows in order of first appearance, with the first score and the source bits of all appearances."""
    rows, sources, retrieval = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    distinct, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    merged = np.zeros(len(distinct), np.uint8)
    np.bitwise_or.at(merged, inverse, sources)
    order = np.argsort(first)
    return Candidates(distinct[order], merged[order], retrieval[first[order]])


@dataclass(frozen=True, slots=True)
class Pool:
    """The n candidates of one request, in the order in which sources proposed them."""

    rows: Rows
    sources: Bits
    retrieval: Float32
    ping_ids: list[str]
    creator_ids: list[str]

    @classmethod
    def of(cls, snapshot: Snapshot, found: Candidates) -> "Pool":
        """These (distinct) candidates with their ids."""
        return cls(*found, snapshot.ping_ids(found.rows), snapshot.creator_ids(found.rows))

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
        """At most `count` candidates from the front."""
        return self if len(self) <= count else self.take(range(count))

    def plus(self, other: "Pool") -> "Pool":
        """This pool followed by a disjoint one."""
        return Pool(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.sources, other.sources]),
            np.concatenate([self.retrieval, other.retrieval]),
            self.ping_ids + other.ping_ids,
            self.creator_ids + other.creator_ids,
        )
