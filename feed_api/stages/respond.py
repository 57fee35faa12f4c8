"""Build the response: items with position and reason, and the cursor of the next page."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import UNSET

from feed_api.cursor import write_cursor
from feed_api.schema import Explain, Feed, Item, Reason, RemovedItem
from feed_api.state import PARTS, Chain, FeedState
from pingfeed.core.features import SOURCES, Float32

MAX_POSITION: Final = 10_000
"""The last position that an event may have; a chain of pages ends before it."""
_BY_SOURCE: Final[Sequence[tuple[str, Reason]]] = (
    ("followed", "followed_creator"),
    ("engaged_creator", "engaged_creator"),
    ("personalize", "personalize"),
    ("collaborative", "similar"),
    ("topic", "topic"),
    ("trending", "trending"),
    ("evergreen", "evergreen"),
    ("fresh", "new"),
)
"""An item's reason is that of its most personal source."""


def _reason(bits: int) -> Reason:
    return next((reason for source, reason in _BY_SOURCE if bits >> SOURCES.index(source) & 1), "similar")


_REASONS: Final = tuple(_reason(bits) for bits in range(256))


def respond(state: FeedState, tick_ms: int) -> Feed:
    """The response; `tick_ms` is the length of a tick."""
    request, live = state.request, state.live
    return Feed(
        request_id=request.request_id,
        user_id=request.user_id,
        model_id=live.ranker.model_id if state.scores is not None else None,
        tick_ms=live.snapshot.tick * tick_ms if live.has_snapshot else None,
        items=_items(state),
        next_cursor=_next_cursor(state),
        degraded=[part for part in PARTS if part in state.degraded],
        removed=_removed(state) if request.explain else UNSET,
    )


def _items(state: FeedState) -> list[Item]:
    pool, first = state.pool, state.request.position
    sources = pool.sources[state.order].tolist()
    return [
        Item(
            pool.ping_ids[at],
            pool.creator_ids[at],
            first + slot,
            _item_reason(state, slot, sources[slot]),
            _explain(state, slot) if state.request.explain else UNSET,
        )
        for slot, at in enumerate(state.order)
    ]


def _item_reason(state: FeedState, slot: int, bits: int) -> Reason:
    if slot == state.explored_slot:
        return "exploration"
    return "again" if state.first_again is not None and state.order[slot] >= state.first_again else _REASONS[bits]


def _removed(state: FeedState) -> list[RemovedItem]:
    """The candidates that were filtered out and did not come back to fill the page."""
    shown = {state.pool.ping_ids[at] for at in state.order}
    return [RemovedItem(r.ping_id, r.reason) for r in state.removed if r.ping_id not in shown]


def _next_cursor(state: FeedState) -> str | None:
    """None on the last page."""
    position = state.request.position + len(state.order)
    if not state.more or position + state.request.limit > MAX_POSITION:
        return None
    return write_cursor(Chain(state.request.began_ms, position), state.request.user_id)


def _explain(state: FeedState, slot: int) -> Explain:
    at = state.order[slot]
    bits = int(state.pool.sources[at])
    return Explain(
        score=None if state.scores is None else float(state.scores[at]),
        boosts={name: float(values[at]) for name, values in state.boosts.items()},
        diversity=state.diversity.get(at, {}),
        sources=[source for bit, source in enumerate(SOURCES) if bits >> bit & 1],
        propensity=state.propensities[slot],
        features={} if state.matrix is None else _by_name(state.features.names, state.matrix[at]),
    )


def _by_name(names: Sequence[str], row: Float32) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in zip(names, row.tolist(), strict=True)}
