"""Score the candidates with the ranker. If it fails, or the budget is used up, they stay in pool order.

Pool order is the packet's, then just followed, trending, and the refill: trending in the country, evergreen, fresh. A
feed without scores is therefore still ordered by the batch side.
"""

import logging

import numpy as np

from feed_api.state import FeedState
from pingfeed.core.errors import FormatError, PingfeedError
from pingfeed.core.features import Float32
from pingfeed.core.ranker import Float64, Ranker

log = logging.getLogger(__name__)


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
