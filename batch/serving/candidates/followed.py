"""Newest pings of the creators that the user follows."""

import numpy as np

from batch.serving.candidates.pool import Pool, Rows, UserProfile, interleaved


def offer(pool: Pool, taste: UserProfile) -> Rows:
    """Rows, newest of each followed creator first."""
    groups = [pool.by_creator[creator] for creator in taste.followed if creator in pool.by_creator]
    rows = interleaved(groups)
    return rows[np.argsort(-pool.created_tick[rows], kind="stable")]
