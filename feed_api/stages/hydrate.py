"""Turn the packet's ping numbers into snapshot rows, plus pings newer than the packet.

The newest pings of recently followed creators, and those trending in the user's country, are candidates of every feed:
a follow, or the likes of many users, takes effect without a batch run.
"""

import heapq
from collections.abc import Sequence
from typing import Final

import numpy as np

from feed_api.candidates import FOLLOWED, TRENDING, Candidates, Pool, candidates, merge, no_candidates
from feed_api.state import FeedState
from pingfeed.core.features import UInt32, retrieval_values
from pingfeed.core.snapshot import Snapshot

LATEST_FOLLOWS: Final = 16
NEWEST_OF_EACH: Final = 3
HOT_ADDED: Final = 10


def hydrate(state: FeedState) -> None:
    """Fill `pool`: the packet's candidates in order, then the newest of followed creators, then trending pings.

    And `forbidden` and `seen`, from the packet too.
    """
    if state.packet:
        state.forbidden = _rows(state, state.packet.forbidden)
        state.seen = _rows(state, state.packet.seen)
    parts = [_packet(state), followed_newest(state, NEWEST_OF_EACH)]
    if state.hot:
        parts.append(candidates(state.hot.rows[:HOT_ADDED], TRENDING))
    state.pool = Pool.of(state.snapshot, merge(parts))
    state.proposed.update(state.pool.rows.tolist())


def followed_newest(state: FeedState, limit: int) -> Candidates:
    """The newest pings of each recently followed creator, the latest follow first."""
    follows = ((at_ms, creator_id) for creator_id, at_ms in state.recent.follows.items() if at_ms > 0)
    latest = [creator_id for _, creator_id in heapq.nlargest(LATEST_FOLLOWS, follows)]
    numbers = [number for number in map(state.snapshot.creator_number, latest) if number is not None]
    return newest(state.snapshot, numbers, limit, FOLLOWED)


def newest(snapshot: Snapshot, creators: Sequence[int], limit: int, source: int) -> Candidates:
    """The newest pings of each of these creator numbers."""
    if not creators:
        return no_candidates()
    return candidates(np.concatenate([snapshot.newest_of(number, limit) for number in creators]), source)


def _rows(state: FeedState, numbers: UInt32) -> frozenset[int]:
    return frozenset(state.snapshot.rows_of_numbers(numbers).tolist()) if len(numbers) else frozenset()


def _packet(state: FeedState) -> Candidates:
    """The packet's pings that are still in the snapshot: ping numbers outlive snapshots."""
    packet = state.packet
    if packet is None:
        return no_candidates()
    rows = state.snapshot.rows_of_numbers(packet.numbers)
    known = rows >= 0
    return Candidates(rows[known], packet.sources[known], retrieval_values(packet.retrieval[known]))
