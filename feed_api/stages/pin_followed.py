"""Stage: a follow shows in the very next feed, whatever the ranker makes of it.

If the newest ping of a creator whom the user followed in this session is not on a first page, it takes a slot near its
top. A model may have learned what follows are worth on average and still leave this one out; the user has just said
otherwise. The displaced ping comes on the next page.
"""

from heapq import nlargest
from typing import Final

import numpy as np

from feed_api.stages.hydrate import NEWEST_OF_EACH
from feed_api.state import FeedState
from pingfeed.core.signals import SESSION_MS

CREATORS: Final = 3
"""The latest follows that lead; a spree of them must not fill the page."""
SLOT: Final = 2


def lead(state: FeedState) -> None:
    """Change `order`, the latest follow foremost."""
    if state.request.chain is not None:
        return
    for creator in reversed(_followed_now(state)):
        at = _newest_here(state, creator)
        if at is not None and at not in state.order:
            state.order = [*state.order[:SLOT], at, *state.order[SLOT:]][: state.request.limit]


def _followed_now(state: FeedState) -> list[int]:
    """Creator numbers of this session's latest follows, the latest first."""
    since = state.request.now_ms - SESSION_MS
    latest = nlargest(CREATORS, ((at_ms, name) for name, at_ms in state.recent.follows.items() if at_ms > since))
    return [number for _, name in latest if (number := state.snapshot.creator_number(name)) is not None]


def _newest_here(state: FeedState, creator: int) -> int | None:
    """Where in the pool the creator's newest is that was not left out; None if none of the newest is there."""
    rows = state.pool.rows[: state.rankable]
    places = (np.flatnonzero(rows == row) for row in state.snapshot.newest_of(creator, NEWEST_OF_EACH))
    return next((int(at[0]) for at in places if len(at)), None)
