"""Pin just-followed creators: a follow shows in the very next feed, whatever its score.

If the newest ping of a creator that the user followed in this session is not on a first page, it takes a slot near the
top, even if the model ranks it lower: the user has just asked for it. The displaced ping comes on the next page.
"""

from typing import Final

import numpy as np

from feed_api.stages.hydrate import NEWEST_OF_EACH
from feed_api.state import FeedState
from pingfeed.core.signals import SESSION_MS

CREATORS: Final = 3
"""Only the latest follows are pinned, so that many follows at once do not fill the page."""
SLOT: Final = 2


def pin_followed(state: FeedState) -> None:
    """Insert the pins into `order`, the latest follow first."""
    if state.request.chain is not None:
        return
    for creator in reversed(_just_followed(state)):
        at = _newest_in_pool(state, creator)
        if at is not None and at not in state.order:
            state.order = [*state.order[:SLOT], at, *state.order[SLOT:]][: state.request.limit]


def _just_followed(state: FeedState) -> list[int]:
    """Creator numbers of this session's latest follows, the latest first."""
    since = state.request.now_ms - SESSION_MS
    latest = [state.snapshot.creator_number(name) for at_ms, name in state.latest_follows[:CREATORS] if at_ms > since]
    return [number for number in latest if number is not None]


def _newest_in_pool(state: FeedState, creator: int) -> int | None:
    """Pool position of the creator's newest ping that was not removed; None if none of the newest is there."""
    rows = state.pool.rows[: state.rankable]
    places = (np.flatnonzero(rows == row) for row in state.snapshot.newest_of(creator, NEWEST_OF_EACH))
    return next((int(at[0]) for at in places if len(at)), None)
