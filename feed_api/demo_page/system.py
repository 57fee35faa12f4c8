"""The state of the system for the page's second view: tick, model, catalogue, and trending pings."""

import logging
from typing import Any, Final

import numpy as np

from feed_api.demo_page.cards import Cards
from feed_api.state import Live
from feed_api.wiring import Services
from pingfeed.core.errors import PingfeedError
from pingfeed.core.features import place_name
from pingfeed.core.ranker import TreeRanker

log = logging.getLogger(__name__)

_TRENDING: Final = 8
_MODEL_FIELDS: Final = ("model_id", "created_ms", "trained_requests", "held_out_requests", "metrics", "gate")


async def overview(services: Services, tick_ms: int, live: Live, cards: Cards, country: str | None) -> dict[str, Any]:
    """The response of /demo/system; `country` chooses the trending list, None is all countries.

    `snapshot` is null before the first one is loaded, `model` while the fallback ranker is active, `trending` if the
    store is unavailable or keeps no counters.
    """
    now_ms = services.clock()
    snapshot, ranker = live.snapshot, live.ranker
    manifest = ranker.manifest if isinstance(ranker, TreeRanker) else None
    return {
        "now_ms": now_ms,
        "tick_length_ms": tick_ms,
        "snapshot": {
            "tick": snapshot.tick,
            "tick_ms": snapshot.tick * tick_ms,  # when the tick began
            "pings": len(snapshot),
            "creators": len(np.unique(snapshot.creator)),
        }
        if live.has_snapshot
        else None,
        "model": manifest and {name: getattr(manifest, name) for name in _MODEL_FIELDS},
        "countries": [name for name in map(place_name, np.unique(snapshot.country).tolist()) if name],
        "trending": await _trending(services, cards, country, now_ms),
    }


async def _trending(services: Services, cards: Cards, country: str | None, now_ms: int) -> list[dict[str, Any]] | None:
    """The hottest pings with their decayed engagement; `card` is null until the snapshot knows the ping.

    Read from the store: the feed's cache forgets the lists that no feed requests.
    """
    try:
        top = await services.trending.top(country, _TRENDING, now_ms)
    except PingfeedError as error:
        log.warning("trending is not available for the demo page: %s", error.message)
        return None
    if top is None:
        return None
    known = {card.ping_id: card for card in await cards.of([ping_id for ping_id, _ in top])}
    return [{"ping_id": ping_id, "weight": round(weight, 2), "card": known.get(ping_id)} for ping_id, weight in top]
