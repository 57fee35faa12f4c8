"""Explore: with a logged probability, a new ping with few impressions takes a slot in the lower half of the page.

`sample_new` draws it before ranking, so that it is featurized, scored and logged like any other; it does not compete by
score. `insert_new` puts it into its slot after diversifying. With K new pings to draw from, L slots in the lower half
and share s of requests that explore, a drawn ping has probability s / (K L) at its slot, a ranked ping 1 - s / L in the
lower half and 1 above. The displaced ping comes on the next page.
"""

import random

from feed_api.stages.filter import exclusions, readable
from feed_api.state import Exploration, FeedState


def sample_new(state: FeedState) -> None:
    """Fill `exploration`; append the sampled ping, if any, to `pool`."""
    choices = _choices(state)
    if not choices:
        return
    if state.rng.random() >= state.explore_share:
        state.exploration = Exploration(None, len(choices))
        return
    sampled = state.rng.choice(choices)
    state.pool = state.pool.plus(state.live.new_pings.take([sampled]))
    state.exploration = Exploration(len(state.pool) - 1, len(choices))


def _choices(state: FeedState) -> list[int]:
    """The new pings that the user may get, can read, and does not have among the ranked candidates."""
    new_pings, ranked = state.live.new_pings, set(state.pool.ping_ids)
    if state.packet_only or not len(new_pings):
        return []
    reasons, can_read = exclusions(state).reasons(new_pings), readable(state, new_pings.rows).tolist()
    return [
        at
        for at, ping_id in enumerate(new_pings.ping_ids)
        if can_read[at] and reasons[at] is None and ping_id not in ranked
    ]


def insert_new(state: FeedState) -> None:
    """Put the sampled ping into a slot of `order`; fill `propensities`."""
    lower = range((len(state.order) + 1) // 2, len(state.order))
    chance = state.explore_share / len(lower) if lower and state.exploration.choices else 0.0
    state.propensities = [1.0 - chance * (slot in lower) for slot in range(len(state.order))]
    if state.exploration.at is None or not lower:
        return
    slot = state.rng.choice(lower)
    state.order[slot] = state.exploration.at
    state.propensities[slot] = chance / state.exploration.choices
    state.explored_slot = slot


def rng_of(request_id: str) -> random.Random:
    """A request's random numbers, which can be replayed from its id."""
    return random.Random(request_id)  # noqa: S311 - not used for security
