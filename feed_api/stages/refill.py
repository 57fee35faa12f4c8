"""Refill from the snapshot's own lists, so that a stale, used-up or missing packet still fills ten pages.

First each source proposes its quota, then the rest of its list, in the same order; finally the whole catalogue, newest
first. Every proposal passes the same filter.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from feed_api.candidates import ENGAGED_CREATOR, EVERGREEN, FRESH, TRENDING, Candidates, Pool, candidates, merge
from feed_api.stages.filter import exclusions
from feed_api.stages.hydrate import followed_newest, newest
from feed_api.state import FeedState
from pingfeed.core.features import place_name

ENOUGH: Final = 100
"""Candidates to rank: ten pages of ten."""
STRONGEST: Final = 8
OF_EACH_CREATOR: Final = 8
QUOTA: Final = 40
_CHUNK: Final = 256


def refill(state: FeedState) -> None:
    """Fill `pool` up to ENOUGH (a cheap feed: the page and one more), if the catalogue has as many."""
    wanted = state.skip + (state.request.limit + 1 if state.request.cheap else ENOUGH)
    if len(state.pool) >= wanted:
        return
    excluded = exclusions(state)
    for proposal in _proposals(state):
        new = proposal.without(state.proposed)
        state.proposed.update(new.rows.tolist())
        kept, removed = excluded.split(Pool.of(state.snapshot, new))
        state.removed += removed
        state.pool = state.pool.plus(kept.first(wanted - len(state.pool)))
        if len(state.pool) >= wanted:
            return


def _proposals(state: FeedState) -> Iterator[Candidates]:
    """All quotas at once, then the rest of each source in chunks, then the catalogue."""
    lists = (("evergreen", EVERGREEN), ("fresh", FRESH))
    sources = [_creators(state), _trending(state)]
    sources += [candidates(state.snapshot.listed(name), source) for name, source in lists]
    yield merge([source.part(0, QUOTA) for source in sources])
    for source in sources:
        for start in range(QUOTA, len(source.rows), _CHUNK):
            yield source.part(start, start + _CHUNK)
    # Ping numbers grow with time: the last rows are the newest pings.
    for end in range(len(state.snapshot), 0, -_CHUNK):
        yield candidates(np.arange(max(end - _CHUNK, 0), end)[::-1], FRESH)


def _creators(state: FeedState) -> Candidates:
    """The newest pings of followed creators, then of the creators with the strongest affinity in the packet."""
    affinity = state.user.creator_affinity
    strongest = np.argsort(-affinity)[:STRONGEST]
    liked = state.user.creators[strongest[affinity[strongest] > 0]].tolist()
    engaged = newest(state.snapshot, liked, OF_EACH_CREATOR, ENGAGED_CREATOR)
    return merge([followed_newest(state, OF_EACH_CREATOR), engaged])


def _trending(state: FeedState) -> Candidates:
    """Trending now in the user's country, then as of the snapshot's tick (there, else overall)."""
    in_country = state.snapshot.listed(f"trending:{place_name(state.user.country)}")
    as_of_tick = in_country if len(in_country) else state.snapshot.listed("trending")
    now = state.hot.rows if state.hot else as_of_tick[:0]
    return merge([candidates(now, TRENDING), candidates(as_of_tick, TRENDING)])
