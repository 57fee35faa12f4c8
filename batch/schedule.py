"""Ticks on the quarter-hour, the night at its hour: one process, one thing at a time.

Only the latest tick that was missed is caught up: it learns all that landed meanwhile. The night runs etl, train and a
tick for everyone, once a day, at the first tick at or after the configured hour (UTC).
"""

import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime

from batch import tick as ticking
from batch.etl import etl
from batch.lease import lease
from batch.train import train
from batch.wiring import Batch
from pingfeed.errors import PingfeedError

_LOG = logging.getLogger(__name__)
_GRACE_MS = 2_000


@dataclass
class Schedule:
    """What ran last, and what is due."""

    batch: Batch
    last_tick: int | None = None
    last_night: int | None = None

    def due(self) -> int | None:
        """The tick that is running now if it was not run yet; None otherwise.

        A tick is due a moment after it begins, so that what was accepted just before it has a chance to land.
        """
        now_ms = self.batch.clock()
        tick = self.batch.ticks.of(now_ms - _GRACE_MS)
        return tick if self.last_tick is None or tick > self.last_tick else None

    def night_is_due(self, tick: int) -> bool:
        """Whether the night belongs to this tick: the first at or after its hour on a day that had none."""
        start = datetime.fromtimestamp(self.batch.ticks.start_ms(tick) / 1000, UTC)
        return start.hour >= self.batch.settings.night_hour and self.batch.ticks.day(tick) != self.last_night

    def run_once(self, *, night: bool | None = None) -> int | None:
        """Run what is due; the tick that was run. A failure is logged, and tried again with the next tick."""
        tick = self.due()
        if tick is None:
            return None
        nightly = self.night_is_due(tick) if night is None else night
        with lease(self.batch.settings.home):
            if nightly:
                etl(self.batch, tick)
                _LOG.info("trained", extra={"outcome": train(self.batch, tick).sentence})
                self.last_night = self.batch.ticks.day(tick)
            done = ticking.run(self.batch, tick, everyone=nightly)
        self.last_tick = tick
        _LOG.info("tick", extra=vars(done))
        return tick

    def run_forever(self, stop: threading.Event) -> None:
        """Run until `stop` is set; looks twice a second whether a tick has begun."""
        # The night of a day on which the process starts late is not made up for: demo and restarts begin with a tick.
        self.last_night = self.batch.ticks.day(self.batch.ticks.of(self.batch.clock()))
        while not stop.is_set():
            try:
                self.run_once()
            except PingfeedError as error:
                self.last_tick = self.due() or self.last_tick
                _LOG.error("a tick failed; the next one takes over", extra={"error": error.message})
            stop.wait(0.5)
