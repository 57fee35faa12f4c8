"""Stage: the ranker's score of every candidate; without one (it failed, or time is over) the pool's order stands.

The pool's order is the packet's, then what was just followed, what is hot, and the refill: trending in the country,
evergreen, fresh. So a feed without a ranker is still the best guess of the batch side.
"""

import logging

import numpy as np

from feed_api.state import FeedState
from pingfeed.core.errors import FormatError, PingfeedError
from pingfeed.core.features import Float32
from pingfeed.core.ranker import Float64, Ranker

log = logging.getLogger(__name__)


def score(state: FeedState) -> None:
    """Fill `scores` (n,); leave them None where the pool's order has to do."""
    if state.matrix is None:
        return
    if not state.deadline.left_s():
        state.degraded.add("deadline")
        return
    ranker = state.live.ranker
    try:
        state.scores = _finite(ranker, state.matrix)
    except (PingfeedError, ValueError) as error:
        log.error("candidates were not scored: %s", error, extra={"model_id": ranker.model_id})
        state.degraded.add("model")


def _finite(ranker: Ranker, matrix: Float32) -> Float64:
    scores = ranker.predict(matrix)
    if not np.isfinite(scores).all():
        raise FormatError("a score is not a finite number")
    return scores
