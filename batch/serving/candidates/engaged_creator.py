"""Newest pings of the creators whom the user's own engagement favours."""

import numpy as np

from batch.serving.candidates.pool import Pool, Rows, UserProfile, interleaved


def offer(pool: Pool, taste: UserProfile) -> Rows:
    """Rows, a round over the creators by falling affinity, newest of each first."""
    order = np.argsort(-taste.creator_affinity, kind="stable")
    liked = [int(taste.creators[i]) for i in order if taste.creator_affinity[i] > 0]
    return interleaved([pool.by_creator[creator] for creator in liked if creator in pool.by_creator])
