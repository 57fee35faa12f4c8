"""What every run does first: read the files that landed, keep what is new, add it to catalogue and aggregates.

A run costs what it reads: no run rescans history. Everything is stamped with the tick that learned of it, and the
manifest that makes the run count is written last, so a crash at any point is repaired by running again.
"""

import logging
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.features import catalogue
from batch.features.engine import Engine
from batch.lake.ledger import Ledger, Manifest, Unread, is_amendment, partition_day, tick_of_run
from batch.lake.raw_files import Read, read_errors, read_events, rejected_path
from batch.lake.tables import AGGREGATES, CLEAN, Tables
from batch.lake.tombstones import DeletionRequests, Forgotten
from batch.progress import Progress
from batch.ticks import Ticks

_LOG = logging.getLogger(__name__)
_DEDUPE_DAYS = 7
_KEYS = ["user_id", "event_id", "known_tick", "received_ms"]


class EventLoader:
    """One run's reading of the raw zone."""

    def __init__(self, tables: Tables, engine: Engine, ticks: Ticks, progress: Progress) -> None:
        self._tables = tables
        self._engine = engine
        self._ticks = ticks
        self._progress = progress
        self._ledger = Ledger(tables, ticks)

    def run(self, tick: int, now_ms: int, *, everything: bool = False) -> Manifest:
        """Learn what landed, as the run of `tick`, or as an amendment to it if it has finished.

        `everything` looks at every partition. Without it a tick that has run is not run again. A tick before the
        latest that has run learns nothing (it is a replay of the past): what is new now was not known then.
        """
        self._ledger.remove_unfinished()
        latest = max(self._ledger.finished(), default=-1)
        if tick_of_run(latest) > tick:
            return Manifest(run=latest, tick=tick, at_ms=now_ms, files=[])
        done = self._ledger.last_manifest(tick)
        if done is not None and not everything:
            return done
        run = self._ledger.next_run(tick)
        manifest = Manifest(run=run, tick=tick, at_ms=now_ms, files=[])
        requests = DeletionRequests(self._tables.lake)
        forgotten = Forgotten([*requests.pending(), *requests.done_since()])
        for label, found, is_history in self._groups(self._ledger.unread(tick, everything=everything)):
            _forget(found, forgotten)
            self._record(found, manifest)
            rows = self._stamped(found.rows, None if is_history else tick + is_amendment(run))
            with self._progress.step(f"{label}: {rows.num_rows:,} events"):
                self._load(run, rows, manifest)
        if done is not None and not manifest.files:
            return done
        self._repair_states(manifest)
        self._ledger.finish(manifest)
        return manifest

    def _groups(self, unread: Unread) -> Iterator[tuple[str, Read, bool]]:
        """What is unread, and whether it is history: a UTC day of that at a time, so that memory holds a day."""
        for day, paths in groupby(unread.history, key=partition_day):
            yield f"history of {day}", read_events(self._tables.lake, paths), True
        if unread.live:
            yield "what landed", read_events(self._tables.lake, unread.live), False
        if unread.errors:
            yield "what Firehose did not convert", read_errors(self._tables.lake, unread.errors), False

    def _record(self, found: Read, manifest: Manifest) -> None:
        """Add the files that were read to the manifest, store rejected documents, report unreadable files.

        Each source's rejected documents get one file with a fixed name, so a run that is repeated stores none twice.
        """
        manifest.files += found.files
        manifest.rejected += len(found.rejected)
        manifest.left_out += len(found.left_out)
        for source, rejected in groupby(found.rejected, key=attrgetter("source")):
            kept = list(rejected)
            self._tables.lake.write(rejected_path(source, kept), msgspec.json.Encoder().encode_lines(kept))
            _LOG.error("documents of a raw file were rejected", extra={"path": source, "documents": len(kept)})
        for path, reason in found.left_out.items():
            _LOG.error("a raw file is unreadable and was left out", extra={"path": path, "error": reason})
            self._progress.say(f"left out, unreadable: {path}")

    def _stamped(self, rows: pa.Table, known_tick: int | None) -> pa.Table:
        """Rows with the tick that learned of them; history's was the one after each row's arrival."""
        if known_tick is None:
            known = pc.add(pc.floor(pc.divide(rows["received_ms"], self._ticks.tick_ms)), 1).cast(pa.int64())
        else:
            known = pa.array(np.full(rows.num_rows, known_tick, np.int64))
        return rows.append_column("known_tick", known)

    def _load(self, run: int, rows: pa.Table, manifest: Manifest) -> None:
        manifest.read += rows.num_rows
        if not rows.num_rows:
            return
        kept = self._without_duplicates(rows)
        manifest.kept += kept.num_rows
        if not kept.num_rows:
            return
        days = pc.floor(pc.divide(kept["known_tick"], self._ticks.day_ticks)).cast(pa.int64())
        first = pc.min(days).as_py()
        manifest.oldest_day = first if manifest.oldest_day is None else min(first, manifest.oldest_day)
        for day in pc.unique(days).to_pylist():
            self._tables.add_clean(day, run, kept.filter(pc.equal(days, day)))
        catalogue.add(self._tables, run, kept)
        self._aggregate(run, kept)

    def _without_duplicates(self, rows: pa.Table) -> pa.Table:
        """The rows whose (user, event id) was not known in the 7 days before; first known wins."""
        first = self._ticks.day(pc.min(rows["known_tick"]).as_py()) - _DEDUPE_DAYS
        recent = self._tables.clean(first, self._ticks.day(pc.max(rows["known_tick"]).as_py()), _KEYS)
        raw = rows.select(_KEYS).append_column("seq", pa.array(np.arange(rows.num_rows)))
        kept = self._engine.run("kept_rows", self._ticks.params(), raw=raw, recent=recent)
        return rows.take(kept["seq"]).select(CLEAN.names)

    def _aggregate(self, run: int, events: pa.Table) -> None:
        """Sum the events into the buckets of their (entity, known tick)."""
        known = catalogue.load(self._tables, self._engine, self._ticks)
        params = self._ticks.params()
        inputs = {"numbers": known.numbers, "pings": known.pings}
        acts = self._engine.run("acts", params, events=events, **inputs)
        for name in AGGREGATES:
            buckets = self._engine.run(name, params, acts=acts, ping_facets=known.facets)
            days = pc.floor(pc.divide(buckets["tick"], self._ticks.day_ticks)).cast(pa.int64())
            for day in pc.unique(days).to_pylist():
                self._tables.add_aggregate(name, day, run, buckets.filter(pc.equal(days, day)))

    def _repair_states(self, manifest: Manifest) -> None:
        """Events of an earlier day change what every later day began with, and what was learned from it."""
        if manifest.oldest_day is not None and manifest.oldest_day < self._ticks.day(manifest.tick):
            self._tables.drop_derived_since(manifest.oldest_day)


def _forget(found: Read, forgotten: Forgotten) -> None:
    """Leave out late events of deleted users, and those that are imported again."""
    found.rows = forgotten.without(found.rows, "received_ms")
    found.rejected = [one for one in found.rejected if not forgotten.mentioned_in(one.body, one.received_ms)]
