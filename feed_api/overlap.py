"""Which pings of two groups share a value of a facet."""

import numpy as np
from numpy.typing import NDArray

from pingfeed.features import NO_VALUE, Float32, UInt32


def overlap(left: UInt32, right: UInt32) -> NDArray[np.bool_]:
    """(n, m): whether ping i of `left` (n, width) and ping j of `right` (m, width) share a value."""
    values = np.unique(right)
    values = values[values != NO_VALUE]
    if not len(values):
        return np.zeros((len(left), len(right)), np.bool_)
    shared: NDArray[np.bool_] = _membership(left, values) @ _membership(right, values).T > 0
    return shared


def _membership(facets: UInt32, values: UInt32) -> Float32:
    """(n, len(values)): 1 where the ping has the value; `values` ascending."""
    at = np.minimum(np.searchsorted(values, facets), len(values) - 1)
    ping, place = np.nonzero(values[at] == facets)
    members = np.zeros((len(facets), len(values)), np.float32)
    members[ping, at[ping, place]] = 1
    return members
