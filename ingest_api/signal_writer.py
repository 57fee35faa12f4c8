"""Applies accepted events at once: to the users' signals and to trending."""

import logging
from collections.abc import Sequence

from pingfeed.core.acts import acts_of, engagements_of
from pingfeed.core.errors import PingfeedError
from pingfeed.core.events import Row
from pingfeed.ports import Trending, UserSignals

log = logging.getLogger(__name__)


class SignalWriter:
    """Called by Delivery with durable rows, and again with the same ones on replay."""

    def __init__(self, signals: UserSignals, trending: Trending) -> None:
        self._signals = signals
        self._trending = trending
        self.trending_failures = 0

    async def __call__(self, rows: Sequence[Row]) -> None:
        """Apply rows, in order.

        Raises Unavailable if signals could not be written: Delivery retries. Trending is a decaying estimate: a failed
        update is counted, not retried (the error may be about earlier rows).
        """
        acts = [act for row in rows for act in acts_of(row)]
        if acts:
            await self._signals.apply(acts)
        engagements = engagements_of(rows)
        if not engagements:
            return
        try:
            await self._trending.add(engagements)
        except PingfeedError as error:
            self.trending_failures += 1
            log.warning("trending missed engagements", extra={"reason": error.message})
