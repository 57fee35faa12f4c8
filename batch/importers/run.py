"""One import from file to lake: recognise, place in time, map and check, write, remember.

An import that ran to its end is not run again. One that was broken off may be: it writes the same files with the same
rows, and those that are there stay as they are. What could not be imported is kept under `rejected/` in the lake.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow.compute as pc

from batch.importers import memory
from batch.importers.formats import Format, Piece, Times
from batch.importers.history import PREFIX, Files, HistoryFiles, NoFiles
from batch.importers.introductions import Introductions, known_pings
from batch.importers.refused import RefusedLines, rejected_path
from batch.importers.source import OnRead, Source
from batch.importers.times import EARLIEST_MS, Timeline
from batch.lake.ledger import Ledger
from batch.wiring import Batch
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import Row

SAMPLE: Final = 3
"""Events of each type that a dry run shows."""
Watch = Callable[[str], OnRead]
"""Begins a pass over the file, by its name; what it gives hears how far the pass is."""


@dataclass(frozen=True)
class Placing:
    """Where the log's times go: they keep their dates, or end at the last tick before now; perhaps stretched."""

    keep_dates: bool
    stretch_ms: int | None = None

    @property
    def text(self) -> str:
        """In words."""
        length = "" if self.stretch_ms is None else f", stretched to {self.stretch_ms / DAY_MS:g} days"
        return ("with its own dates" if self.keep_dates else "ending when it is imported") + length

    @property
    def moves(self) -> bool:
        """Whether a time of the log becomes another one."""
        return not self.keep_dates or self.stretch_ms is not None


@dataclass
class Outcome:
    """What an import came to."""

    source: str
    digest: str
    again: bool = False
    """Whether this import had been made before; then nothing was added."""
    dry_run: bool = False
    otherwise: bool = False
    """Whether the same content was imported before with other options: the lake keeps events that are the same once."""
    lines: int = 0
    events: int = 0
    """Events that are in the lake now (in a dry run: would be) and were not before."""
    types: Counter[str] = field(default_factory=Counter)
    introduced: int = 0
    """How many of the events introduce pings that the log only mentions."""
    left_out: int = 0
    cut: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    end_ms: int = 0
    """The last tick before the import ended here."""
    files: list[str] = field(default_factory=list)
    refused: RefusedLines = field(default_factory=RefusedLines)
    rejected_file: str | None = None
    sample: list[Row] = field(default_factory=list)


class Importer:
    """Imports one file into one lake. `watch` shows progress."""

    def __init__(self, batch: Batch, source: Source, form: Format, watch: Watch) -> None:
        self._batch = batch
        self._lake = batch.tables.lake
        self._source = source
        self._format = form
        self._watch = watch
        self._key = memory.key_of(form.options)

    def run(self, placing: Placing, *, dry_run: bool = False) -> Outcome:
        """Import, or (`dry_run`) only find out what would come of it; InvalidInput if the file as a whole is wrong."""
        digest = self._source.digest(self._watch("reading"))
        outcome = Outcome(self._source.path.name, digest, dry_run=dry_run)
        log = memory.recall(self._lake, digest) or self._placed(placing)
        memory.check_placing(log, placing.text)
        outcome.end_ms = log.end_ms
        before = log.imports.get(self._key)
        outcome.otherwise = any(one.finished for key, one in log.imports.items() if key != self._key)
        if before is not None and before.finished:
            outcome.again, outcome.files = True, before.files
        elif dry_run:
            self._read(log, outcome, NoFiles(), NoFiles())
        else:
            mine = before or memory.Import(options=dict(self._format.options), at_ms=self._batch.clock())
            self._import(log, mine, outcome)
        return outcome

    def _placed(self, placing: Placing) -> memory.Log:
        """A log that is new: when its history begins and ends."""
        now_ms, tick_ms = self._batch.clock(), self._batch.ticks.tick_ms
        end_ms = self._batch.ticks.of(now_ms) * tick_ms - 1
        timeline = Timeline(0, 0, 0, 0)
        if placing.moves or self._format.needs_span:
            first_ms, last_ms = self._format.span(self._source, now_ms, self._watch("looking for its times"))
            length_ms = last_ms - first_ms if placing.stretch_ms is None else placing.stretch_ms
            begin_ms = first_ms if placing.keep_dates else end_ms - length_ms
            timeline = Timeline(first_ms, last_ms, begin_ms, length_ms)
            if begin_ms < EARLIEST_MS or timeline.end_ms > max(end_ms, last_ms):
                raise InvalidInput("the log would begin before the year 2000 or end in the future; stretch it less")
        return memory.Log(
            name=self._source.path.name,
            placing=placing.text,
            timeline=timeline,
            end_ms=end_ms,
            now_ms=now_ms,
            tick_ms=tick_ms,
        )

    def _import(self, log: memory.Log, mine: memory.Import, outcome: Outcome) -> None:
        """Write the files. What is remembered first (the times) makes a second attempt write the same."""
        log.imports[self._key] = mine
        memory.remember(self._lake, outcome.digest, log)
        name = self._name(outcome)
        acts, pings = HistoryFiles(self._lake, name), HistoryFiles(self._lake, f"{name}-pings")
        self._read(log, outcome, acts, pings)
        outcome.files = sorted([*acts.paths, *pings.paths])
        if outcome.refused.kept:
            outcome.rejected_file = rejected_path(name, mine.at_ms)
            self._lake.write(outcome.rejected_file, outcome.refused.as_file(outcome.source, mine.at_ms))
        if outcome.events:
            mine.finished, mine.events, mine.files = True, outcome.events, outcome.files
            memory.remember(self._lake, outcome.digest, log)

    def _name(self, outcome: Outcome) -> str:
        return f"{outcome.digest}-{self._key}"

    def _read(self, log: memory.Log, outcome: Outcome, acts: Files, pings: Files) -> None:
        """Read the log into the files and the outcome."""
        introductions = Introductions(self._format.separator)
        times = Times(log.timeline, log.end_ms, log.now_ms, log.tick_ms)
        on_read = self._watch("importing")
        for piece in self._format.pieces(self._source, times, outcome.refused.room, on_read):
            _count(outcome, piece)
            introductions.add(piece.events, piece.mentions)
            acts.add(piece.events)
        acts.close()
        ledger = Ledger(self._batch.tables, self._batch.ticks)
        known = known_pings(self._batch.tables, ledger, f"{PREFIX}{self._name(outcome)}-")
        missing = introductions.table(log.tick_ms, known)
        _add(outcome, missing)
        outcome.introduced = missing.num_rows
        pings.add(missing)
        pings.close()


def _count(outcome: Outcome, piece: Piece) -> None:
    outcome.lines += piece.lines
    outcome.left_out += piece.left_out
    outcome.cut += piece.cut
    outcome.refused.add(piece.refused, piece.refused_count)
    _add(outcome, piece.events)


def _add(outcome: Outcome, events: Any) -> None:
    """Count events by type, keep the first of each, and when the earliest and the latest arrive."""
    if not events.num_rows:
        return
    outcome.events += events.num_rows
    for kind in pc.value_counts(events["event_type"]).to_pylist():
        name = kind["values"]
        if outcome.types[name] < SAMPLE:
            first = events.filter(pc.field("event_type") == name).slice(0, SAMPLE - outcome.types[name])
            outcome.sample += [_row(row) for row in first.to_pylist()]
        outcome.types[name] += kind["counts"]
    span = pc.min_max(events["received_ms"]).as_py()
    outcome.first_ms = span["min"] if outcome.first_ms is None else min(span["min"], outcome.first_ms)
    outcome.last_ms = span["max"] if outcome.last_ms is None else max(span["max"], outcome.last_ms)


def _row(row: Row) -> Row:
    """A row of a table without what it has not; maps as dictionaries."""
    present = {name: value for name, value in row.items() if value is not None}
    return {name: dict(value) if name in ("facets", "attributes") else value for name, value in present.items()}
