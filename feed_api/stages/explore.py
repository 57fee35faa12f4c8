"""Stage, twice: a new ping that few have seen takes a slot of the page's lower half, by a chance that is logged.

Before ranking `nominate` draws it, so that it is scored and logged like any other; it does not compete by its score.
After diversifying `place` puts it into its slot. So with K newcomers to draw from, L slots in the lower half and the
share s of requests that explore, the probability of a drawn ping at its slot is s / (K L), that of a ranked ping at a
slot of the lower half 1 - s / L, of one above it 1. The displaced ping comes on the next page.
"""

import random

from feed_api.stages.filter import barrier
from feed_api.state import Explorer, FeedState


def nominate(state: FeedState) -> None:
    """Fill `explorer`; append the drawn newcomer, if any, to `pool` as its last."""
    choices = _choices(state)
    if not choices:
        return
    if state.dice.random() >= state.explore_share:
        state.explorer = Explorer(None, len(choices))
        return
    drawn = state.dice.choice(choices)
    state.pool = state.pool.plus(state.live.newcomers.take([drawn]))
    state.explorer = Explorer(len(state.pool) - 1, len(choices))


def _choices(state: FeedState) -> list[int]:
    """Which newcomers the user may get, can read, and has not among the candidates that are ranked."""
    newcomers, barred = state.live.newcomers, barrier(state)
    languages = state.live.newcomers_language
    readable = {0, state.user.language} if state.user.language else set(languages)
    ranked = set(state.pool.ping_ids)
    return [
        at
        for at, (ping_id, creator_id) in enumerate(zip(newcomers.ping_ids, newcomers.creator_ids, strict=True))
        if languages[at] in readable and ping_id not in ranked and barred.reason(ping_id, creator_id) is None
    ]


def place(state: FeedState) -> None:
    """Put the drawn newcomer into its slot of `order`; fill `propensities`."""
    lower = range((len(state.order) + 1) // 2, len(state.order))
    chance = state.explore_share / len(lower) if lower and state.explorer.choices else 0.0
    state.propensities = [1.0 - chance * (slot in lower) for slot in range(len(state.order))]
    if state.explorer.at is None or not lower:
        return
    slot = state.dice.choice(lower)
    state.order[slot] = state.explorer.at
    state.propensities[slot] = chance / state.explorer.choices
    state.explored_slot = slot


def dice_of(request_id: str) -> random.Random:
    """A request's randomness: whoever knows its id can replay it."""
    return random.Random(request_id)  # noqa: S311 - it decides what is shown, it guards nothing
