"""The ledger: which files each run has read. `ticks/<tick>/manifest.json` is written last, and committed with the rest.

A run reads every raw file that has landed and is in no manifest, and stamps its events with its own tick: the time at
which the system learned of them. Files of imported history (`history-*.parquet`) were known earlier: each of their
events gets the tick after the one in which it was received.

A tick runs once. Files read later under a finished tick (history just imported, or a manual `etl`) form an amendment:
`manifest-1.json` and so on. Features as of that tick may be published already, so an amendment's events count from the
next tick. The run's number, `tick * 100 + amendment`, names its files.

    ticks/1994832/manifest.json                       one run
    ticks/day=2026-10-01/manifests-199489600.json     all runs of a day; the name contains the last run's number

A day has 96 manifests, and the nightly job reads all of them, so those of days older than `FOLD_DAYS` are folded into
one file.
"""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeVar

import msgspec

from batch.lake.tables import Tables
from batch.ticks import Ticks, day_name, day_number, day_of_path
from pingfeed.core.words import counted

_MANIFEST: Final = re.compile(r"^ticks/(\d+)/manifest(?:-(\d+))?\.json$")
_COMPACTED: Final = re.compile(r"/compact-[0-9a-f]{16}\.parquet$")
_FOLDED: Final = re.compile(r"^ticks/day=(\d{4}-\d{2}-\d{2})/manifests-(\d+)\.json$")
_T = TypeVar("_T")
FOLD_DAYS: Final = 35
_RECENT_DAYS: Final = 2
_RUNS_A_TICK: Final = 100
_READ_AT_ONCE: Final = 16


class Manifest(msgspec.Struct, kw_only=True):
    """The files of a run and its counts."""

    run: int
    tick: int
    at_ms: int
    files: list[str]
    read: int = 0
    """Rows in those files."""
    kept: int = 0
    """Rows that were not duplicates."""
    rejected: int = 0
    """Documents in those files that are not valid rows; stored under `rejected/`."""
    left_out: int = 0
    """Unreadable files; they are in no manifest and are tried again."""
    quarantined: int = 0
    """Rows that a step could not take; stored under `quarantine/`."""
    oldest_day: int | None = None
    """The earliest day that got events: before the tick's own day if history was imported."""


def in_words(*, read: int, kept: int, rejected: int, left_out: int, quarantined: int = 0) -> str:
    """The counts of a run for a person."""
    repeated = counted(read - kept - quarantined, "duplicate")
    said = f"{counted(read, 'event')} read, {kept:,} of them new, {repeated}"
    if quarantined:
        said += f", {quarantined:,} quarantined"
    if rejected:
        said += f", {counted(rejected, 'document')} rejected"
    return said + (f", {counted(left_out, 'file')} unreadable" if left_out else "")


@dataclass(frozen=True)
class Unread:
    """Raw files that no run has read."""

    live: list[str]
    history: list[str]
    errors: list[str]
    """Records that Firehose could not convert; read only with `everything`."""


class Ledger:
    """Reads and writes the manifests of one lake."""

    def __init__(self, tables: Tables, ticks: Ticks) -> None:
        self._tables = tables
        self._lake = tables.lake
        self._ticks = ticks

    def finished(self) -> list[int]:
        """Numbers of the finished runs, ascending; only the last one of a folded day."""
        return sorted({*self._single(), *self._folded().values()})

    def next_run(self, tick: int) -> int:
        """The number of the tick's run, or of its next amendment."""
        return max((run + 1 for run in self.finished() if tick_of_run(run) == tick), default=tick * _RUNS_A_TICK)

    def last_manifest(self, tick: int) -> Manifest | None:
        """The manifest of the tick's latest run, None if there is none."""
        runs = [run for run in self.finished() if tick_of_run(run) == tick]
        return next(self._load_all(runs[-1:]), None)

    def remove_unfinished(self) -> None:
        """List the lake again and leave out what a crashed run of a lake without versions left; a run begins so."""
        self._tables.refresh()
        single, days = set(self._single()), set(self._folded())
        # A folded day has nothing unfinished: the nightly job that folded it began with this.
        self._tables.keep_runs(lambda run: run in single or self._ticks.day(tick_of_run(run)) in days)

    def unread(self, tick: int, *, everything: bool) -> Unread:
        """Raw files that have landed and that no run has read.

        A tick lists the partitions of the last two days and their manifests; `everything` (the nightly job, a first
        run) lists all partitions and so finds files that landed in an old one.
        """
        first_day = 0 if everything else self._ticks.day(tick) - _RECENT_DAYS + 1
        read = self.known_ticks(first_day)
        landed = [
            path
            for path in self._lake.list("events")
            if path not in read and not is_compacted(path) and day_of_path(path) >= day_name(first_day)
        ]
        history = [path for path in landed if is_history(path)]
        errors = [path for path in self._lake.list("errors") if path not in read] if everything else []
        return Unread(live=[path for path in landed if path not in set(history)], history=history, errors=errors)

    def known_ticks(self, first_day: int = 0) -> dict[str, int]:
        """Every raw file that the runs since a day have read, with the tick from which its events count.

        For a file of imported history this is the run's tick, although its events count from earlier ones.
        """
        return {path: tick_of_run(run) + is_amendment(run) for path, run in self.known_runs(first_day).items()}

    def known_runs(self, first_day: int = 0) -> dict[str, int]:
        """Every raw file that the runs since a day have read, with the run."""
        paths = [_folded_path(*key) for key in self._folded().items() if key[0] >= first_day]
        runs = [run for run in self._single() if self._ticks.day(tick_of_run(run)) >= first_day]
        found = [*(one for several in self._read(paths, list[Manifest]) for one in several), *self._load_all(runs)]
        return {path: one.run for one in found for path in one.files}

    def fold(self, today: int) -> None:
        """Fold the manifests of each day older than `FOLD_DAYS` into one file."""
        folded = self._folded()
        for day, runs in groupby(self._single(), key=lambda run: self._ticks.day(tick_of_run(run))):
            if day < today - FOLD_DAYS:
                self._fold(day, list(runs), folded.get(day))
        self._tables.versions.commit()

    def _fold(self, day: int, runs: list[int], before: int | None) -> None:
        there = [] if before is None else next(self._read([_folded_path(day, before)], list[Manifest]))
        found = {one.run: one for one in [*there, *self._load_all(runs)]}
        path = _folded_path(day, max(found))
        self._lake.write(path, msgspec.json.Encoder().encode([found[run] for run in sorted(found)]))
        for run in runs:
            self._lake.delete(_path(run))
        if before is not None and _folded_path(day, before) != path:
            self._lake.delete(_folded_path(day, before))

    def _single(self) -> list[int]:
        """Runs whose manifests are separate files, ascending."""
        return sorted(runs_in(path)[1] for path in self._lake.list("ticks") if _MANIFEST.match(path))

    def _folded(self) -> dict[int, int]:
        """Folded days with their last runs."""
        found = (_FOLDED.match(path) for path in self._lake.list("ticks"))
        return {day_number(match[1]): int(match[2]) for match in found if match}

    def finish(self, manifest: Manifest) -> None:
        """Commit the run: what it has written becomes visible with its manifest. Busy if another run was first."""
        self._lake.write(_path(manifest.run), msgspec.json.format(msgspec.json.encode(manifest)))
        self._tables.versions.commit()

    def put(self, path: str, manifests: list[Manifest]) -> None:
        """Replace a damaged file by these manifests."""
        single = _MANIFEST.match(path)
        self._lake.write(path, msgspec.json.encode(manifests[0] if single else manifests))

    def _load_all(self, runs: Iterable[int]) -> Iterator[Manifest]:
        return self._read(map(_path, runs), Manifest)

    def _read(self, paths: Iterable[str], kind: type[_T]) -> Iterator[_T]:
        """The contents of these files but for one that is being rebuilt."""
        usable = [path for path in paths if not self._tables.is_being_rebuilt(path)]
        with ThreadPoolExecutor(_READ_AT_ONCE, "ledger") as pool:
            for path, data in zip(usable, pool.map(self._tables.read, usable), strict=True):
                found = self._tables.decoded(path, data, kind)
                if found is not None:
                    yield found


def runs_in(path: str) -> tuple[str, int]:
    """The day of a file of manifests ("" if it has one run) and its (last) run, by its name."""
    if single := _MANIFEST.match(path):
        return "", int(single[1]) * _RUNS_A_TICK + int(single[2] or 0)
    folded = _FOLDED.match(path)
    return (folded[1], int(folded[2])) if folded else ("", -1)


def tick_of_run(run: int) -> int:
    """The tick of a run number."""
    return run // _RUNS_A_TICK


def is_amendment(run: int) -> bool:
    """Whether the run came after its tick's first."""
    return run % _RUNS_A_TICK > 0


def is_compacted(path: str) -> bool:
    """Whether a raw file is a compaction of files that were read (`compaction.py`): it is never read as new."""
    return bool(_COMPACTED.search(path))


def is_history(path: str) -> bool:
    """Whether a raw file is imported history, which was never accepted."""
    return path.rpartition("/")[2].startswith("history-")


def _folded_path(day: int, last: int) -> str:
    return f"ticks/day={day_name(day)}/manifests-{last}.json"


def _path(run: int) -> str:
    suffix = f"-{run % _RUNS_A_TICK}" if is_amendment(run) else ""
    return f"ticks/{tick_of_run(run)}/manifest{suffix}.json"
