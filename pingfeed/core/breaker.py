"""Circuit breaker: after a store stops answering, calls fail at once for a while instead of each waiting for it.

breaker = Breaker("redis", "redis://cache:6379")
with breaker.watching(lambda error: is_silent(error)):   # raises Unavailable while open
    answer = await call()

It opens after `FAILURES` calls in a row without an answer, or after one that took `SLOW_S` or longer; an answer, an
error too, starts the count again. `REST_S` later one call is let through as a probe: its answer closes the breaker.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pingfeed.core.errors import PingfeedError, Unavailable

FAILURES: Final = 5
SLOW_S: Final = 0.5
REST_S: Final = 2.0
opened: Final[Counter[str]] = Counter()
"""How often this process's breakers have opened, by kind of store."""
_log = logging.getLogger(__name__)


class Breaker:
    """For one store; `shown` is its name in the log, `monotonic` returns seconds.

    Without `slow` one call does not open it, however long it took: its connection may have died, not the store.
    """

    def __init__(
        self, kind: str, shown: str, *, slow: bool = True, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._kind, self._shown, self._monotonic = kind, shown, monotonic
        self._slow_s = SLOW_S if slow else float("inf")
        self._failures = 0
        self._probe_at: float | None = None
        """When an open breaker lets the next probe through; None while it is closed."""
        self._reason = ""

    @contextmanager
    def watching(self, is_silent: Callable[[PingfeedError], bool]) -> Iterator[None]:
        """Watch one call; `is_silent` tells errors that mean that no answer came."""
        began = self._monotonic()
        is_probe = self._enter(began)
        try:
            yield
        except BaseException as error:
            took_s = self._monotonic() - began
            if isinstance(error, PingfeedError) and not is_silent(error):
                self._answered()
            # A cancelled call says something only if it waited long, or if no other would.
            elif isinstance(error, PingfeedError) or is_probe or took_s >= self._slow_s:
                self._failed(str(error), at_once=is_probe or took_s >= self._slow_s)
            raise
        self._answered()

    def _enter(self, now: float) -> bool:
        """Whether the call is a probe; raises Unavailable if it must not be made."""
        if self._probe_at is None:
            return False
        if now < self._probe_at:
            raise Unavailable(self._reason)
        self._probe_at = now + REST_S  # The other calls until then do not probe.
        return True

    def _answered(self) -> None:
        self._failures = 0
        if self._probe_at is not None:
            self._probe_at = None
            _log.warning("%s answers again", self._shown)

    def _failed(self, reason: str, *, at_once: bool) -> None:
        self._failures += 1
        self._reason = reason or f"{self._shown} does not answer"
        if not at_once and self._failures < FAILURES:
            return
        if self._probe_at is None:
            opened[self._kind] += 1
            _log.warning("%s does not answer: calls fail for %g s at a time", self._shown, REST_S)
        self._probe_at = self._monotonic() + REST_S
