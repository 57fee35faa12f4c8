"""How often the tests of losing nothing try, and the figures that they print.

Few rounds by default; `make prove` sets PROVE_ROUNDS=full. A whole number instead is a factor: PROVE_ROUNDS=3 does
three times as many as by default, where that is fewer than the full count.
"""

import os
from typing import Final

VARIABLE: Final = "PROVE_ROUNDS"
figures: list[str] = []
"""What the tests of this process counted, printed at the end of the run (tests/conftest.py)."""


def rounds(usual: int, full: int) -> int:
    """How many: `usual`, or `full` where everything is asked for."""
    asked = os.environ.get(VARIABLE, "1")
    return full if asked == "full" else min(full, usual * int(asked))


def is_asked_for() -> bool:
    """Whether figures shall be printed."""
    return VARIABLE in os.environ


def figure(name: str, **counts: float) -> None:
    """Keep what a test counted."""
    shown = ", ".join(f"{key.replace('_', ' ')} {value:,.10g}" for key, value in counts.items())
    figures.append(f"{name}: {shown}")
