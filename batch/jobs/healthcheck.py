"""The scheduler's health: `HOME/heartbeat` is touched when it starts and after every tick.

`python -m batch.jobs.healthcheck` is a container's health check: it exits with 1 if no tick finished for three ticks.
"""

import os
import sys
import time
from pathlib import Path
from typing import Final

from pingfeed.home import DEFAULT, VARIABLE, follow

FILE: Final = "heartbeat"
MISSED: Final = 3


def beat(home: Path) -> None:
    """Record that a tick has finished."""
    home.mkdir(parents=True, exist_ok=True)
    (home / FILE).touch()


def silent(home: Path, tick_minutes: int, now_s: float) -> str | None:
    """What is wrong, in a sentence; None while ticks finish."""
    try:
        minutes = (now_s - (home / FILE).stat().st_mtime) / 60
    except FileNotFoundError:
        return "the scheduler has not started"
    return f"no tick has finished for {minutes:.0f} minutes" if minutes > MISSED * tick_minutes else None


if __name__ == "__main__":
    # Read directly: importing the settings takes a second, and the scheduler has validated them.
    follow(os.environ)
    home = Path(os.environ.get(VARIABLE) or DEFAULT)
    sys.exit(silent(home, int(os.environ.get("PINGFEED_TICK_MINUTES", "15")), time.time()))
