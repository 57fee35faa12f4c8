"""Best pings of the topics (and other facets) that the user's own engagement favours."""

import numpy as np

from batch.serving.candidates.pool import Pool, Rows, UserProfile, interleaved


def offer(pool: Pool, taste: UserProfile) -> Rows:
    """Rows, a round over the values by falling affinity, best of each first."""
    order = np.argsort(-taste.value_affinity, kind="stable")
    liked = [int(taste.values[i]) for i in order if taste.value_affinity[i] > 0]
    return interleaved([pool.by_value[value] for value in liked if value in pool.by_value])
