"""Before a run lists the raw files: all that was acknowledged before its tick shall have landed."""

from urllib.parse import urlsplit

from batch.wiring import Batch
from pingfeed.spool.stats import wait_landed


def wait_for_landing(batch: Batch, tick: int) -> int:
    """Wait twice the services' flush interval at most; how many events are still on their way (a later tick's).

    Only where what is delivered has landed. Firehose keeps it for minutes: then nothing is waited for, and what lands
    later is a later tick's.
    """
    lands_at_once = urlsplit(batch.settings.events_url).scheme == "disk"
    seconds = 2 * batch.settings.sink_flush_seconds + 5 if lands_at_once else 0
    with batch.progress.step("waiting for what was acknowledged to land"):
        return wait_landed(batch.settings.spool_dir, batch.ticks.start_ms(tick), seconds)
