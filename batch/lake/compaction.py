"""Compacts raw files: the small files of each past day that runs have read become a few large ones.

    events/year=2026/month=11/day=22/compact-<digest>.parquet    the rows of its sources, and `known_tick`
    compactions/day=2026-11-22/<digest>.json                     its manifest, which lists the sources

A sink writes a file every few seconds or minutes; S3 bills each, and files under 128 KB never move to Glacier. The
digest is that of the lease's number and the sources' names. `known_tick` is the tick from which a live event counts,
taken from the manifest of the run that read its source, so that the past can be rebuilt without the source. Files of
imported history stay as they are (they are large, and the importer finds them by name), and so do files that no run has
read.

Nothing is counted twice: the ledger never reads a compacted file as new and remembers the sources by its own manifests.
The compacted file is written first, then its manifest is committed, then the sources are deleted. A file without a
manifest is left over from a crash before any source was deleted: it is deleted if all sources that its metadata lists
still exist; otherwise it is the only copy and stays. A source that still lies beside a finished compaction is deleted
too; a sink that sends it again after a restart writes the same rows.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from batch.lake.ledger import Ledger, is_compacted, is_history
from batch.lake.raw_files import UNREADABLE, read_events
from batch.lake.tables import CLEAN, Tables, parquet_of
from batch.ticks import day_name, day_of_path

MAX_ROWS: Final = 400_000
"""Rows at which a file is closed: memory holds that many and one source."""
DAYS: Final = 60
"""Older partitions are left unchanged: their files may be in an archive tier (`deploy/bucket.py`)."""

_SOURCES: Final = b"sources"
_LOG = logging.getLogger(__name__)


class Compaction(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of one compacted file."""

    file: str
    sources: list[str]
    rows: int


class RawCompaction:
    """Compacts the raw partitions of one lake. Requires the lease."""

    def __init__(self, tables: Tables, ledger: Ledger) -> None:
        self._tables = tables
        self._lake = tables.lake
        self._ledger = ledger

    def run(self, today: int) -> None:
        """Compact every past partition of the last `DAYS` days; `today` is a day number."""
        first, last = day_name(today - DAYS), day_name(today - 1)
        known: dict[str, int] | None = None
        for day, paths in groupby(self._lake.list("events"), key=day_of_path):
            if not first <= day <= last:
                continue
            loose, compacted = self._tidied(day, list(paths))
            if loose:
                known = self._ledger.known_ticks(today - DAYS) if known is None else known
                self._compact(day, [path for path in loose if path in known], compacted, known)

    def _tidied(self, day: str, paths: list[str]) -> tuple[list[str], list[Compaction]]:
        """A partition's loose files and its compactions, after removing what a crash left."""
        loose = [path for path in paths if not is_compacted(path) and not is_history(path)]
        named = {_digest(path) for path in self._lake.list(f"compactions/day={day}")}
        there = {path for path in paths if is_compacted(path)}
        unnamed = {path for path in there if _digest(path) not in named}
        spare = [path for path in unnamed if self._is_spare(path, paths)]
        if spare:  # Not of a run that began meanwhile and is about to name it.
            self._tables.versions.verify()
        self._remove(spare)
        there -= unnamed
        if not there or not (loose or len(there) > 1):
            return loose, []
        finished = [one for name in sorted(named) if (one := self._tables.json(_path(day, name), Compaction))]
        spent = {source for one in finished for source in one.sources}
        self._remove(path for path in (*loose, *there) if path in spent)
        return [path for path in loose if path not in spent], [
            one for one in finished if one.file in there and one.file not in spent
        ]

    def _is_spare(self, path: str, paths: list[str]) -> bool:
        """Whether all sources of a file without a manifest still exist. If not, it is the only copy."""
        try:
            found = pq.read_metadata(pa.BufferReader(self._lake.read(path))).metadata[_SOURCES]
            spare = set(msgspec.json.decode(found, type=list[str])) <= set(paths)
        except (*UNREADABLE, TypeError, msgspec.DecodeError):
            spare = False  # It is damaged.
        if not spare:
            _LOG.error("a compacted file has no manifest and its sources are gone; kept: %s", path)
        return spare

    def _compact(self, day: str, loose: list[str], compacted: list[Compaction], known: dict[str, int]) -> None:
        """Compact the loose files; latecomers join the smallest compacted file."""
        smallest = min(compacted, key=lambda one: one.rows, default=None)
        joined = [smallest.file] if loose and smallest is not None and smallest.rows < MAX_ROWS else []
        paths = [*joined, *loose]
        for sources, rows in self._groups(paths if len(paths) > 1 else [], known):
            if len(sources) > 1:
                self._write(day, sources, rows)

    def _groups(self, paths: list[str], known: dict[str, int]) -> Iterator[tuple[list[str], pa.Table]]:
        """Groups of sources with their rows, each as large as one file may be."""
        sources: list[str] = []
        tables: list[pa.Table] = []
        for path in paths:
            rows = self._read(path, known)
            if rows is None:
                continue
            sources.append(path)
            tables.append(rows)
            if sum(table.num_rows for table in tables) >= MAX_ROWS:
                yield sources, pa.concat_tables(tables)
                sources, tables = [], []
        if sources:
            yield sources, pa.concat_tables(tables)

    def _read(self, path: str, known: dict[str, int]) -> pa.Table | None:
        """A file's rows with their known tick; None for a file that has become unreadable: it stays."""
        if is_compacted(path):
            try:
                return self._tables.scan([path], CLEAN, CLEAN.names)
            except UNREADABLE as error:
                _LOG.error("unreadable raw file left out: %s: %s", path, error)
                return None
        found = read_events(self._lake, [path])
        if found.left_out:
            _LOG.error("unreadable raw file left out: %s: %s", path, found.left_out[path])
            return None
        rows = found.rows
        return rows.append_column("known_tick", pa.array([known[path]] * rows.num_rows, pa.int64()))

    def _write(self, day: str, sources: list[str], rows: pa.Table) -> None:
        of = f"{self._tables.versions.fence} {' '.join(sources)}"
        name = hashlib.blake2b(of.encode(), digest_size=8).hexdigest()
        done = Compaction(
            file=f"{sources[0].rpartition('/')[0]}/compact-{name}.parquet", sources=sources, rows=rows.num_rows
        )
        about = {_SOURCES: msgspec.json.encode(sources)}
        self._lake.write(done.file, parquet_of(rows.replace_schema_metadata(about)))
        self._lake.write(_path(day, name), msgspec.json.format(msgspec.json.encode(done)))
        self._tables.versions.commit(done.file)
        self._remove(sources)

    def _remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._lake.delete(path)


def _digest(path: str) -> str:
    """The digest that names a compacted file and its manifest."""
    return path.rpartition("/")[2].removeprefix("compact-").partition(".")[0]


def _path(day: str, name: str) -> str:
    return f"compactions/day={day}/{name}.json"
