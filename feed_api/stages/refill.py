"""Refill from the snapshot's own lists, so that a stale, used-up or missing packet still fills ten pages.

First each source proposes its quota, then the rest of its list, in the same order; finally the whole catalogue, newest
first. Every proposal passes the same filter. Pings in languages that the user does not read wait for the reserve.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feed_api.candidates import (
    ENGAGED_CREATOR,
    EVERGREEN,
    FRESH,
    TOPIC,
    TRENDING,
    Candidates,
    Pool,
    candidates,
    merge,
    no_candidates,
)
from feed_api.stages.filter import exclusions, suitable
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
    wanted = state.skip + (state.request.limit + 1 if state.request.cheap else ENOUGH) - len(state.pool)
    state.pool = state.pool.plus(unseen(state, wanted, lambda found: found.take(suitable(state, found))))


def unseen(state: FeedState, wanted: int, part: Callable[[Candidates], Candidates]) -> Pool:
    """Up to `wanted` candidates of this part of the catalogue that were not proposed before and are not excluded."""
    found = Pool.of(state.snapshot, no_candidates())
    if wanted <= 0 or state.packet_only:
        return found
    excluded = exclusions(state)
    for proposal in _proposals(state, part):
        new = proposal.without(state.proposed)
        state.proposed.update(new.rows.tolist())
        kept, removed = excluded.split(Pool.of(state.snapshot, new))
        state.removed += removed
        found = found.plus(kept.first(wanted - len(found)))
        # A user who excludes most of the catalogue must not take the time of the others.
        if len(found) >= wanted or not state.deadline.left_s():
            break
    return found


def _proposals(state: FeedState, part: Callable[[Candidates], Candidates]) -> Iterator[Candidates]:
    """All quotas at once, then the rest of each source in chunks, then the catalogue."""
    lists = (("evergreen", EVERGREEN), ("fresh", FRESH))
    sources = [_creators(state), _interests(state), _trending(state)]
    sources += [candidates(state.snapshot.listed(name), source) for name, source in lists]
    sources = list(map(part, sources))
    yield merge([source.part(0, QUOTA) for source in sources])
    for source in sources:
        for start in range(QUOTA, len(source.rows), _CHUNK):
            yield source.part(start, start + _CHUNK)
    # Ping numbers grow with time: the last rows are the newest pings.
    catalogue = part(candidates(np.arange(len(state.snapshot))[::-1], FRESH))
    for start in range(0, len(catalogue.rows), _CHUNK):
        yield catalogue.part(start, start + _CHUNK)


def _creators(state: FeedState) -> Candidates:
    """The newest pings of followed creators, then of the creators with the strongest affinity in the packet."""
    affinity = state.user.creator_affinity
    strongest = np.argsort(-affinity)[:STRONGEST]
    liked = state.user.creators[strongest[affinity[strongest] > 0]].tolist()
    engaged = newest(state.snapshot, liked, OF_EACH_CREATOR, ENGAGED_CREATOR)
    return merge([followed_newest(state, OF_EACH_CREATOR), engaged])


def _interests(state: FeedState) -> Candidates:
    """Listed pings of the topics that the user chose at sign-up."""
    if not state.interests:
        return no_candidates()
    lists = [_trending(state).rows, state.snapshot.listed("evergreen"), state.snapshot.listed("fresh")]
    listed = merge([candidates(np.concatenate(lists), TOPIC)])
    chosen: NDArray[np.bool_] = np.isin(state.snapshot.topics[listed.rows], state.interests).max(axis=1)
    return listed.take(chosen)


def _trending(state: FeedState) -> Candidates:
    """Trending now in the user's country, then as of the snapshot's tick (there, else overall)."""
    in_country = state.snapshot.listed(f"trending:{place_name(state.user.country)}")
    as_of_tick = in_country if len(in_country) else state.snapshot.listed("trending")
    now = state.hot.rows if state.hot else as_of_tick[:0]
    return merge([candidates(now, TRENDING), candidates(as_of_tick, TRENDING)])
