"""Fill the page slot by slot with the best candidate left, penalising creators and topics that are already on it.

Greedy over the best WINDOW candidates; the reserve follows, in its own order, where they do not fill the page. All
pairwise penalties are computed up front, so each slot costs one argmax and one subtraction. Penalties are in units of
the ranker's within-request score deviation.
"""

from typing import Final

import numpy as np

from feed_api.stages.featurize import overlap
from feed_api.state import FeedState
from pingfeed.core.ranker import Float64
from pingfeed.core.snapshot import Rows, Snapshot

WINDOW: Final = 50
SAME_CREATOR: Final = 0.6
SAME_TOPIC: Final = 0.15
"""Penalty per ping higher on the page with the same creator, or with a common topic."""
RECENT_CREATOR: Final = 0.3
RECENT_TOPIC: Final = 0.5
"""Penalty per recently served ping of the creator, and for the share of recently served pings with a common topic."""
RECENT_REQUESTS: Final = 3
RECENT_OF_EACH: Final = 10


def diversify(state: FeedState) -> None:
    """Fill `order` with the pool positions of the page's pings, and set `more` if candidates are left.

    Fill `diversity`, where it is asked for, with what that took from each.
    """
    limit = state.request.limit
    ranked, reserve = _ranked(state), range(state.rankable, state.rankable + state.reserved)
    reserve = reserve[max(0, state.skip - state.rankable) :]
    state.more = len(ranked) + len(reserve) > limit
    state.order = [*_diversified(state, ranked, limit), *reserve][:limit]


def _diversified(state: FeedState, ranked: list[int], limit: int) -> list[int]:
    if state.totals is None or not ranked:
        return ranked[:limit]
    window = ranked[: max(WINDOW, 2 * limit)]
    penalties, recent = _penalties(state.snapshot, state.pool.rows[window], _recently_served(state))
    unit = state.live.ranker.score_std
    values = state.totals[window] - unit * recent
    picked = _greedy(values, unit * penalties, limit)
    if state.request.explain:
        page = (penalties[picked[:slot], at].sum() for slot, at in enumerate(picked))
        terms = zip(picked, page, recent[picked], strict=True)
        state.diversity = {
            window[at]: {"page": 0.0 - float(unit * on_page), "recent_feeds": 0.0 - float(unit * lately)}
            for at, on_page, lately in terms
        }
    return [window[at] for at in picked]


def _ranked(state: FeedState) -> list[int]:
    """Pool positions by total, best first, ties in pool order; plain pool order without scores."""
    if state.totals is None:
        return list(range(state.skip, state.rankable))
    order: list[int] = np.argsort(-state.totals[: state.rankable], kind="stable").tolist()
    return order[state.skip :]


def _recently_served(state: FeedState) -> Rows:
    """Rows of the top pings of the user's latest requests."""
    pings = [
        ping_id
        for served in state.recent.session.served[-RECENT_REQUESTS:]
        for ping_id in served.pings[:RECENT_OF_EACH]
    ]
    rows = state.snapshot.rows_of_pings(pings)
    return rows[rows >= 0]


def _penalties(snapshot: Snapshot, rows: Rows, recent: Rows) -> tuple[Float64, Float64]:
    """Penalties (w, w) between any two of `rows`, and (w,) for similarity to recently served pings."""
    w, others = len(rows), np.concatenate([rows, recent])
    creator = snapshot.creator[rows][:, None] == snapshot.creator[others]
    topic = overlap(snapshot.topics[rows], snapshot.topics[others])
    between = SAME_CREATOR * creator[:, :w] + SAME_TOPIC * topic[:, :w]
    if not len(recent):
        return between, np.zeros(w)
    return between, RECENT_CREATOR * creator[:, w:].sum(axis=1) + RECENT_TOPIC * topic[:, w:].mean(axis=1)


def _greedy(values: Float64, penalties: Float64, limit: int) -> list[int]:
    """Indices of the best values, each chosen after subtracting the penalties of those before it."""
    left = values.copy()
    picked: list[int] = []
    for _ in range(min(limit, len(left))):
        best = int(left.argmax())
        picked.append(best)
        left -= penalties[best]
        left[best] = -np.inf
    return picked
