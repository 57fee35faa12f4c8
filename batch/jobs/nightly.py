"""The nightly job: load events, remove deleted users, update states, factors and features, compact and expire files."""

import logging
from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa

from batch.features import catalogue, collaborative, day_state
from batch.features.point_in_time import PointInTime, servable
from batch.jobs import rebuild
from batch.jobs.load_events import EventLoader
from batch.jobs.tick import wait_for_landing
from batch.lake.compaction import RawCompaction
from batch.lake.ledger import Ledger, Manifest
from batch.lake.raw_files import each_events
from batch.lake.tables import parquet_of
from batch.ops.expiry import expire
from batch.ops.forget import remove_forgotten
from batch.ticks import day_name, day_of_path
from batch.wiring import Batch
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import Busy, PingfeedError

CHECKED_DAYS: Final = 35
_LOG = logging.getLogger(__name__)


def etl(batch: Batch, tick: int) -> Manifest:
    """Run the nightly job as of `tick`. Running it again changes nothing."""
    rebuild.enable(batch)
    wait_for_landing(batch, tick)
    loader = EventLoader(batch)
    manifest = loader.run(tick, batch.clock(), everything=True)
    # Until it succeeds, the tables leave deleted users out, and raw files stay unchanged.
    forgotten = _attempt(batch, "deleted users could not be removed", lambda: _forget(batch))
    with batch.progress.step("checking files"):
        _check_files(batch, batch.ticks.day(tick) - CHECKED_DAYS)
    with batch.progress.step("states at the start of each day"):
        day_state.ensure(batch, tick, manifest.run)
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
            _attempt(batch, "raw files were not compacted", lambda: _compact_raw(batch, day))
            _attempt(batch, "old files were not removed", lambda: _expire(batch, day))
    batch.tables.versions.commit()
    _attempt(batch, "unused files were not removed", lambda: _sweep(batch))
    return manifest


def _check_files(batch: Batch, first_day: int) -> None:
    """Read what is derived, and raw Parquet files, so that damage is found while it can be rebuilt."""
    batch.tables.check_since(first_day)
    for path in batch.tables.lake.list("features"):
        if path.endswith("/collaborative.parquet") and day_of_path(path) >= day_name(first_day):
            batch.tables.file(path, collaborative.SCHEMA)
    raw = [path for path in batch.tables.lake.list("events") if path.endswith(".parquet")]
    for found in each_events(batch.tables.lake, [path for path in raw if day_of_path(path) >= day_name(first_day)]):
        for path, reason in found.left_out.items():
            _LOG.error("unreadable raw file: %s: %s", path, reason)


def _attempt(batch: Batch, what: str, step: Callable[[], None]) -> bool:
    """Run a step whose failure, such as a missing permission, must not stop training; False if it failed."""
    try:
        step()
    except Busy:
        raise
    except PingfeedError as error:
        _LOG.error(f"{what}; the next nightly job retries", extra={"error": error.message})
        batch.progress.say(f"{what}, the next nightly job retries: {error.message}")
        return False
    return True


def _forget(batch: Batch) -> None:
    done = remove_forgotten(batch)
    if done.users or done.files:
        _LOG.info("deleted users removed", extra=vars(done))
        batch.progress.say(
            f"deleted users: {done.users:,}; events removed: {done.events:,}, files rewritten: {done.files:,}, "
            f"unreadable: {len(done.unreadable):,}"
        )


def _compact_raw(batch: Batch, day: int) -> None:
    RawCompaction(batch.tables, Ledger(batch.tables, batch.ticks)).run(day)


def _expire(batch: Batch, day: int) -> None:
    """Remove expired files and fold old manifests."""
    gone = expire(batch, day)
    Ledger(batch.tables, batch.ticks).fold(day)
    if any(gone):
        _LOG.info("expired files removed", extra=gone._asdict())
        batch.progress.say(
            f"expired files: {gone.raw:,} raw, {gone.rejected:,} rejected, {gone.quarantined:,} quarantined"
        )


def _sweep(batch: Batch) -> None:
    """Remove files that no version names and that are a day old; readers may still need younger ones."""
    gone = batch.tables.versions.sweep(batch.wall_clock() - DAY_MS)
    if gone:
        _LOG.info("unused files removed", extra={"files": gone})


def _keep_features(batch: Batch, day: int) -> None:
    """Store the features of every servable ping as of the start of the day under `features/day=`."""
    tick = batch.ticks.first_of(day)
    path = f"features/day={day_name(day)}/pings-{batch.features.digest}.parquet"
    if path in batch.tables.lake.list(f"features/day={day_name(day)}"):
        return
    known = catalogue.load(batch)
    source = PointInTime(batch, known, tick, tick)
    numbers = servable(known, source, batch.ticks, tick)
    values = source.pings(numbers, np.full(len(numbers), tick, np.int64)).block.values
    ids = catalogue.ids_of(known, "ping")
    columns: dict[str, object] = {"ping_id": [ids[int(number)] for number in numbers]}
    columns |= {feature.name: values[:, index] for index, feature in enumerate(batch.features.ping)}
    batch.tables.lake.write(path, parquet_of(pa.table(columns)))
