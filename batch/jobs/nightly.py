"""The night: all that landed, who is to be forgotten, the day's state, factors and features, and tidy files."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch.expiry import expire
from batch.features import catalogue, day_state
from batch.features.point_in_time import PointInTime
from batch.features.servable import servable
from batch.forget import night as forgetting
from batch.jobs.landing import wait_for_landing
from batch.jobs.load_events import EventLoader
from batch.lake.compaction import RawCompaction
from batch.lake.ledger import Ledger, Manifest
from batch.serving import collaborative
from batch.ticks import day_name
from batch.wiring import Batch
from pingfeed.core.errors import PingfeedError

_LOG = logging.getLogger(__name__)


def etl(batch: Batch, tick: int) -> Manifest:
    """Run the night as of `tick`. Running it again changes nothing."""
    wait_for_landing(batch, tick)
    learner = EventLoader(batch.tables, batch.engine, batch.ticks, batch.progress)
    manifest = learner.run(tick, batch.clock(), everything=True)
    forgotten = _forget(batch, manifest)
    with batch.progress.step("states at the beginning of each day"):
        day_state.ensure(batch.tables, batch.engine, batch.ticks, tick, manifest.run)
    day = batch.ticks.day(tick)
    collaborative.factors_of(batch, day)
    with batch.progress.step("features of the day"):
        _keep_features(batch, day)
    with batch.progress.step("compaction"):
        for earlier in batch.tables.clean_days():
            if earlier < day:
                batch.tables.compact_day(earlier, manifest.run)
        batch.tables.compact_catalogue(manifest.run)
        if forgotten:
            _compact_raw(batch, day)
            _expire(batch, day)
    return manifest


def _forget(batch: Batch, manifest: Manifest) -> bool:
    """A failure costs the night no training, for tables leave out who waits; raw files are left as they are then."""
    try:
        done = forgetting.run(batch, manifest)
    except PingfeedError as error:
        _LOG.error("users wait to be forgotten; the next night tries again", extra={"error": error.message})
        batch.progress.say(f"users wait to be forgotten, the next night tries again: {error.message}")
        return False
    if done.users or done.files or done.refused:
        _LOG.info("forgotten", extra=vars(done))
        batch.progress.say(
            f"{done.users:,} users forgotten: {done.events:,} events, {done.refused:,} refused ones, "
            f"{done.files:,} files written anew, {len(done.unreadable):,} could not be looked at"
        )
    return True


def _expire(batch: Batch, day: int) -> None:
    """Like compaction: what fails is due again the next night."""
    try:
        gone = expire(batch, day)
        Ledger(batch.tables, batch.ticks).fold(day)
    except PingfeedError as error:
        _LOG.error("old files were not removed; the next night tries again", extra={"error": error.message})
        return
    if gone.raw or gone.rejected:
        _LOG.info("old files removed", extra=vars(gone))
        batch.progress.say(f"removed as too old: {gone.raw:,} raw files, {gone.rejected:,} of refused events")


def _compact_raw(batch: Batch, day: int) -> None:
    """Tidying may fail (a right that is missing, say) without costing the night its training: it is due again then."""
    try:
        RawCompaction(batch.tables, Ledger(batch.tables, batch.ticks)).run(day)
    except PingfeedError as error:
        _LOG.error("raw files were not compacted; the next night tries again", extra={"error": error.message})


def _keep_features(batch: Batch, day: int) -> None:
    """The historical feature store: every servable ping's features when the day began, under `features/day=`."""
    tick = batch.ticks.first_of(day)
    path = f"features/day={day_name(day)}/pings-{batch.features.digest}.parquet"
    if path in batch.tables.lake.list(f"features/day={day_name(day)}"):
        return
    known = catalogue.load(batch.tables, batch.engine, batch.ticks)
    source = PointInTime(batch.tables, batch.engine, batch.ticks, batch.features, known, tick, tick)
    numbers = servable(known, source, batch.ticks, tick)
    values = source.pings(numbers, np.full(len(numbers), tick, np.int64)).block.values
    ids = catalogue.ids_of(known, "ping")
    columns: dict[str, object] = {"ping_id": [ids[int(number)] for number in numbers]}
    columns |= {feature.name: values[:, index] for index, feature in enumerate(batch.features.ping)}
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    batch.tables.lake.write(path, buffer.getvalue().to_pybytes())
