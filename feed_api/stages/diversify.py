"""Stage: the page's pings, one slot after the other, each the best after a penalty for repeating creator and topic.

Greedy, over the best WINDOW candidates: a slot costs one argmax and one subtraction, for the penalties between any two
of them are laid out before. Penalties are in units of the ranker's within-request score deviation.
"""

from typing import Final

import numpy as np

from feed_api.stages.featurize import TOPICS
from feed_api.stages.overlap import overlap
from feed_api.state import FeedState
from pingfeed.core.ranker import Float64
from pingfeed.core.snapshot import Rows, Snapshot

WINDOW: Final = 50
SAME_CREATOR: Final = 0.6
SAME_TOPIC: Final = 0.15
"""Penalty for each ping above it on the page that shares its creator, or a topic."""
RECENT_CREATOR: Final = 0.3
RECENT_TOPIC: Final = 0.5
"""Penalty for each recently served ping of the creator, and for the share of recently served pings on its topics."""
RECENT_REQUESTS: Final = 3
RECENT_OF_EACH: Final = 10


def diversify(state: FeedState) -> None:
    """Fill `order` with the positions in the pool of the page's pings, and say whether there are `more`."""
    limit = state.request.limit
    ranked = _ranked(state)
    state.more = len(ranked) > limit
    if state.totals is None or not ranked:
        state.order = ranked[:limit]
        return
    window = ranked[: max(WINDOW, 2 * limit)]
    penalties, recent = _penalties(state.snapshot, state.pool.rows[window], _recently_served(state))
    unit = state.live.ranker.score_std
    values = state.totals[window] - unit * recent
    state.order = [window[at] for at in _greedy(values, unit * penalties, limit)]


def _ranked(state: FeedState) -> list[int]:
    """Positions in the pool by total, best first, ties in the pool's order; that order itself where nothing scored."""
    if state.totals is None:
        return list(range(state.skip, state.rankable))
    order: list[int] = np.argsort(-state.totals[: state.rankable], kind="stable").tolist()
    return order[state.skip :]


def _recently_served(state: FeedState) -> Rows:
    """Rows of what the user's last requests showed on top."""
    pings = [ping_id for served in state.recent.served[-RECENT_REQUESTS:] for ping_id in served.pings[:RECENT_OF_EACH]]
    rows = state.snapshot.rows_of_pings(pings)
    return rows[rows >= 0]


def _penalties(snapshot: Snapshot, rows: Rows, recent: Rows) -> tuple[Float64, Float64]:
    """(w, w) between any two of `rows`, and (w,) of each for what was served before."""
    w, others = len(rows), np.concatenate([rows, recent])
    creator = snapshot.creator[rows][:, None] == snapshot.creator[others]
    topic = np.zeros(creator.shape, np.bool_)
    if TOPICS in snapshot.facets:
        topics = snapshot.facet_values[:, snapshot.facets.index(TOPICS)]
        topic = overlap(topics[rows], topics[others])
    between = SAME_CREATOR * creator[:, :w] + SAME_TOPIC * topic[:, :w]
    if not len(recent):
        return between, np.zeros(w)
    return between, RECENT_CREATOR * creator[:, w:].sum(axis=1) + RECENT_TOPIC * topic[:, w:].mean(axis=1)


def _greedy(values: Float64, penalties: Float64, limit: int) -> list[int]:
    """Indices of the best, each after the penalties of those before it."""
    left = values.copy()
    picked: list[int] = []
    for _ in range(min(limit, len(left))):
        best = int(left.argmax())
        picked.append(best)
        left -= penalties[best]
        left[best] = -np.inf
    return picked
