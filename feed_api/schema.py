"""The body of GET /get-feed: the structs that encode it and that its OpenAPI is derived from."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from feed_api.state import Part
from feed_api.state import Reason as RemovedReason

Reason = Literal[
    "followed_creator",
    "engaged_creator",
    "similar",
    "topic",
    "trending",
    "evergreen",
    "new",
    "exploration",
    "personalize",
]


class Explain(msgspec.Struct, frozen=True):
    """Why an item is where it is; for operators."""

    score: float | None
    """The ranker's, before boosts; null where nothing was scored."""
    boosts: dict[str, float]
    """What was added to the score, by real-time feature."""
    sources: list[str]
    """The sources that offered the ping."""
    propensity: float
    """The probability of this ping at this slot; 1 where chance had no part in it."""
    features: dict[str, float | None]
    """The vector that was scored, null where unknown."""


class Item(msgspec.Struct, frozen=True):
    """One ping of the page."""

    ping_id: str
    creator_id: str
    position: int
    reason: Reason
    explain: Explain | UnsetType = UNSET


class RemovedItem(msgspec.Struct, frozen=True):
    """A candidate that was left out; for operators."""

    ping_id: str
    reason: RemovedReason


class Feed(msgspec.Struct, frozen=True):
    """One page of a user's feed."""

    request_id: str
    """Send it back with the events about these pings."""
    user_id: str
    model_id: str | None
    """The model that ranked; null while the default ranker does."""
    tick_ms: int | None
    """When the tick of the features began, epoch milliseconds; null without a snapshot."""
    items: list[Item]
    next_cursor: str | None
    """Ask with it for the next page; null on the last."""
    degraded: list[Part]
    """What this feed was made without."""
    removed: list[RemovedItem] | UnsetType = UNSET
