"""Rebuilds damaged files of the lake from what they derive from.

clean events    raw files that runs have read: the rows that no other clean file of the day has
aggregates      the day's clean events
states          the state of the day before and its buckets
catalogue       clean events of all days, and the numbers, which are kept twice
manifests       raw files whose events are clean and that no other manifest of the ledger lists
"""

from collections.abc import Callable, Iterator
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from batch.features import catalogue, day_state
from batch.jobs.load_events import EventLoader
from batch.lake.ledger import Ledger, Manifest, is_amendment, is_compacted, is_history, runs_in, tick_of_run
from batch.lake.raw_files import read_events
from batch.lake.tables import CATALOGUE, CLEAN, STATES, file_run
from batch.lake.tombstones import DeletionRequests, Forgotten
from batch.ticks import day_name, day_number, day_of_path
from batch.wiring import Batch
from pingfeed.core.errors import FormatError

_OTHER: Final = {"numbers": "numbers_copy", "numbers_copy": "numbers"}


def enable(batch: Batch) -> None:
    """Let this run, which holds the lease, rebuild what is damaged."""
    batch.tables.rebuild = _Rebuild(batch)


class _Rebuild:
    def __init__(self, batch: Batch) -> None:
        self._batch, self._tables, self._ticks = batch, batch.tables, batch.ticks
        self._ledger, self._loader = Ledger(batch.tables, batch.ticks), EventLoader(batch)

    def __call__(self, path: str) -> bool:
        """Replace a damaged file; False if nothing is left to rebuild it from."""
        steps: dict[str, Callable[[str], bool]] = {
            "clean": self._clean,
            "aggregates": self._aggregate,
            "catalogue": self._catalogue,
            "ticks": self._manifests,
        }
        root = path.partition("/")[0]
        return root in steps and steps[root](path)

    def _clean(self, path: str) -> bool:
        day = day_number(day_of_path(path))
        rows = pa.concat_tables([CLEAN.empty_table(), *self._raw(day)])
        if not rows.num_rows:
            return False
        self._tables.put(path, self._loader.without_duplicates(rows))
        return True

    def _raw(self, day: int) -> Iterator[pa.Table]:
        """Events of raw files that runs have read and that are known from a day."""
        known, requests = self._ledger.known_ticks(), DeletionRequests(self._tables.lake)
        forgotten = Forgotten([*requests.pending(), *requests.done_since()])
        for path in (*self._tables.lake.list("events"), *self._tables.lake.list("errors")):
            if day_of_path(path) > day_name(day):
                continue
            if is_compacted(path):
                found = self._tables.lake.dataset([path], CLEAN).to_table()
            elif path in known and (is_history(path) or self._ticks.day(known[path]) == day):
                rows = read_events(self._tables.lake, [path]).rows
                found = self._loader.stamped(rows, None if is_history(path) else known[path])
            else:
                continue
            days = pc.floor(pc.divide(found["known_tick"], self._ticks.day_ticks)).cast(pa.int64())
            yield forgotten.without(found.filter(pc.equal(days, day)), "received_ms").select(CLEAN.names)

    def _aggregate(self, path: str) -> bool:
        """A whole file in place of all up to the damaged one: events may be compacted further than it is."""
        name, day = path.split("/")[2], day_number(day_of_path(path))
        if name in STATES:
            self._tables.put(path, day_state.at_start(self._batch, name, day))
            return True
        whole = [file_run(one) for one in self._tables.lake.list(f"clean/day={day_name(day)}") if "/whole-" in one]
        run = max([file_run(path), *whole])
        [(_, rows)] = self._loader.buckets(self._tables.clean(day, day, catalogue.ACTS, run), [name])
        whole_path = f"{path.rpartition('/')[0]}/whole-{run}.parquet"
        self._tables.put(whole_path, rows)
        if path != whole_path:
            self._tables.lake.delete(path)
        return True

    def _catalogue(self, path: str) -> bool:
        name = path.split("/")[1]
        if name in _OTHER:
            whole = self._tables.catalogue(_OTHER[name])
            if not whole.num_rows:
                raise FormatError(f"{path} is damaged and there is no copy of it: restore it from a backup")
        else:
            numbers, days = self._tables.catalogue("numbers"), self._tables.clean_days()
            content = pc.field("event_type").isin(["ping_created", "ping_deleted"])
            each = [catalogue.derived(numbers, self._tables.clean(day, day).filter(content))[name] for day in days]
            whole = pa.concat_tables(one.select(CATALOGUE[name].names).cast(CATALOGUE[name]) for one in each)
        there = self._tables.catalogue(name)
        with duckdb.connect() as db:
            rest = db.sql("SELECT * FROM whole EXCEPT ALL SELECT * FROM there").to_arrow_table()
        self._tables.put(path, rest)
        return bool(whole.num_rows or there.num_rows)

    def _manifests(self, path: str) -> bool:
        """List the raw files whose events were learned in the manifests' ticks and that are in no other manifest."""
        folded, last = runs_in(path)
        if last < 0:
            return False
        tick = tick_of_run(last)
        day = day_number(folded) if folded else self._ticks.day(tick)
        known = self._ledger.known_runs()
        known_from = tick + is_amendment(last)
        files: list[str] = []
        for raw in (*self._tables.lake.list("events"), *self._tables.lake.list("errors")):
            if raw not in known and not is_compacted(raw) and day_of_path(raw) <= day_name(day + 1):
                at = self._known_from(raw, day)
                if at and (is_history(raw) or (self._ticks.day(at) == day if folded else at == known_from)):
                    files.append(raw)
        found = Manifest(run=last, tick=tick, at_ms=self._ticks.start_ms(tick), files=files)
        self._ledger.put(path, [found])
        return True

    def _known_from(self, path: str, day: int) -> int | None:
        """The tick from which a raw file's events are known; None if no clean event of those days is one of them."""
        ids = read_events(self._tables.lake, [path]).rows["event_id"].combine_chunks()
        first = day_number(day_of_path(path)) if is_history(path) else day
        clean = self._tables.clean(first, first + 1, ["event_id", "known_tick"])
        tick: int | None = pc.max(clean.filter(pc.is_in(clean["event_id"], value_set=ids))["known_tick"]).as_py()
        return tick
