"""Build the candidates' feature vectors, with the same `assemble` as training and the current real-time values."""

import logging
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feed_api.state import REALTIME_AT, FeedState
from pingfeed.core.clock import HOUR_MS
from pingfeed.core.features import NO_VALUE, REALTIME, Float32, UInt32, UInt64, assemble
from pingfeed.core.packet import user_block
from pingfeed.core.snapshot import TOPICS, Rows

log = logging.getLogger(__name__)

_WORD: Final = 64


def featurize(state: FeedState) -> None:
    """Fill `realtime` (n, len(REALTIME)) and `matrix` (n, F), one row per candidate.

    Neither for a cheap feed nor past the deadline.
    """
    if state.request.cheap:
        return
    if not state.deadline.left_s():
        state.degraded.add("deadline")
        return
    state.realtime = _realtime(state)
    try:
        state.matrix = _matrix(state, state.realtime)
    except ValueError as error:  # blocks of incompatible shapes
        log.error("could not featurize the candidates: %s", error)
        state.degraded.add("model")


def _matrix(state: FeedState, realtime: Float32) -> Float32:
    n = len(state.pool)
    return assemble(
        state.features,
        state.snapshot.block(state.pool.rows),
        user_block(state.user, n),
        np.full(n, hour_of(state.request.now_ms), np.float32),
        state.pool.sources,
        state.pool.retrieval,
        realtime,
    )


def hour_of(now_ms: int) -> int:
    """The UTC hour of a request's time; offline recomputation derives it from the logged time in the same way."""
    return now_ms // HOUR_MS % 24


def _realtime(state: FeedState) -> Float32:
    """The real-time block, NaN where its source (the signals, or the country's trending list) is missing."""
    block = np.full((len(state.pool), len(REALTIME)), np.nan, np.float32)
    if state.hot is not None:
        block[:, REALTIME_AT["trending_now"]] = state.hot.shares(state.pool.rows)
    if state.signals is not None:
        follows = state.recent.follows
        block[:, REALTIME_AT["just_followed"]] = [follows.get(creator, 0) > 0 for creator in state.pool.creator_ids]
        session = state.snapshot.rows_of_pings(state.recent.session.interactions(state.request.now_ms))
        session = session[session >= 0]
        block[:, REALTIME_AT["session_creator"]] = _by_same_creator(state, session)
        block[:, REALTIME_AT["session_topic"]] = _sharing_topic(state, session)
    return block


def _by_same_creator(state: FeedState, session: Rows) -> Float32:
    """(n,) the number of the session's engagements with the candidate's creator."""
    creator = state.snapshot.creator
    counts: Float32 = (creator[state.pool.rows][:, None] == creator[session]).sum(axis=1, dtype=np.float32)
    return counts


def _sharing_topic(state: FeedState, session: Rows) -> Float32:
    """(n,) the number of the session's engagements with pings of a common topic; NaN if topics are not a facet."""
    snapshot = state.snapshot
    if TOPICS not in snapshot.facets:
        return np.full(len(state.pool), np.nan, np.float32)
    topics = snapshot.topics
    counts: Float32 = overlap(topics[state.pool.rows], topics[session]).sum(axis=1, dtype=np.float32)
    return counts


def overlap(left: UInt32, right: UInt32) -> NDArray[np.bool_]:
    """(n, m): whether ping i of `left` (n, width) and ping j of `right` (m, width) share a facet value.

    Each ping's values become bits of a few words, so that a pair costs one AND per word. A matrix product would start
    the threads of the linear algebra library, which a server does not want.
    """
    values = np.unique(right)
    values = values[values != NO_VALUE]
    if not len(values):
        return np.zeros((len(left), len(right)), np.bool_)
    mine, theirs = _bits(left, values), _bits(right, values)
    shared = mine[:, :1] & theirs[:, 0]
    for word in range(1, mine.shape[1]):
        shared |= mine[:, word : word + 1] & theirs[:, word]
    share_some: NDArray[np.bool_] = shared != 0
    return share_some


def _bits(facets: UInt32, values: UInt32) -> UInt64:
    """(n, words): bit k is set where the ping has `values[k]`; `values` is ascending."""
    at = np.minimum(np.searchsorted(values, facets), len(values) - 1)
    ping, place = np.nonzero(values[at] == facets)
    members = np.zeros((len(facets), -(-len(values) // _WORD) * _WORD), np.bool_)
    members[ping, at[ping, place]] = True
    return np.packbits(members, axis=1).view(np.uint64)
