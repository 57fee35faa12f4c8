"""How often a caller may ask: a token bucket for each, in this process's memory.

A bucket is kept as one number, the moment at which it will be full again. A request that finds it empty is refused
with the time until there is a token, and takes none. A bucket that is full says no more than one that is not there, so
the least recently used ones can be forgotten: who is forgotten while not full gains one burst.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from prometheus_client import Counter

from pingfeed.core.errors import TooManyRequests

MAX_BUCKETS: Final = 100_000
BURST_S: Final = 10
"""Without PINGFEED_RATE_BURST, what this many seconds give may come at once."""


class RateLimit:
    """`rate` requests a second and `burst` at once (0: ten seconds' worth) for everybody; a rate of 0 limits nobody."""

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        monotonic: Callable[[], float],
        refused: Counter,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self._rate = rate
        self._burst_s = max(1, burst or rate * BURST_S) / rate if rate else 0.0
        self._monotonic = monotonic
        self._refused = refused
        self._max = max_buckets
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def charge(self, who: Hashable) -> None:
        """Take one token; TooManyRequests if there is none."""
        if not self._rate:
            return
        now = self._monotonic()
        full_at = max(self._full_at.get(who, now), now) + 1 / self._rate
        wait_s = full_at - now - self._burst_s
        if wait_s > 1e-9:  # the sum of many fractions is no exact number
            self._refused.inc()
            seconds = max(1, math.ceil(wait_s - 1e-9))
            raise TooManyRequests("more requests than one caller may send; wait a little", retry_after_s=seconds)
        self._full_at[who] = full_at
        self._full_at.move_to_end(who)
        if len(self._full_at) > self._max:
            self._full_at.popitem(last=False)

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._full_at)
