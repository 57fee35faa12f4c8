"""Boost trending and just-followed pings, in units of the ranker's within-request score deviation.

A real-time feature that the model learned from logs is part of its score already and gets no second boost.
"""

from typing import Final

import numpy as np

from feed_api.state import REALTIME_AT, FeedState

TRENDING: Final = 2.0
FOLLOWED: Final = 1.5
"""Boost of a feature value of 1, in score deviations: lifts the hottest average candidate into the top ten."""


def boost(state: FeedState) -> None:
    """Fill `boosts` by feature, and `totals` (n,), by which candidates are ordered."""
    if state.scores is None or state.realtime is None:
        return
    ranker = state.live.ranker
    state.totals = state.scores
    weights = {"trending_now": TRENDING * (state.hot.heat if state.hot else 0), "just_followed": FOLLOWED}
    for name, weight in weights.items():
        if name not in ranker.learned_realtime:
            # fmax turns an unknown value into 0.
            values = np.fmax(state.realtime[:, REALTIME_AT[name]], 0).astype(np.float64)
            state.boosts[name] = values * (weight * ranker.score_std)
            state.totals = state.totals + state.boosts[name]
