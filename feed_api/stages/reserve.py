"""Keep a reserve for a page that would be short, so that a feed does not end before the catalogue does.

First unseen pings in languages that the user does not read. Once nothing unseen is left, pings that the user has seen
come again: those in readable languages first, the oldest seen first, those seen at an unknown time last. What is
hidden, blocked, muted, deleted or the user's own never comes back, nor what earlier pages of the chain served: a chain
shows pings again only while the session remembers all of its pages.
"""

import numpy as np

from feed_api.candidates import Pool, candidates
from feed_api.stages.filter import readable, served_before, suitable
from feed_api.stages.refill import unseen
from feed_api.state import FeedState
from pingfeed.core.signals import MAX_SERVED, seen_key


def reserve(state: FeedState) -> None:
    """Append to `pool` what the page lacks, and one more, which tells that there is a next page."""
    wanted = state.request.limit + 1 + state.skip - len(state.pool)
    if wanted <= 0:
        return
    others = unseen(state, wanted - len(state.foreign), lambda found: found.take(~suitable(state, found)))
    foreign = state.foreign.plus(others).first(wanted)
    again = _again(state, wanted - len(foreign))
    state.reserved = len(foreign) + len(again)
    state.first_again = len(state.pool) + len(foreign)
    state.pool = state.pool.plus(foreign).plus(again)


def _again(state: FeedState, wanted: int) -> Pool:
    pages, seen_ms = served_before(state), state.recent.session.seen
    complete = sum(map(len, pages)) >= state.request.position
    served = set().union(*pages)
    seen = [r.ping_id for r in state.removed if r.reason == "seen" and r.ping_id not in served] if complete else []
    rows = state.snapshot.rows_of_pings(seen)
    times = [seen_ms.get(seen_key(ping_id), state.request.now_ms) for ping_id in seen]
    order = np.lexsort((np.array(times, np.int64), ~readable(state, rows)))
    last_page = len(pages) >= MAX_SERVED
    return Pool.of(state.snapshot, candidates(rows[order[: max(0, wanted - last_page)]], 0))
