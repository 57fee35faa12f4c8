"""When to try again: later and later, with jitter, for a whole fleet must not come back in the same moment."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Pauses that double from `first_s` to `longest_s`, each cut by up to half at random."""

    first_s: float = 0.25
    longest_s: float = 10.0
    jitter: Callable[[], float] = random.random

    def pause_s(self, failures: int) -> float:
        """The pause after the n-th failure in a row, n from 1."""
        whole = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return whole * (1 - self.jitter() / 2)
