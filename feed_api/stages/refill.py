"""Stage: fill up from the snapshot's own lists, so that a stale or used-up packet (or none) still fills ten pages.

Each source first offers its quota, in the order in which they are named; where that is not enough they are asked to
their depth, in the same order, and at last the whole catalogue, newest first. What is offered passes the same filters.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from feed_api.offer import ENGAGED_CREATOR, EVERGREEN, FRESH, TRENDING, Offer, merged, offer
from feed_api.pool import Pool
from feed_api.stages.filter import barrier, filtered
from feed_api.stages.hydrate import followed_newest, newest
from feed_api.state import FeedState
from pingfeed.core.features import place_name

ENOUGH: Final = 100
"""Candidates that ranking wants to choose from: ten pages of ten."""
STRONGEST: Final = 8
OF_EACH_CREATOR: Final = 8
QUOTA: Final = 40
_CHUNK: Final = 256


def refill(state: FeedState) -> None:
    """Fill `pool` up to ENOUGH, as far as the catalogue goes."""
    wanted = ENOUGH + state.skip
    if len(state.pool) >= wanted:
        return
    barred = barrier(state)
    for offered in _offers(state):
        new = offered.without(state.offered)
        state.offered.update(new.rows.tolist())
        found = filtered(Pool.of(state.snapshot, new), barred)
        state.removed += found.removed
        state.pool = state.pool.plus(found.kept.first(wanted - len(state.pool)))
        if len(state.pool) >= wanted:
            return


def _offers(state: FeedState) -> Iterator[Offer]:
    """The quotas as one offer, then each source's depth in chunks, then the catalogue."""
    sources = [_creators(state), _trending(state)]
    sources += [offer(state.snapshot.listed(name), bit) for name, bit in (("evergreen", EVERGREEN), ("fresh", FRESH))]
    yield merged([source.part(0, QUOTA) for source in sources])
    for source in sources:
        for start in range(QUOTA, len(source.rows), _CHUNK):
            yield source.part(start, start + _CHUNK)
    # Ping numbers rise with time, so the last rows are the newest pings.
    for end in range(len(state.snapshot), 0, -_CHUNK):
        yield offer(np.arange(max(end - _CHUNK, 0), end)[::-1], FRESH)


def _creators(state: FeedState) -> Offer:
    """The newest of followed creators, then of those whom the packet says the user likes most."""
    affinity = state.user.creator_affinity
    strongest = np.argsort(-affinity)[:STRONGEST]
    liked = state.user.creators[strongest[affinity[strongest] > 0]].tolist()
    engaged = newest(state.snapshot, liked, OF_EACH_CREATOR, ENGAGED_CREATOR)
    return merged([followed_newest(state, OF_EACH_CREATOR), engaged])


def _trending(state: FeedState) -> Offer:
    """What is hot in the user's country now; then what was as of the snapshot's tick, there or else anywhere."""
    there = state.snapshot.listed(f"trending:{place_name(state.user.country)}")
    then = there if len(there) else state.snapshot.listed("trending")
    now = state.hot.rows if state.hot else then[:0]
    return merged([offer(now, TRENDING), offer(then, TRENDING)])
