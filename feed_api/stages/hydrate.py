"""Stage: the packet's ping numbers as snapshot rows, joined by what no packet can know yet.

The newest pings of the creators whom the user's recent acts follow, and what is hot in the user's country right now,
are candidates of every feed; so a follow, or the likes of many, needs no batch run to be seen.
"""

import heapq
from collections.abc import Sequence
from typing import Final

import numpy as np

from feed_api.offer import FOLLOWED, TRENDING, Offer, merged, nothing, offer
from feed_api.pool import Pool
from feed_api.state import FeedState
from pingfeed.core.snapshot import Snapshot

LATEST_FOLLOWS: Final = 16
NEWEST_OF_EACH: Final = 3
HOT_JOINED: Final = 10


def hydrate(state: FeedState) -> None:
    """Fill `pool`: packet order first, then the newest of the followed, then what is hot."""
    offers = [_packet(state), followed_newest(state, NEWEST_OF_EACH)]
    if state.hot:
        offers.append(offer(state.hot.rows[:HOT_JOINED], TRENDING))
    state.pool = Pool.of(state.snapshot, merged(offers))
    state.offered.update(state.pool.rows.tolist())


def followed_newest(state: FeedState, limit: int) -> Offer:
    """The newest of each creator followed lately, the latest follow first."""
    follows = ((at_ms, creator_id) for creator_id, at_ms in state.recent.follows.items() if at_ms > 0)
    latest = [creator_id for _, creator_id in heapq.nlargest(LATEST_FOLLOWS, follows)]
    numbers = [number for number in map(state.snapshot.creator_number, latest) if number is not None]
    return newest(state.snapshot, numbers, limit, FOLLOWED)


def newest(snapshot: Snapshot, creators: Sequence[int], limit: int, bit: int) -> Offer:
    """The newest of each of these creator numbers, as one source offers them."""
    if not creators:
        return nothing()
    return offer(np.concatenate([snapshot.newest_of(number, limit) for number in creators]), bit)


def _packet(state: FeedState) -> Offer:
    """The packet's pings that the snapshot (still) has: a ping number outlives every snapshot."""
    packet = state.packet
    if packet is None:
        return nothing()
    rows = state.snapshot.rows_of_numbers(packet.numbers)
    here = rows >= 0
    return Offer(rows[here], packet.sources[here], packet.scores[here])
