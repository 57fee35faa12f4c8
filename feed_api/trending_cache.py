"""Trending lists in memory: the overall list and those of recently requested countries, refreshed every few seconds.

No request waits for the trending store. `hot` returns None for a country whose first list has not arrived yet (its
first request asks for it), for a stale list, and always where the store keeps no counters; the snapshot's own list is
used instead.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

import numpy as np

from feed_api.metrics import FeedMetrics
from pingfeed.core.clock import Clock
from pingfeed.core.features import Float32
from pingfeed.core.snapshot import Rows, Snapshot
from pingfeed.ports import Trending

log = logging.getLogger(__name__)

TOP: Final = 200
_IDLE_MS: Final = 10 * 60_000
"""A country without requests for this long is no longer refreshed."""
_STALE_MS: Final = 5 * 60_000
MAX_COUNTRIES: Final = 250
"""At once; a caller may ask for any country, and each costs a read every few seconds."""


MIN_WEIGHT: Final = 6.0
"""Two fresh likes: one user alone cannot make a ping a candidate for a whole country."""
FULL_HEAT: Final = 30.0
"""Ten fresh likes: below this weight of its hottest ping, a list's boosts are scaled down."""


@dataclass(frozen=True)
class Hot:
    """A trending list as rows of one snapshot."""

    rows: Rows  # with at least MIN_WEIGHT, hottest first
    heat: float
    """Confidence in the list, 0 to 1: the hottest ping of a quiet country is not hot."""
    _ascending: Rows
    _shares: Float32  # of `_ascending`

    def shares(self, rows: Rows) -> Float32:
        """Each row's weight relative to the hottest ping, 0 for rows not in the list."""
        if not len(self._ascending):
            return np.zeros(len(rows), np.float32)
        at = np.minimum(np.searchsorted(self._ascending, rows), len(self._ascending) - 1)
        return np.where(self._ascending[at] == rows, self._shares[at], np.float32(0))


def in_rows(top: list[tuple[str, float]], snapshot: Snapshot) -> Hot:
    """(ping id, weight) pairs, hottest first, as rows; pings missing from the snapshot count only as the hottest."""
    rows = snapshot.rows_of_pings([ping_id for ping_id, _ in top])
    weights = np.array([weight for _, weight in top], np.float64)
    hottest = float(weights[0]) if len(weights) and weights[0] > 0 else np.inf
    heat = min(1.0, hottest / FULL_HEAT) if hottest < np.inf else 0.0
    known = rows >= 0
    rows, weights = rows[known], weights[known]
    order = np.argsort(rows)
    return Hot(rows[weights >= MIN_WEIGHT], heat, rows[order], (weights[order] / hottest).astype(np.float32))


@dataclass
class _Listing:
    """One country's list; `hot` is the list as rows of `snapshot`."""

    asked_ms: int
    read_ms: int | None = None
    top: list[tuple[str, float]] | None = None
    """None until the first read, and where the store keeps no counters."""
    snapshot: Snapshot | None = None
    hot: Hot | None = None


class TrendingCache:
    """The lists in memory. `wanted` is set when a request needs a country that has no list yet."""

    def __init__(self, trending: Trending, clock: Clock, metrics: FeedMetrics) -> None:
        self._trending, self._clock, self._metrics = trending, clock, metrics
        self._listings: dict[str | None, _Listing] = {}
        self.wanted = asyncio.Event()

    def hot(self, country: str | None, snapshot: Snapshot, now_ms: int) -> Hot | None:
        """The trending list of a country (None: overall); None where it is unknown or stale."""
        listing = self._listings.get(country)
        if listing is None:
            if len(self._listings) > MAX_COUNTRIES:
                return None
            self._listings[country] = _Listing(now_ms)
            self.wanted.set()
            return None
        listing.asked_ms = now_ms
        if listing.top is None or listing.read_ms is None or now_ms - listing.read_ms > _STALE_MS:
            return None
        if listing.snapshot is not snapshot:
            listing.snapshot, listing.hot = snapshot, in_rows(listing.top, snapshot)
        return listing.hot

    async def refresh(self) -> None:
        """Read every list in use; after a failure a list is kept until it is stale."""
        self.wanted.clear()
        now_ms = self._clock()
        self._listings.setdefault(None, _Listing(now_ms)).asked_ms = now_ms
        for country, listing in list(self._listings.items()):
            if now_ms - listing.asked_ms > _IDLE_MS:
                del self._listings[country]
                continue
            try:
                listing.top = await self._trending.top(country, TOP, now_ms)
            except Exception as error:  # noqa: BLE001  # whatever the store does, the next refresh tries again
                self._metrics.trending_failures.inc()
                log.warning("could not read trending of %s: %s", country or "all countries", error)
                return
            listing.read_ms, listing.snapshot = now_ms, None
            # Let requests run between two countries.
            await asyncio.sleep(0)
