"""Runs ticks every quarter of an hour and the nightly job at its hour, one at a time in one process.

After a pause, only the latest missed tick runs: it loads everything that has landed. The nightly job runs etl, train
and a tick for all users, at the first tick at or after the configured hour (UTC) of a day without a training since that
hour: a restart neither repeats nor skips it.
"""

import logging
import threading
from dataclasses import dataclass

from batch.jobs import tick as ticking
from batch.jobs.healthcheck import beat
from batch.jobs.nightly import etl
from batch.training.train import last_trained, train
from batch.wiring import Batch
from pingfeed.core.clock import DAY_MS, HOUR_MS
from pingfeed.core.errors import Busy, PingfeedError
from pingfeed.core.retry import Backoff

_LOG = logging.getLogger(__name__)
_GRACE_MS = 2_000
_LOOK_S = 0.5
_BACKOFF = Backoff(first_s=1.0, longest_s=60.0)


@dataclass
class Schedule:
    """Remembers what ran last and decides what is due."""

    batch: Batch
    last_tick: int | None = None
    night_not_before: int = 0

    def due(self) -> int | None:
        """The current tick if it has not run yet, else None.

        A tick is due shortly after it begins, so that events accepted just before can land.
        """
        now_ms = self.batch.clock()
        tick = self.batch.ticks.of(now_ms - _GRACE_MS)
        last = self.last_tick
        # More than one tick back, the clock was wrong when the last one ran.
        return tick if last is None or tick > last or tick < last - 1 else None

    def night_is_due(self, tick: int) -> bool:
        """Whether the nightly job is due at this tick: its hour has come, and no training has run since."""
        ticks = self.batch.ticks
        hour_began = ticks.of(ticks.day(tick) * DAY_MS + self.batch.settings.night_hour * HOUR_MS)
        trained = last_trained(self.batch)
        is_new = trained is None or trained < hour_began or trained > self.batch.present + 1
        return tick >= max(hour_began, self.night_not_before) and is_new

    def run_once(self, *, night: bool | None = None) -> int | None:
        """Run what is due and return the tick that ran. Errors of a step propagate."""
        tick = self.due()
        if tick is None:
            return None
        self.batch.tables.refresh()  # A manual training may have run since the last tick.
        nightly = self.night_is_due(tick) if night is None else night
        with self.batch.lease():
            if nightly:
                self._night(tick)
            done = ticking.run(self.batch, tick, everyone=nightly)
        self.last_tick = tick
        beat(self.batch.settings.home)
        _LOG.info("tick", extra=vars(done))
        return tick

    def _night(self, tick: int) -> None:
        """Run etl and training. A failure is logged and retried in an hour; ticks continue."""
        try:
            etl(self.batch, tick)
            beat(self.batch.settings.home)
            _LOG.info("trained", extra={"outcome": train(self.batch, tick).sentence})
        except Busy:
            raise
        except Exception as error:  # noqa: BLE001  # whatever the job does, ticks continue
            self.night_not_before = tick + max(1, self.batch.ticks.day_ticks // 24)
            _LOG.error("the nightly job failed; retrying in an hour", exc_info=error)

    def run_forever(self, stop: threading.Event) -> None:
        """Run until `stop` is set, checking twice a second for a new tick."""
        beat(self.batch.settings.home)
        failures = 0
        while not stop.is_set():
            pause_s = _LOOK_S
            try:
                self.run_once()
                failures = 0
            except Exception as error:  # noqa: BLE001  # whatever a tick does, the next one runs
                failures += 1
                pause_s = self._failed(error, failures)
            stop.wait(pause_s)

    def _failed(self, error: Exception, failures: int) -> float:
        """The pause after the n-th failure in a row. An error that a retry cannot fix is left to the next tick."""
        if isinstance(error, Busy):  # Such as a manual training.
            return _LOOK_S
        if not (isinstance(error, PingfeedError) and error.retryable):
            self.last_tick = self.due() or self.last_tick
            _LOG.error("a tick failed; the next one takes over", exc_info=error)
            return _LOOK_S
        _LOG.error("a tick failed; retrying", extra={"error": error.message, "failures": failures})
        return _BACKOFF.pause_s(failures)
