"""Which pings of two groups share a value of a facet.

Each ping's values become bits of a few words, so that a pair costs one AND. (A matrix product would wake the threads of
the linear algebra library, which a server does not want.)
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pingfeed.core.features import NO_VALUE, UInt32, UInt64

_WORD: Final = 64


def overlap(left: UInt32, right: UInt32) -> NDArray[np.bool_]:
    """(n, m): whether ping i of `left` (n, width) and ping j of `right` (m, width) share a value."""
    values = np.unique(right)
    values = values[values != NO_VALUE]
    if not len(values):
        return np.zeros((len(left), len(right)), np.bool_)
    mine, theirs = _bits(left, values), _bits(right, values)
    shared = mine[:, :1] & theirs[:, 0]
    for word in range(1, mine.shape[1]):
        shared |= mine[:, word : word + 1] & theirs[:, word]
    share_some: NDArray[np.bool_] = shared != 0
    return share_some


def _bits(facets: UInt32, values: UInt32) -> UInt64:
    """(n, words): bit k is set where the ping has `values[k]`; `values` ascending."""
    at = np.minimum(np.searchsorted(values, facets), len(values) - 1)
    ping, place = np.nonzero(values[at] == facets)
    members = np.zeros((len(facets), -(-len(values) // _WORD) * _WORD), np.bool_)
    members[ping, at[ping, place]] = True
    return np.packbits(members, axis=1).view(np.uint64)
