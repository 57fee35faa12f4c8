"""Stage: lift what is hot and what was just followed, in units of the ranker's within-request score deviation.

A real-time feature that the model learned from logs is in its score already and gets no second lift.
"""

from typing import Final

import numpy as np

from feed_api.state import REALTIME_AT, FeedState

TRENDING: Final = 2.0
FOLLOWED: Final = 1.5
"""Lift of a value of 1, in score deviations: an average candidate that is the hottest of all enters the top ten."""


def boost(state: FeedState) -> None:
    """Fill `boosts` by feature and `totals` (n,), what candidates are ordered by."""
    if state.scores is None or state.realtime is None:
        return
    ranker = state.live.ranker
    state.totals = state.scores
    weights = {"trending_now": TRENDING * (state.hot.heat if state.hot else 0), "just_followed": FOLLOWED}
    for name, weight in weights.items():
        if name not in ranker.learned_realtime:
            # fmax gives 0 for an unknown value.
            values = np.fmax(state.realtime[:, REALTIME_AT[name]], 0).astype(np.float64)
            state.boosts[name] = values * (weight * ranker.score_std)
            state.totals = state.totals + state.boosts[name]
