"""Pings that stay good: the top tenth by engagement of all time, best first."""

import numpy as np

from batch.serving.candidates.pool import Pool, Rows, UserProfile


def offer(pool: Pool, taste: UserProfile) -> Rows:  # noqa: ARG001 - every source has one signature
    """Rows, best first; the same for everyone."""
    return pool.lists.get("evergreen", np.empty(0, np.intp))
