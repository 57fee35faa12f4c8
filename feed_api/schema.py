"""The response of GET /get-feed; its OpenAPI is derived from these structs."""

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
    "again",
]


class Explain(msgspec.Struct, frozen=True):
    """Why an item has its place; for operators."""

    score: float | None
    """The ranker's score, before boosts; null if the ranker did not run."""
    boosts: dict[str, float]
    """Added to the score: by real-time feature, `steered` by more and less, `interests` chosen at sign-up."""
    diversity: dict[str, float]
    """Added after that for creators and topics that are higher on this page (`page`), or that lately served feeds had
    (`recent_feeds`): it varies from request to request. Empty for an item that was pinned, explored or kept in reserve,
    and without scores."""
    sources: list[str]
    """The sources that proposed the ping; none if it is shown `again`."""
    propensity: float
    """The probability of this ping at this slot; 1 if deterministic."""
    features: dict[str, float | None]
    """The feature vector; null where a value is unknown."""


class Item(msgspec.Struct, frozen=True):
    """One ping of the page."""

    ping_id: str
    creator_id: str
    position: int
    reason: Reason
    """Why it is here; `again`: the user has seen everything else, so pings seen before come again, oldest first."""
    explain: Explain | UnsetType = UNSET


class RemovedItem(msgspec.Struct, frozen=True):
    """A candidate that was filtered out; for operators."""

    ping_id: str
    reason: RemovedReason


class Feed(msgspec.Struct, frozen=True):
    """One page of a user's feed."""

    request_id: str
    """Send it back with the events about these pings."""
    user_id: str
    model_id: str | None
    """The model that ranked; null for the fallback ranker."""
    tick_ms: int | None
    """Begin of the tick of the features, epoch milliseconds; null without a snapshot."""
    items: list[Item]
    next_cursor: str | None
    """Pass it to get the next page; null on the last."""
    degraded: list[Part]
    """The parts that were unavailable for this feed."""
    removed: list[RemovedItem] | UnsetType = UNSET
