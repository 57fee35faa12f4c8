"""Score the candidates with the ranker. If it fails, or the budget is used up, they stay in pool order.

Pool order is the packet's, then just followed, trending, and the refill: trending in the country, evergreen, fresh. A
feed without scores is therefore still ordered by the batch side.

Trending and just-followed pings are boosted, and what the user wants more or less of (`steer.py`), in units of the
ranker's within-request score deviation. A real-time feature that the model learned from logs is part of its score
already and gets no second boost.
"""

import logging
from typing import Final

import numpy as np

from feed_api.stages.steer import steer
from feed_api.state import REALTIME_AT, FeedState
from pingfeed.core.errors import FormatError, PingfeedError
from pingfeed.core.features import Float32
from pingfeed.core.ranker import Float64, Ranker

log = logging.getLogger(__name__)

TRENDING: Final = 2.0
FOLLOWED: Final = 1.5
"""Boost of a feature value of 1, in score deviations: lifts the hottest average candidate into the top ten."""


def score(state: FeedState) -> None:
    """Fill `scores` (n,), or leave them None for pool order."""
    if state.matrix is None:
        return
    if not state.deadline.left_s():
        state.degraded.add("deadline")
        return
    ranker = state.live.ranker
    try:
        state.scores = _finite(ranker, state.matrix)
    except (PingfeedError, ValueError) as error:
        log.error("could not score the candidates: %s", error, extra={"model_id": ranker.model_id})
        state.degraded.add("model")


def _finite(ranker: Ranker, matrix: Float32) -> Float64:
    scores = ranker.predict(matrix)
    if not np.isfinite(scores).all():
        raise FormatError("the model returned a score that is not finite")
    return scores


def boost(state: FeedState) -> None:
    """Fill `boosts` by feature, and `totals` (n,), by which candidates are ordered."""
    if state.scores is None or state.realtime is None:
        return
    ranker = state.live.ranker
    state.boosts = {name: shift * ranker.score_std for name, shift in steer(state).items()}
    weights = {"trending_now": TRENDING * (state.hot.heat if state.hot else 0), "just_followed": FOLLOWED}
    for name, weight in weights.items():
        if name not in ranker.learned_realtime:
            # fmax turns an unknown value into 0.
            values = np.fmax(state.realtime[:, REALTIME_AT[name]], 0).astype(np.float64)
            state.boosts[name] = values * (weight * ranker.score_std)
    state.totals = sum(state.boosts.values(), state.scores)
