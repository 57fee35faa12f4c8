"""What a source offers: snapshot rows, its bit, and the retrieval score where it has one."""

from collections.abc import Container, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.features import Float32, source_bits
from pingfeed.core.snapshot import Rows

Bits = NDArray[np.uint8]

FOLLOWED: Final = source_bits(["followed"])
ENGAGED_CREATOR: Final = source_bits(["engaged_creator"])
TRENDING: Final = source_bits(["trending"])
EVERGREEN: Final = source_bits(["evergreen"])
FRESH: Final = source_bits(["fresh"])


class Offer(NamedTuple):
    """Rows of one snapshot, best first, all three of one length."""

    rows: Rows
    sources: Bits
    retrieval: Float32

    def part(self, start: int, stop: int | None) -> "Offer":
        """The rows from `start` to before `stop`."""
        return Offer(self.rows[start:stop], self.sources[start:stop], self.retrieval[start:stop])

    def without(self, known: Container[int]) -> "Offer":
        """The rows that are not among `known`."""
        kept = np.array([at for at, row in enumerate(self.rows.tolist()) if row not in known], np.intp)
        return Offer(self.rows[kept], self.sources[kept], self.retrieval[kept])


def offer(rows: Rows, bit: int) -> Offer:
    """Rows that one source offers without a score."""
    return Offer(rows, np.full(len(rows), bit, np.uint8), np.full(len(rows), np.nan, np.float32))


def nothing() -> Offer:
    """No rows."""
    return offer(np.empty(0, np.intp), 0)


def merged(offers: Sequence[Offer]) -> Offer:
    """Distinct rows in order of first appearance (whose score counts), each with the bits of all its appearances."""
    rows, sources, retrieval = (np.concatenate(arrays) for arrays in zip(*offers, strict=True))
    distinct, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    together = np.zeros(len(distinct), np.uint8)
    np.bitwise_or.at(together, inverse, sources)
    order = np.argsort(first)
    return Offer(distinct[order], together[order], retrieval[first[order]])
