"""One import from file to lake: recognise, check and stage, place in time, write, remember.

Nothing is written while more than a tenth of the records are rejected. An import that ran to its end is not run again;
an interrupted one may be: it writes the same files with the same rows. Rejected records are kept under `rejected/`.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pyarrow as pa

from batch.importers import import_log
from batch.importers.formats import Format, Rejections, rejected_path
from batch.importers.source import OnRead, Source
from batch.importers.staging import PREFIX, Staging, Timeline, known_pings, missing_items, write_history
from batch.lake.ledger import Ledger
from batch.wiring import Batch
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import Row

SAMPLE: Final = 3
"""Events of each type that a dry run shows."""
MAX_REJECTED: Final = 0.1
_EARLIEST_MS: Final = 946_684_800_000  # 2000-01-01
_IMPORTED: Final = re.compile(rf"/{PREFIX}[0-9a-f]{{16}}-[0-9a-f]{{8}}-[^/]*$")
_IDS: Final = pa.schema([("event_id", pa.string()), ("user_id", pa.string())])
Watch = Callable[[str], OnRead]
"""Begins a pass over the file, by its name; the result is called with how far the pass is."""


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


@dataclass
class Outcome:
    """What an import came to."""

    source: str
    digest: str
    again: bool = False
    """Whether this import had been made before; then nothing was added."""
    dry_run: bool = False
    stopped: str = ""
    """Why nothing was written although there are events."""
    otherwise: bool = False
    """Whether the same content was imported before with other options."""
    records: int = 0
    events: int = 0
    """Events that are new in the lake (in a dry run: would be)."""
    duplicates: int = 0
    types: Counter[str] = field(default_factory=Counter)
    introduced: int = 0
    """How many of the events introduce pings that the log only mentions."""
    left_out: int = 0
    cut: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    end_ms: int = 0
    """The last tick before the import ended here."""
    times: dict[str, int] = field(default_factory=dict)
    """How times are written -> how many are."""
    notes: list[tuple[str, int, int]] = field(default_factory=list)
    """What happened to optional fields, how often, and in which record first."""
    looks_like_ratings: bool = False
    """Whether watch_time_ratio holds ratings."""
    engaged_requests: int = 0
    """Feed requests with an impression and an interaction: what a model is trained on."""
    files: list[str] = field(default_factory=list)
    rejected: Rejections = field(default_factory=Rejections)
    rejected_file: str | None = None
    sample: list[Row] = field(default_factory=list)

    def add(self, count: int, event_type: str, first_ms: int, last_ms: int) -> None:
        """Count events of a type."""
        self.events += count
        self.types[event_type] += count
        self.first_ms = first_ms if self.first_ms is None else min(first_ms, self.first_ms)
        self.last_ms = last_ms if self.last_ms is None else max(last_ms, self.last_ms)


class Importer:
    """Imports one file into one lake. `watch` shows progress."""

    def __init__(self, batch: Batch, source: Source, form: Format, watch: Watch) -> None:
        self._batch = batch
        self._lake = batch.tables.lake
        self._source = source
        self._format = form
        self._watch = watch
        self._key = import_log.key_of(form.options)

    def run(
        self, placing: Placing, *, dry_run: bool = False, allow_rejected: bool = False, allow_ratings: bool = False
    ) -> Outcome:
        """Import, or (`dry_run`) only find out what would come of it; InvalidInput if the file as a whole is wrong."""
        digest = self._source.digest(self._watch("reading"))
        outcome = Outcome(self._source.path.name, digest, dry_run=dry_run)
        log = import_log.recall(self._lake, digest)
        before = None
        if log is not None:
            import_log.check_placing(log, placing.text)
            before = log.imports.get(self._key)
            outcome.otherwise = any(one.finished for key, one in log.imports.items() if key != self._key)
        if before is not None and before.finished:
            outcome.again, outcome.files = True, before.files
            return outcome
        with TemporaryDirectory(prefix="pingfeed-import-") as folder:
            staging = Staging(Path(folder))
            try:
                self._stage(staging, outcome, self._batch.clock() if log is None else log.now_ms)
                log = log or self._placed(placing, staging)
                missing = self._place(staging, outcome, log)
                outcome.stopped = _stopped(outcome, allow_rejected, allow_ratings)
                if not dry_run and not outcome.stopped:
                    mine = before or import_log.Import(options=dict(self._format.options), at_ms=self._batch.clock())
                    self._write(staging, missing, outcome, log, mine)
            finally:
                staging.close()
        return outcome

    def _stage(self, staging: Staging, outcome: Outcome, now_ms: int) -> None:
        """Read and check the log."""
        for piece in self._format.pieces(self._source, now_ms, self._watch("importing")):
            outcome.records += piece.records
            outcome.left_out += piece.left_out
            outcome.cut += piece.cut
            outcome.rejected.add(piece.rejected)
            staging.add(piece.events)
        others = [
            path
            for path in self._lake.list("events")
            if _IMPORTED.search(path) and f"/{self._own(outcome)}" not in path
        ]
        outcome.duplicates = staging.drop_duplicates(self._lake.dataset(others, _IDS) if others else _IDS.empty_table())

    def _own(self, outcome: Outcome) -> str:
        """How the names of this import's files begin."""
        return f"{PREFIX}{outcome.digest}-{self._key}-"

    def _placed(self, placing: Placing, staging: Staging) -> import_log.Log:
        """A log that is new: when its history begins and ends."""
        now_ms, tick_ms = self._batch.clock(), self._batch.ticks.tick_ms
        end_ms = self._batch.ticks.of(now_ms) * tick_ms - 1
        ((first_ms, last_ms),) = staging.query(_SPAN, self._format.items_first)
        timeline = Timeline(0, 0, 0, 0)
        if first_ms is None and self._format.items_first:
            raise InvalidInput(f"{self._source.path.name} holds no list and no interaction of Metarank's format")
        if first_ms is not None:
            length_ms = last_ms - first_ms if placing.stretch_ms is None else placing.stretch_ms
            begin_ms = first_ms if placing.keep_dates else end_ms - length_ms
            timeline = Timeline(first_ms, last_ms, begin_ms, length_ms)
            if begin_ms < _EARLIEST_MS or timeline.end_ms > max(end_ms, last_ms):
                raise InvalidInput("the log would begin before the year 2000 or end in the future; stretch it less")
        return import_log.Log(
            name=self._source.path.name,
            placing=placing.text,
            timeline=timeline,
            end_ms=end_ms,
            now_ms=now_ms,
            tick_ms=tick_ms,
        )

    def _place(self, staging: Staging, outcome: Outcome, log: import_log.Log) -> pa.Table:
        """Place the events, sum them up, and find the pings that are missing."""
        staging.place(log.timeline, log.end_ms, log.tick_ms if self._format.items_first else None)
        outcome.end_ms = log.end_ms
        for one in staging.totals():
            outcome.add(one.count, one.event_type, one.first_ms, one.last_ms)
            outcome.sample += [_row(row) for row in staging.sample(one.event_type, SAMPLE).to_pylist()]
        outcome.times = dict(staging.query("SELECT time_kind, count(*) FROM events WHERE time_kind <> '' GROUP BY 1"))
        outcome.notes = [(str(note), int(count), int(first)) for note, count, first in staging.query(_NOTES)]
        ((outcome.looks_like_ratings,),) = staging.query(_RATINGS)
        ((outcome.engaged_requests,),) = staging.query(_ENGAGED)
        ledger = Ledger(self._batch.tables, self._batch.ticks)
        known = known_pings(self._batch.tables, ledger, self._own(outcome))
        missing = missing_items(staging, log.tick_ms, known)
        outcome.introduced = missing.num_rows
        if missing.num_rows:
            first, last = missing["received_ms"][0].as_py(), missing["received_ms"][-1].as_py()
            seen = outcome.types["ping_created"]
            outcome.sample += [_row(row) for row in missing.slice(0, max(0, SAMPLE - seen)).to_pylist()]
            outcome.add(missing.num_rows, "ping_created", first, last)
        return missing

    def _write(
        self, staging: Staging, missing: pa.Table, outcome: Outcome, log: import_log.Log, mine: import_log.Import
    ) -> None:
        """Write the files. What is remembered first (the times) makes a second attempt write the same."""
        name = f"{outcome.digest}-{self._key}"
        if outcome.rejected.kept:
            outcome.rejected_file = rejected_path(name, mine.at_ms)
            self._lake.write(outcome.rejected_file, outcome.rejected.as_file(outcome.source, mine.at_ms))
        if not outcome.events:
            return
        log.imports[self._key] = mine
        import_log.remember(self._lake, outcome.digest, log)
        acts = staging.write(self._lake, name)
        pings = write_history(self._lake, f"{name}-pings", missing.to_batches())
        outcome.files = sorted([*acts, *pings])
        mine.finished, mine.events, mine.files = True, outcome.events, outcome.files
        import_log.remember(self._lake, outcome.digest, log)


_RATINGS: Final = """
    SELECT coalesce(count(*) >= 2 AND max(r) >= 3 AND bool_and(r * 2 = floor(r * 2) AND notes NOT LIKE '%capped%')
        AND count(*) FILTER (r > 1) * 2 >= count(*), false)
    FROM (SELECT watch_time_ratio AS r, coalesce(notes, '') AS notes FROM events WHERE event_type = 'view')"""
_SPAN: Final = "SELECT min(at_ms), max(at_ms) FROM events WHERE NOT $1 OR event_type <> 'ping_created'"
_NOTES: Final = """
    SELECT note, count(*), min(seq)
    FROM (SELECT unnest(string_split(notes, ',')) AS note, seq FROM events WHERE notes <> '') GROUP BY 1 ORDER BY 1"""
_ENGAGED: Final = """
    SELECT count(*) FROM (SELECT request_id FROM events WHERE request_id IS NOT NULL GROUP BY request_id
        HAVING bool_or(event_type = 'impression') AND bool_or(event_type <> 'impression'))"""


def _stopped(outcome: Outcome, allow_rejected: bool, allow_ratings: bool) -> str:
    """Why the import must not be written as it is."""
    count, records = outcome.rejected.count, outcome.records
    if outcome.looks_like_ratings and not allow_ratings:
        return (
            "watch_time_ratio looks like ratings: it holds whole and half numbers above 1, and each rating of 5 would "
            "count as five full watches. --rating-like 4 turns ratings of 4 and more into likes; --allow-ratings "
            "imports them as watch ratios"
        )
    if count > MAX_REJECTED * records and not allow_rejected:
        return (
            f"{count:,} of {records:,} records ({count / records:.0%}) were rejected, more than {MAX_REJECTED:.0%}: "
            "correct the options or the file, or use --allow-rejected to import the others"
        )
    return ""


def _row(row: Row) -> Row:
    """A row of a table without its nulls; maps as dictionaries."""
    present: dict[str, Any] = {name: value for name, value in row.items() if value is not None and value != []}
    return {name: dict(value) if name in ("facets", "attributes") else value for name, value in present.items()}
