"""What is hot right now: engagements, and the decay of their weights."""

import math
from typing import Final

import msgspec

from pingfeed.core.clock import HOUR_MS


class Engagement(msgspec.Struct, frozen=True, gc=False):
    """One engagement that may count towards trending; a backend counts (user, ping, event type) once a day."""

    user_id: str
    ping_id: str
    event_type: str
    country: str | None
    at_ms: int


TRENDING_WEIGHTS: Final = {"view": 1.0, "like": 3.0, "comment": 4.0, "share": 5.0}
_HALF_LIFE_MS: Final = HOUR_MS
DECAY_RATE: Final = math.log(2) / _HALF_LIFE_MS
MAX_LANDMARK_AGE_MS: Final = 200 * _HALF_LIFE_MS
"""Past this a weight nears what a double can hold beside a fresh one: move the landmark (2 ** 200)."""


def forward_weight(event_type: str, at_ms: int, landmark_ms: int) -> float:
    """`weight * exp(rate * (t - landmark))`: forward decay, Cormode et al., ICDE 2009. Times before count as then."""
    return TRENDING_WEIGHTS[event_type] * math.exp(DECAY_RATE * (at_ms - landmark_ms))


def decay_between(from_ms: int, to_ms: int) -> float:
    """The factor that brings a forward weight with its landmark at `from_ms` to one at `to_ms`."""
    return math.exp(-DECAY_RATE * (to_ms - from_ms))
