"""The nightly job: load events, remove deleted users, update states, factors and features, compact and expire files."""

import logging

import numpy as np
import pyarrow as pa

from batch.features import catalogue, day_state
from batch.features.point_in_time import PointInTime, servable
from batch.jobs.load_events import EventLoader
from batch.jobs.tick import wait_for_landing
from batch.lake.compaction import RawCompaction
from batch.lake.ledger import Ledger, Manifest
from batch.lake.tables import parquet_of
from batch.ops.expiry import expire
from batch.ops.forget import remove_forgotten
from batch.serving import collaborative
from batch.ticks import day_name
from batch.wiring import Batch
from pingfeed.core.errors import PingfeedError

_LOG = logging.getLogger(__name__)


def etl(batch: Batch, tick: int) -> Manifest:
    """Run the nightly job as of `tick`. Running it again changes nothing."""
    wait_for_landing(batch, tick)
    loader = EventLoader(batch.tables, batch.engine, batch.ticks, batch.progress)
    manifest = loader.run(tick, batch.clock(), everything=True)
    forgotten = _forget(batch)
    with batch.progress.step("states at the start of each day"):
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


def _forget(batch: Batch) -> bool:
    """Remove deleted users. A failure does not stop training: the tables leave them out; raw files stay unchanged."""
    try:
        done = remove_forgotten(batch)
    except PingfeedError as error:
        _LOG.error("deleted users could not be removed; the next nightly job retries", extra={"error": error.message})
        batch.progress.say(f"deleted users could not be removed, the next nightly job retries: {error.message}")
        return False
    if done.users or done.files:
        _LOG.info("deleted users removed", extra=vars(done))
        batch.progress.say(
            f"deleted users: {done.users:,}; events removed: {done.events:,}, files rewritten: {done.files:,}, "
            f"unreadable: {len(done.unreadable):,}"
        )
    return True


def _expire(batch: Batch, day: int) -> None:
    """Remove expired files and fold old manifests; the next nightly job retries a failure."""
    try:
        gone = expire(batch, day)
        Ledger(batch.tables, batch.ticks).fold(day)
    except PingfeedError as error:
        _LOG.error("old files were not removed; the next nightly job retries", extra={"error": error.message})
        return
    if any(gone):
        _LOG.info("expired files removed", extra=gone._asdict())
        batch.progress.say(
            f"expired files: {gone.raw:,} raw, {gone.rejected:,} rejected, {gone.quarantined:,} quarantined"
        )


def _compact_raw(batch: Batch, day: int) -> None:
    """Compact raw files. A failure, such as a missing permission, does not stop training."""
    try:
        RawCompaction(batch.tables, Ledger(batch.tables, batch.ticks)).run(day)
    except PingfeedError as error:
        _LOG.error("raw files were not compacted; the next nightly job retries", extra={"error": error.message})


def _keep_features(batch: Batch, day: int) -> None:
    """Store the features of every servable ping as of the start of the day under `features/day=`."""
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
    batch.tables.lake.write(path, parquet_of(pa.table(columns)))
