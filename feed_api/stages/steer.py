"""What the user asked for outright: more or less of a creator, topic or ping in this session, interests at sign-up."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np

from feed_api.state import FeedState
from pingfeed.core.features import NO_VALUE
from pingfeed.core.ranker import Float64

STEERED: Final = 1.5
MAX_STEERED: Final = 3.0
INTERESTED: Final = 0.5


def steer(state: FeedState) -> dict[str, Float64]:
    """How far each candidate is shifted (n,), in score deviations, by name; empty without such wishes."""
    shifts: dict[str, Float64] = {}
    if wishes := state.recent.session.steering(state.request.now_ms):
        creators, topics = _counted(state, wishes)
        by_creator = np.array([creators[number] for number in state.snapshot.creator[state.pool.rows].tolist()])
        shifts["steered"] = np.clip(STEERED * (by_creator + _by_topic(state, topics)), -MAX_STEERED, MAX_STEERED)
    if state.interests and not len(state.user.facet_values):
        shifts["interests"] = INTERESTED * np.minimum(_by_topic(state, Counter(state.interests)), 1)
    return shifts


def _counted(state: FeedState, wishes: Mapping[str, bool]) -> tuple[Counter[int], Counter[int]]:
    """Wishes for more minus those for less, by creator and by topic; a ping stands for its creator and its topics."""
    creators, topics, snapshot = Counter[int](), Counter[int](), state.snapshot
    for target, more in wishes.items():
        kind, _, name = target.partition(":")
        sign, row = (1 if more else -1), snapshot.row_of_ping(name) if kind == "ping" else -1
        if row >= 0:
            creators[int(snapshot.creator[row])] += sign
            topics.update({number: sign for number in snapshot.topics[row].tolist() if number != NO_VALUE})
        elif kind == "creator" and (number := snapshot.creator_number(name)) is not None:
            creators[number] += sign
        elif kind == "topic" and name in snapshot.topic_numbers:
            topics[snapshot.topic_numbers[name]] += sign
    return creators, topics


def _by_topic(state: FeedState, topics: Counter[int]) -> Float64:
    """(n,) the sum over each candidate's topics."""
    of_each = state.snapshot.topics[state.pool.rows].tolist()
    return np.array([sum(topics[number] for number in numbers) for numbers in of_each], np.float64)
