"""One import from file to lake: recognise, check and stage, place in time, write, remember.

Nothing is written while more than a tenth of the records are rejected. An import that ran to its end is not run again;
an interrupted one may be: it writes the same files with the same rows. Rejected records are kept under `rejected/`.

Imports are remembered in `imports/<digest of the content>.json` of the lake. A log that is moved in time ends at the
last tick before now, and "now" differs at every run: so the first import's times apply to every later import of the
same content.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
import pyarrow as pa

from batch.importers.csv_mapping import EARLIEST_MS
from batch.importers.formats import Format, Source, rejected_path
from batch.importers.report import Outcome
from batch.importers.staging import PREFIX, Staging, Timeline, known_pings, missing_items, write_history
from batch.lake.ledger import Ledger
from batch.training.train import DAYS
from batch.wiring import Batch
from pingfeed.core.clock import DAY_MS, HOUR_MS
from pingfeed.core.errors import FormatError, InvalidInput, NotFound
from pingfeed.core.events import Row
from pingfeed.core.integrity import UNREADABLE
from pingfeed.ports import Lake

SAMPLE: Final = 3
"""Events of each type that a dry run shows."""
MAX_REJECTED: Final = 0.1
_IMPORTED: Final = re.compile(rf"/{PREFIX}[0-9a-f]{{16}}-[0-9a-f]{{8}}-[^/]*$")
_IDS: Final = pa.schema([("event_id", pa.string()), ("user_id", pa.string())])


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


class Import(msgspec.Struct, kw_only=True):
    """One import of a log: with which options, and what came of it."""

    options: dict[str, str]
    at_ms: int
    finished: bool = False
    """False while it runs, and after it was interrupted: then it may be run again, with the same result."""
    events: int = 0
    files: list[str] = []


class Log(msgspec.Struct, kw_only=True):
    """All that is remembered of one content."""

    name: str
    """The file's name when it was first imported."""
    placing: str
    """How the caller wanted its times placed."""
    timeline: Timeline
    end_ms: int
    now_ms: int
    tick_ms: int
    imports: dict[str, Import] = {}


class Importer:
    """Imports one file into one lake."""

    def __init__(self, batch: Batch, source: Source, form: Format) -> None:
        self._batch = batch
        self._lake = batch.tables.lake
        self._source = source
        self._format = form
        self._key = _key_of(form.options)

    def run(
        self, placing: Placing, *, dry_run: bool = False, allow_rejected: bool = False, allow_ratings: bool = False
    ) -> Outcome:
        """Import, or (`dry_run`) only find out what would come of it; InvalidInput if the file as a whole is wrong."""
        digest = self._source.digest()
        outcome = Outcome(self._source.path.name, digest, dry_run=dry_run)
        log = _recall(self._lake, digest)
        before = None
        if log is not None:
            _check_placing(log, placing.text)
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
                    mine = before or Import(options=dict(self._format.options), at_ms=self._batch.clock())
                    self._write(staging, missing, outcome, log, mine)
            finally:
                staging.close()
        return outcome

    def _stage(self, staging: Staging, outcome: Outcome, now_ms: int) -> None:
        """Read and check the log."""
        for piece in self._format.pieces(self._source, now_ms):
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

    def _placed(self, placing: Placing, staging: Staging) -> Log:
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
            if begin_ms < EARLIEST_MS or timeline.end_ms > max(end_ms, last_ms):
                raise InvalidInput("the log would begin before the year 2000 or end in the future; stretch it less")
        return Log(
            name=self._source.path.name,
            placing=placing.text,
            timeline=timeline,
            end_ms=end_ms,
            now_ms=now_ms,
            tick_ms=tick_ms,
        )

    def _place(self, staging: Staging, outcome: Outcome, log: Log) -> pa.Table:
        """Place the events, sum them up, and find the pings that are missing."""
        staging.place(log.timeline, log.end_ms, log.tick_ms if self._format.items_first else None)
        outcome.end_ms = log.end_ms
        for event_type, count, first_ms, last_ms in staging.query(_TOTALS):
            outcome.add(count, event_type, first_ms, last_ms)
            outcome.sample += [_row(row) for row in staging.sample(event_type, SAMPLE).to_pylist()]
        outcome.times = dict(staging.query("SELECT time_kind, count(*) FROM events WHERE time_kind <> '' GROUP BY 1"))
        outcome.notes = [(str(note), int(count), int(first)) for note, count, first in staging.query(_NOTES)]
        ((outcome.looks_like_ratings,),) = staging.query(_RATINGS)
        now_ms, hours = self._batch.clock(), self._batch.settings.label_window_hours
        oldest_ms = (now_ms // DAY_MS + 1 - DAYS) * DAY_MS
        ((outcome.engaged_requests,),) = staging.query(_ENGAGED, hours * HOUR_MS, oldest_ms, now_ms)
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

    def _write(self, staging: Staging, missing: pa.Table, outcome: Outcome, log: Log, mine: Import) -> None:
        """Write the files. What is remembered first (the times) makes a second attempt write the same."""
        name = f"{outcome.digest}-{self._key}"
        if outcome.rejected.kept:
            outcome.rejected_file = rejected_path(name, mine.at_ms)
            self._lake.write(outcome.rejected_file, outcome.rejected.as_file(outcome.source, mine.at_ms))
        if not outcome.events:
            return
        log.imports[self._key] = mine
        self._remember(outcome.digest, log)
        acts = staging.write(self._lake, name)
        pings = write_history(self._lake, f"{name}-pings", missing.to_batches())
        outcome.files = sorted([*acts, *pings])
        mine.finished, mine.events, mine.files = True, outcome.events, outcome.files
        self._remember(outcome.digest, log)

    def _remember(self, digest: str, log: Log) -> None:
        """Keep it. Busy if another run was first."""
        self._lake.write(_path(digest), msgspec.json.format(msgspec.json.encode(log)))
        self._batch.tables.versions.commit()


_RATINGS: Final = """
    SELECT coalesce(count(*) >= 2 AND max(r) >= 3 AND bool_and(r * 2 = floor(r * 2) AND notes NOT LIKE '%capped%')
        AND count(*) FILTER (r > 1) * 2 >= count(*), false)
    FROM (SELECT watch_time_ratio AS r, coalesce(notes, '') AS notes FROM events WHERE event_type = 'view')"""
_TOTALS: Final = """
    SELECT event_type, count(*), min(received_ms), max(received_ms) FROM placed GROUP BY 1 ORDER BY min(seq)"""
_SPAN: Final = "SELECT min(at_ms), max(at_ms) FROM events WHERE NOT $1 OR event_type <> 'ping_created'"
_NOTES: Final = """
    SELECT note, count(*), min(seq)
    FROM (SELECT unnest(string_split(notes, ',')) AS note, seq FROM events WHERE notes <> '') GROUP BY 1 ORDER BY 1"""
_ENGAGED: Final = """
    WITH shown AS (
        SELECT *, min(received_ms) OVER (PARTITION BY user_id, request_id) AS first_ms FROM placed
        WHERE request_id IS NOT NULL AND event_type IN
            ('impression', 'view', 'like', 'comment', 'share', 'follow', 'hide', 'report')
    ), graded AS (
        SELECT user_id, request_id, bool_and(event_type NOT IN ('hide', 'report')) AND bool_or(event_type IN
            ('like', 'comment', 'share', 'follow') OR coalesce(watch_time_ratio, 0) >= 0.25) AS liked
        FROM shown
        WHERE ping_id IS NOT NULL AND received_ms <= first_ms + $1 AND first_ms BETWEEN $2 AND $3 - $1
        GROUP BY user_id, request_id, ping_id
    )
    SELECT count(*)
    FROM (SELECT 1 FROM graded GROUP BY user_id, request_id HAVING bool_or(liked) AND NOT bool_and(liked))"""
"""The requests that training learns from, by the rules of `labels.sql`: with an interaction, and a ping without one."""


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


def _recall(lake: Lake, digest: str) -> Log | None:
    """What is remembered of a content, None for a new one."""
    try:
        return msgspec.json.decode(lake.read(_path(digest)), type=Log)
    except NotFound:
        return None
    except UNREADABLE as error:
        raise FormatError(f"{_path(digest)} in the lake is damaged; delete it to import from the start") from error


def _check_placing(log: Log, placing: str) -> None:
    """InvalidInput if the caller now wants other times than the log got: its events would be there twice."""
    if log.placing != placing:
        raise InvalidInput(
            f"this log was imported before with other times ({log.placing}, now {placing}): its events would be there "
            "twice; choose another PINGFEED_HOME to try other times"
        )


def _key_of(options: Mapping[str, str]) -> str:
    """8 hex digits that identify the options."""
    text = msgspec.json.encode(options, order="sorted")
    return blake2b(text, digest_size=4).hexdigest()


def _path(digest: str) -> str:
    return f"imports/{digest}.json"
