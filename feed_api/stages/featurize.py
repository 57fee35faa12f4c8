"""Stage: the vectors of the candidates, by the same `assemble` as training, with this moment's real-time values."""

import logging
from typing import Final

import numpy as np

from feed_api.stages.overlap import overlap
from feed_api.state import REALTIME_AT, FeedState
from pingfeed.core.clock import HOUR_MS
from pingfeed.core.features import REALTIME, Float32, assemble
from pingfeed.core.packet import user_block
from pingfeed.core.snapshot import Rows

log = logging.getLogger(__name__)

TOPICS: Final = "topics"


def describe(state: FeedState) -> None:
    """Fill `realtime` (n, len(REALTIME)) and `matrix` (n, F), a row for each candidate; neither where time is over."""
    if not state.deadline.left_s():
        state.degraded.add("deadline")
        return
    state.realtime = _realtime(state)
    try:
        state.matrix = _matrix(state, state.realtime)
    except ValueError as error:  # blocks that do not fit each other
        log.error("candidates were not described: %s", error)
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
    """The UTC hour of a request's instant; offline recomputation gets it from the logged time in the same way."""
    return now_ms // HOUR_MS % 24


def _realtime(state: FeedState) -> Float32:
    """The real-time block, NaN where its source is missing: the signals, or the country's hot list."""
    block = np.full((len(state.pool), len(REALTIME)), np.nan, np.float32)
    if state.hot is not None:
        block[:, REALTIME_AT["trending_now"]] = state.hot.shares(state.pool.rows)
    if state.signals is not None:
        following = state.recent.following()
        block[:, REALTIME_AT["just_followed"]] = [creator in following for creator in state.pool.creator_ids]
        session = state.snapshot.rows_of_pings(state.recent.session(state.request.now_ms))
        session = session[session >= 0]
        block[:, REALTIME_AT["session_creator"]] = _by_same_creator(state, session)
        block[:, REALTIME_AT["session_topic"]] = _sharing_topic(state, session)
    return block


def _by_same_creator(state: FeedState, session: Rows) -> Float32:
    """(n,) how many of the session's engagements were with the candidate's creator."""
    creator = state.snapshot.creator
    counts: Float32 = (creator[state.pool.rows][:, None] == creator[session]).sum(axis=1, dtype=np.float32)
    return counts


def _sharing_topic(state: FeedState, session: Rows) -> Float32:
    """(n,) how many of the session's engagements were with a ping that shares a topic; NaN if topics are no facet."""
    snapshot = state.snapshot
    if TOPICS not in snapshot.facets:
        return np.full(len(state.pool), np.nan, np.float32)
    topics = snapshot.facet_values[:, snapshot.facets.index(TOPICS)]
    counts: Float32 = overlap(topics[state.pool.rows], topics[session]).sum(axis=1, dtype=np.float32)
    return counts
