"""The tick as an AWS Lambda function: `batch.lambda_handler.handler`, one tick an invocation.

The event is that of a schedule: `{}`, or `{"everyone": true}` for the packets of all users of 30 days. A tick that
finds another run under way ends with `{"busy": ...}`, which is not an error. All that a tick keeps is in the lake, the
stores and the artifacts: the function's disk (PINGFEED_HOME) may be empty each time, and DuckDB spills there.
"""

import dataclasses
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from typing import Any, Final

from batch.jobs import rebuild
from batch.jobs import tick as ticking
from batch.wiring import Batch, build
from pingfeed.core.errors import Busy, InvalidInput
from pingfeed.settings import SCHEMES, check_remote, load, shown
from pingfeed.telemetry import configure_logs, metric_line

METRICS: Final = ("tick_ms", "tick_events", "tick_packets", "tick_degraded", "tick_busy")
"""CloudWatch metrics. Degraded counts what a tick could not use: files, rows, documents, and users without a packet."""
WARNED_S: Final = 15.0
"""How long before the function's timeout a tick that is still running is logged."""
_log = logging.getLogger(__name__)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """The entry point that Lambda calls."""
    configure_logs()
    settings = load(os.environ)
    check_remote(settings, [name for name in SCHEMES if name != "cache_url"])
    _log.info("settings that apply", extra={"settings": shown(settings)})
    batch = build(settings, quiet=True)
    try:
        return run(batch, event, context.get_remaining_time_in_millis() / 1000)
    finally:
        batch.engine.close()


def run(
    batch: Batch, event: Any, left_s: float, write: Callable[[str], Any] = lambda line: sys.stdout.write(line)
) -> dict[str, Any]:
    """Run the current tick under the lease; its result, logged too."""
    everyone = event.get("everyone", False) if isinstance(event, dict) else None
    if not isinstance(everyone, bool):
        raise InvalidInput('the event of a tick must be {} or {"everyone": true}')
    began = time.monotonic()
    batch.settings.home.mkdir(parents=True, exist_ok=True)
    try:
        with _watched(left_s), chdir(batch.settings.home), batch.lease():
            rebuild.enable(batch)
            done = ticking.run(batch, batch.ticks.of(batch.clock()), everyone=everyone)
    except Busy as error:
        _log.info("no tick", extra={"reason": error.message})
        write(metric_line("tick", METRICS, {"tick_busy": 1}, batch.wall_clock()))
        return {"busy": error.message}
    result = dataclasses.asdict(done)
    _log.info("tick", extra=result)
    counted = {
        "tick_ms": round((time.monotonic() - began) * 1000),
        "tick_events": done.events,
        "tick_packets": done.packets,
        "tick_degraded": done.rejected + done.left_out + done.quarantined + done.quarantined_users,
    }
    write(metric_line("tick", METRICS, counted, batch.wall_clock()))
    return result


@contextmanager
def _watched(left_s: float) -> Iterator[None]:
    """Say that Lambda is about to end the function, which it does without a word of ours."""
    said = "a tick is still running %g s before the function's timeout: raise that, or the function's memory"
    timer = threading.Timer(max(0.0, left_s - WARNED_S), _log.error, (said, min(left_s, WARNED_S)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
