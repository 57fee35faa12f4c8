"""Whether the scheduler gets anywhere: `HOME/heartbeat` is touched when it starts and after every tick.

`python -m batch.jobs.healthcheck` is a container's health check: exit code 1 when three ticks passed without one done.
"""

import os
import sys
import time
from pathlib import Path
from typing import Final

FILE: Final = "heartbeat"
MISSED: Final = 3


def beat(home: Path) -> None:
    """Note that a tick was done now."""
    home.mkdir(parents=True, exist_ok=True)
    (home / FILE).touch()


def silent(home: Path, tick_minutes: int, now_s: float) -> str | None:
    """What is wrong, in a sentence; None while ticks get done."""
    try:
        minutes = (now_s - (home / FILE).stat().st_mtime) / 60
    except FileNotFoundError:
        return "the scheduler has not started"
    return f"no tick was done for {minutes:.0f} minutes" if minutes > MISSED * tick_minutes else None


if __name__ == "__main__":
    # Not the settings: reading them costs a second of imports, and the scheduler has checked them.
    home = Path(os.environ.get("PINGFEED_HOME", "var/pingfeed"))
    sys.exit(silent(home, int(os.environ.get("PINGFEED_TICK_MINUTES", "15")), time.time()))
