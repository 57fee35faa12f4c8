"""What accepted events change at once: the users' signals, and what is trending."""

import logging
from collections.abc import Sequence

from pingfeed.core.errors import PingfeedError
from pingfeed.core.events import Row
from pingfeed.core.signals import acts_of, engagements_of
from pingfeed.ports import Trending, UserSignals

log = logging.getLogger(__name__)


class SignalWriter:
    """Called by Delivery with rows that are durable, and again with the same ones when it replays."""

    def __init__(self, signals: UserSignals, trending: Trending) -> None:
        self._signals = signals
        self._trending = trending
        self.trending_failures = 0

    async def __call__(self, rows: Sequence[Row]) -> None:
        """Apply rows, in order.

        Raises Unavailable where signals could not be written: Delivery tries again. Trending is an estimate that
        decays anyway: what it misses is counted, not tried again (the error may be of rows that came before).
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
