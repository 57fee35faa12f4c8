"""Before a run lists the raw files: all that was acknowledged before its tick shall have landed."""

from batch.wiring import Batch
from pingfeed.delivery.landing import wait_landed


def wait_for_landing(batch: Batch, tick: int) -> int:
    """Wait twice the services' flush interval at most; how many events are still on their way (a later tick's)."""
    seconds = 2 * batch.settings.sink_flush_seconds + 5
    with batch.progress.step("waiting for what was acknowledged to land"):
        return wait_landed(batch.settings.spool_dir, batch.ticks.start_ms(tick), seconds)
