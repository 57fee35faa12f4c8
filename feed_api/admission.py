"""Admission: what a feed may cost when more requests come than the process can serve.

One process works on all its feeds in turns, so each takes as long as the work on all that are under way. That, and the
time since the request's first byte, is how much later the response will be than that of an idle process:

    delay = waited + feeds under way * CPU time of a feed

Beyond a share of the budget a feed is cheap (the packet's order, no model, `degraded: ["overload"]`), beyond a second
one it is a 503 at once, before any work; then feeds are cheap sooner for a while, so that as few as possible are
rejected. A burst that is worked off sooner is not overload, nor is a process that stood still for a moment: while there
is little work, only feeds that waited much longer are rejected.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pingfeed.core.errors import Unavailable
from pingfeed.core.retry import retry_after_s

CHEAP: Final = 0.4
CAUTIOUS: Final = 0.1
SHED: Final = 1.0
LATE: Final = 1.5
"""Shares of the budget: for a cheap feed, for one within `CAUTIOUS_S` after a 503, for a 503, and with little work."""
CAUTIOUS_S: Final = 1.0
_FIRST_GUESS_S: Final = 0.003
_WEIGHT: Final = 0.05


class Admission:
    """One process's feeds under way. `cpu` returns the seconds of CPU that the process has used."""

    def __init__(
        self,
        budget_s: float,
        *,
        monotonic: Callable[[], float],
        cpu: Callable[[], float] = time.process_time,
        shed: Callable[[], None] = lambda: None,
    ) -> None:
        self._budget_s, self._monotonic, self._cpu, self._shed = budget_s, monotonic, cpu, shed
        self._under_way = 0
        self._cautious_until = float("-inf")
        self._cost_s = min(_FIRST_GUESS_S, budget_s / 10)
        self._used_s = 0.0

    @contextmanager
    def enter(self, arrived_s: float | None) -> Iterator[bool]:
        """Count a feed as under way; True asks for a cheap one. Raises Unavailable if it would come too late."""
        now = self._monotonic()
        waited_s = 0.0 if arrived_s is None else now - arrived_s
        work = self._under_way * self._cost_s / self._budget_s
        delay = waited_s / self._budget_s + work
        is_busy = work > CHEAP
        if delay > (SHED if is_busy else LATE):
            if is_busy:
                self._cautious_until = now + CAUTIOUS_S
            self._shed()
            raise Unavailable("more feeds are requested than can be served", retry_after_s=retry_after_s())
        if not self._under_way:
            self._used_s = self._cpu()
        self._under_way += 1
        try:
            yield delay > (CAUTIOUS if now < self._cautious_until else CHEAP)
        finally:
            self._under_way -= 1
            self._learn()

    def _learn(self) -> None:
        """Update the CPU time of a feed: what the process has used since the last one ended or this one began alone."""
        now_s = self._cpu()
        self._cost_s += _WEIGHT * (min(now_s - self._used_s, self._budget_s) - self._cost_s)
        self._used_s = now_s
