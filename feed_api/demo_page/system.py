"""How the system is, for the page's second view: tick, model, catalogue, and what is trending."""

import logging
from typing import Final

import msgspec
import numpy as np

from feed_api.demo_page.cards import Card, Cards
from feed_api.state import Live
from feed_api.wiring import Services
from pingfeed.core.errors import PingfeedError
from pingfeed.core.features import place_name
from pingfeed.core.ranker import TreeRanker
from pingfeed.ports import Trending
from pingfeed.settings import Settings

log = logging.getLogger(__name__)

_SHOWN: Final = 8


class LiveSnapshot(msgspec.Struct, frozen=True):
    """The snapshot that serves."""

    tick: int
    tick_ms: int
    """When its tick began, epoch milliseconds."""
    pings: int
    creators: int


class LiveModel(msgspec.Struct, frozen=True):
    """The model that ranks, from its manifest."""

    model_id: str
    created_ms: int
    trained_requests: int
    held_out_requests: int
    metrics: dict[str, float]
    gate: str


class HotPing(msgspec.Struct, frozen=True):
    """A ping of the hot list; `card` is null while the snapshot does not know it yet."""

    ping_id: str
    weight: float
    """Decayed engagement; a like of this moment weighs 3."""
    card: Card | None


class Overview(msgspec.Struct, frozen=True):
    """The answer of /demo/system."""

    now_ms: int
    tick_length_ms: int
    snapshot: LiveSnapshot | None
    model: LiveModel | None
    countries: list[str]
    """Of the pings in the snapshot."""
    trending: list[HotPing] | None
    """Hottest first; null where the store did not answer, or keeps no counters."""


async def overview(services: Services, settings: Settings, live: Live, cards: Cards, country: str | None) -> Overview:
    """The system as of now; `country` chooses the hot list, None is everywhere."""
    now_ms = services.clock()
    codes = np.unique(live.snapshot.country).tolist()
    return Overview(
        now_ms=now_ms,
        tick_length_ms=settings.tick_ms,
        snapshot=_snapshot(live, settings.tick_ms) if live.has_snapshot else None,
        model=_model(live),
        countries=[name for name in map(place_name, codes) if name],
        trending=await _trending(services.trending, cards, country, now_ms),
    )


def _snapshot(live: Live, tick_ms: int) -> LiveSnapshot:
    found = live.snapshot
    return LiveSnapshot(found.tick, found.tick * tick_ms, len(found), len(np.unique(found.creator)))


def _model(live: Live) -> LiveModel | None:
    if not isinstance(live.ranker, TreeRanker):
        return None
    told = live.ranker.manifest
    return LiveModel(
        model_id=told.model_id,
        created_ms=told.created_ms,
        trained_requests=told.trained_requests,
        held_out_requests=told.held_out_requests,
        metrics=told.metrics,
        gate=told.gate,
    )


async def _trending(trending: Trending, cards: Cards, country: str | None, now_ms: int) -> list[HotPing] | None:
    """Read from the store itself, not from the board: the board drops its reading of lists that no feed asks for."""
    try:
        top = await trending.top(country, _SHOWN, now_ms)
    except PingfeedError as error:
        log.warning("trending was not read for the page: %s", error.message)
        return None
    if top is None:
        return None
    known = {card.ping_id: card for card in await cards.of([ping_id for ping_id, _ in top])}
    return [HotPing(ping_id, round(weight, 2), known.get(ping_id)) for ping_id, weight in top]
