"""Loads the events that landed: reads new raw files, drops duplicates, updates the catalogue and the aggregates.

A run's cost depends on what it reads: no run rescans history. Everything is stamped with the tick of the run, and the
manifest that commits the run is written last, so running again repairs a crash at any point.
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch.features import catalogue
from batch.lake.ledger import Ledger, Manifest, Unread, is_amendment, tick_of_run
from batch.lake.quarantine import Quarantine
from batch.lake.raw_files import Read, read_events, rejected_path
from batch.lake.tables import AGGREGATES, CATALOGUE, CLEAN
from batch.lake.tombstones import DeletionRequests, Forgotten
from batch.ticks import day_of_path
from batch.wiring import Batch
from pingfeed.core.clock import to_iso
from pingfeed.core.words import counted

_LOG = logging.getLogger(__name__)
_DEDUPE_DAYS = 7
_KEYS = ["user_id", "event_id", "known_tick", "received_ms"]


class EventLoader:
    """Loads raw files into the tables of one lake."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._tables, self._engine, self._ticks = batch.tables, batch.engine, batch.ticks
        self._progress = batch.progress
        self._ledger = Ledger(batch.tables, batch.ticks)

    def run(self, tick: int, now_ms: int, *, everything: bool = False) -> Manifest:
        """Load new events as the run of `tick`, or as an amendment to it if it has finished.

        `everything` lists every partition. Without it, a finished tick is not run again. A tick before the latest
        finished one is a replay of the past and loads nothing: new events were not known then. A finished one that is
        ahead of the machine's clock is no reason: the present is no replay.
        """
        self._ledger.remove_unfinished()
        latest = max(self._ledger.finished(), default=-1)
        is_ahead = tick_of_run(latest) > self._batch.present + 1
        if is_ahead:
            self._pass_over(latest)
        if tick_of_run(latest) > tick and not (is_ahead and tick >= self._batch.present - 1):
            return Manifest(run=latest, tick=tick, at_ms=now_ms, files=[])
        done = self._ledger.last_manifest(tick)
        if done is not None and not everything:
            return done
        run = self._ledger.next_run(tick)
        manifest = Manifest(run=run, tick=tick, at_ms=now_ms, files=[])
        quarantine = Quarantine(self._tables.lake, now_ms)
        requests = DeletionRequests(self._tables.lake)
        forgotten = Forgotten([*requests.pending(), *requests.done_since()])
        for label, found, is_history in self._groups(self._ledger.unread(tick, everything=everything)):
            _forget(found, forgotten)
            self._record(found, manifest)
            rows = self.stamped(found.rows, None if is_history else tick + is_amendment(run))
            for name in CATALOGUE:
                self._tables.catalogue(name)  # What is damaged cannot be rebuilt within a transaction.
            with self._progress.step(f"{label}: {counted(rows.num_rows, 'event')}"):
                manifest.read += rows.num_rows
                if rows.num_rows:
                    quarantine.each("load", rows, lambda piece: self._load(run, piece, manifest))
        manifest.quarantined = quarantine.rows
        if done is not None and not manifest.files:
            return done
        self._repair_states(manifest)
        self._ledger.finish(manifest)
        return manifest

    def _pass_over(self, latest: int) -> None:
        """Do not let a run that the clock was once ahead for close what it has not read: its states end too early."""
        ahead = self._ticks.start_ms(tick_of_run(latest))
        _LOG.error("a run is ahead of the clock; it is passed over", extra={"run": latest, "at_ms": ahead})
        self._progress.say(f"a run is ahead of the clock ({to_iso(ahead)}): it is passed over")
        self._tables.drop_derived_since(self._ticks.day(self._batch.present))

    def _groups(self, unread: Unread) -> Iterator[tuple[str, Read, bool]]:
        """Unread events and whether they are history; history comes one UTC day at a time to bound memory."""
        for day, paths in groupby(unread.history, key=day_of_path):
            yield f"history of {day}", read_events(self._tables.lake, paths), True
        if unread.live:
            yield "new events", read_events(self._tables.lake, unread.live), False
        if unread.errors:
            yield "records that Firehose could not convert", read_events(self._tables.lake, unread.errors), False

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
            _LOG.error("rejected documents in a raw file: %s", source, extra={"documents": len(kept)})
        for path, reason in found.left_out.items():
            _LOG.error("unreadable raw file left out: %s: %s", path, reason)

    def stamped(self, rows: pa.Table, known_tick: int | None) -> pa.Table:
        """Rows with their known tick; for history (None), the tick after each row's arrival."""
        if known_tick is None:
            known = pc.add(pc.floor(pc.divide(rows["received_ms"], self._ticks.tick_ms)), 1).cast(pa.int64())
        else:
            known = pa.array(np.full(rows.num_rows, known_tick, np.int64))
        return rows.append_column("known_tick", known)

    def _load(self, run: int, rows: pa.Table, manifest: Manifest) -> None:
        """Add rows to every table, or to none if one of them cannot be taken."""
        kept = self.without_duplicates(rows)
        if not kept.num_rows:
            return
        days: list[int] = []
        with self._tables.transaction():
            for day, rows_of_day in self._by_day(kept, "known_tick"):
                self._tables.add("clean", run, rows_of_day, day)
                days.append(day)
            catalogue.add(self._tables, run, kept)
            self._aggregate(run, kept)
        manifest.kept += kept.num_rows
        manifest.oldest_day = min(days if manifest.oldest_day is None else [*days, manifest.oldest_day])

    def without_duplicates(self, rows: pa.Table) -> pa.Table:
        """The rows whose (user, event id) is not in the 7 days before; the first known row wins."""
        first = self._ticks.day(pc.min(rows["known_tick"]).as_py()) - _DEDUPE_DAYS
        recent = self._tables.clean(first, self._ticks.day(pc.max(rows["known_tick"]).as_py()), _KEYS)
        raw = rows.select(_KEYS).append_column("seq", pa.array(np.arange(rows.num_rows)))
        kept = self._engine.run("kept_rows", self._ticks.params(), raw=raw, recent=recent)
        # Not `take`: it overflows the offsets of long lists and texts, where a filter goes chunk by chunk.
        is_kept = np.zeros(rows.num_rows, bool)
        is_kept[kept["seq"].to_numpy()] = True
        return rows.filter(pa.array(is_kept)).select(CLEAN.names)

    def _aggregate(self, run: int, events: pa.Table) -> None:
        """Sum the events into buckets by (entity, known tick)."""
        for name, buckets in self.buckets(events, AGGREGATES):
            for day, rows in self._by_day(buckets, "tick"):
                self._tables.add(name, run, rows, day)

    def buckets(self, events: pa.Table, names: Iterable[str]) -> Iterator[tuple[str, pa.Table]]:
        """The buckets of these events in each of the aggregates."""
        known = catalogue.load(self._batch)
        acts = catalogue.acts(self._batch, known, events)
        for name in names:
            yield name, self._engine.run(name, self._ticks.params(), acts=acts, ping_facets=known.facets)

    def _by_day(self, table: pa.Table, column: str) -> Iterator[tuple[int, pa.Table]]:
        """The rows of each day, by a column of ticks."""
        days = pc.floor(pc.divide(table[column], self._ticks.day_ticks)).cast(pa.int64())
        for day in pc.unique(days).to_pylist():
            yield day, table.filter(pc.equal(days, day))

    def _repair_states(self, manifest: Manifest) -> None:
        """Remove derived data that events of an earlier day have made stale."""
        if manifest.oldest_day is not None and manifest.oldest_day < self._ticks.day(manifest.tick):
            self._tables.drop_derived_since(manifest.oldest_day)


def _forget(found: Read, forgotten: Forgotten) -> None:
    """Remove events of deleted users that arrived late or were imported again."""
    found.rows = forgotten.without(found.rows, "received_ms")
    found.rejected = [one for one in found.rejected if not forgotten.mentioned_in(one.body, one.received_ms)]
