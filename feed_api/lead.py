"""Stage: a follow shows in the very next feed, whatever the ranker makes of it.

The newest ping of a creator whom the user followed in this session is lifted among the best of the pool. A model may
have learned the follow and still think little of the creator's newest; the user has just said otherwise.
"""

from heapq import nlargest
from typing import Final

import numpy as np

from feed_api.hydrate import NEWEST_OF_EACH
from feed_api.state import FeedState
from pingfeed.signals import SESSION_MS

CREATORS: Final = 3
"""The latest follows that lead; a spree of them must not fill the page."""
PLACE: Final = 3
"""Among how many of the best."""
NAME: Final = "follow_lead"


def lead(state: FeedState) -> None:
    """Add to `totals`, and to `boosts` where somebody is lifted."""
    rows = [at for number in _followed_now(state) if (at := _newest_here(state, number)) is not None]
    if state.totals is None or not rows:
        return
    best = state.totals[: state.rankable]
    floor = float(np.partition(best, -min(PLACE, len(best)))[-min(PLACE, len(best))])
    lift = np.zeros(len(state.totals))
    lift[rows] = np.maximum(floor - state.totals[rows], 0)
    if lift.any():
        state.boosts[NAME] = lift
        state.totals = state.totals + lift


def _followed_now(state: FeedState) -> list[int]:
    """Creator numbers of this session's latest follows."""
    since = state.request.now_ms - SESSION_MS
    latest = nlargest(CREATORS, ((at_ms, name) for name, at_ms in state.recent.follows.items() if at_ms > since))
    return [number for _, name in latest if (number := state.snapshot.creator_number(name)) is not None]


def _newest_here(state: FeedState, creator: int) -> int | None:
    """Where in the pool the creator's newest is that was not left out; None if none of the newest is there."""
    rows = state.pool.rows[: state.rankable]
    places = (np.flatnonzero(rows == row) for row in state.snapshot.newest_of(creator, NEWEST_OF_EACH))
    return next((int(at[0]) for at in places if len(at)), None)
