"""What is hot in the user's country, then everywhere."""

import numpy as np

from batch.serving.candidates.pool import Pool, Rows, UserProfile

_NONE = np.empty(0, np.intp)


def offer(pool: Pool, taste: UserProfile) -> Rows:
    """Rows, hottest first."""
    here = pool.lists.get(f"trending:{taste.country}", _NONE)
    return np.concatenate([here, pool.lists.get("trending", _NONE)])
