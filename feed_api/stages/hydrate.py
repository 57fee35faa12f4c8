"""Turn the packet's ping numbers into snapshot rows, plus pings newer than the packet.

The newest pings of recently followed creators, and those trending in the user's country, are candidates of every feed:
a follow, or the likes of many users, takes effect without a batch run. So does an unfollow: candidates of the packet
lose that source.
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
        state.forbidden = _still_forbidden(state, _rows(state, state.packet.forbidden))
        state.seen = _rows(state, state.packet.seen)
    state.latest_follows = _latest_follows(state)
    parts = [_packet(state)]
    state.packet_only = "signals" in state.degraded and len(parts[0].rows) > 0
    if not state.packet_only:
        parts.append(followed_newest(state, NEWEST_OF_EACH))
        if state.hot:
            parts.append(candidates(state.hot.rows[:HOT_ADDED], TRENDING))
    state.pool = Pool.of(state.snapshot, merge(parts))
    state.proposed.update(state.pool.rows.tolist())


def followed_newest(state: FeedState, limit: int) -> Candidates:
    """The newest pings of each recently followed creator, the latest follow first."""
    creators = (state.snapshot.creator_number(creator_id) for _, creator_id in state.latest_follows)
    numbers = [number for number in creators if number is not None]
    return newest(state.snapshot, numbers, limit, FOLLOWED)


def _latest_follows(state: FeedState) -> list[tuple[int, str]]:
    follows = ((at_ms, creator_id) for creator_id, at_ms in state.recent.follows.items() if at_ms > 0)
    return heapq.nlargest(LATEST_FOLLOWS, follows)


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
    found = Candidates(rows[known], packet.sources[known], retrieval_values(packet.retrieval[known]))
    return _without_unfollowed(state, found) if state.recent.follows else found


def _without_unfollowed(state: FeedState, found: Candidates) -> Candidates:
    """Pings of creators whom the user has unfollowed lose the source `followed`, and leave if they have no other."""
    followed = np.flatnonzero(found.sources & FOLLOWED)
    if not len(followed):
        return found
    creators, follows = state.snapshot.creator_ids(found.rows[followed]), state.recent.follows
    left = followed[[follows.get(creator, 0) < 0 for creator in creators]]
    sources = found.sources.copy()
    sources[left] &= np.uint8(0xFF ^ FOLLOWED)
    return found._replace(sources=sources).take((sources != 0) | (found.sources == 0))


def _still_forbidden(state: FeedState, rows: frozenset[int]) -> frozenset[int]:
    """Rows that the packet forbids, but for those of which the user took something back since."""
    snapshot, freed = state.snapshot, state.recent.freed

    def is_freed(row: int) -> bool:
        creator = snapshot.creator_id(row)
        topics = (f"mute:topic:{snapshot.topic_names.get(number)}" for number in snapshot.topics[row].tolist())
        targets = {f"hide:{snapshot.ping_id(row)}", f"block:{creator}", f"mute:creator:{creator}", *topics}
        return any(target in freed for target in targets)

    return frozenset(row for row in rows if not is_freed(row)) if freed else rows
