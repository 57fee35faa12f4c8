"""What an import came to, for a person and for programs."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from batch.importers.formats import Rejections
from batch.training.train import DAYS, MIN_ENGAGED_REQUESTS
from pingfeed.core.clock import DAY_MS, to_iso
from pingfeed.core.events import Row
from pingfeed.core.words import counted
from pingfeed.terminal import print_table

_SHOWN: Final = 20
"""Rejected records that a person is shown."""
_LISTED: Final = 1_000
"""Rejected records that a program is given."""
_WIDEST: Final = 240
_NEXT: Final = "Next: pingfeed etl, then pingfeed train, then pingfeed tick --all"
_WITHOUT_MODEL: Final = """Next: pingfeed etl, then pingfeed tick --all
pingfeed train needs {needed:,} feed requests of the last {days} days with an interaction: impressions that share a
request_id, and what users did about some of them under the same one, within PINGFEED_LABEL_WINDOW_HOURS.
This import has {found:,}. Until your own feeds have collected them, the fallback ranker, a fixed formula, orders each
user's candidates."""


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
    """Feed requests that training can learn from: recent ones with an interaction."""
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


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome for programs; `rejected.lines` has the first thousand of `rejected.count`."""
    return {
        "source": outcome.source,
        "digest": outcome.digest,
        "dry_run": outcome.dry_run,
        "again": outcome.again,
        "otherwise": outcome.otherwise,
        "lines": outcome.records,
        "events": outcome.events,
        "types": dict(outcome.types),
        "introduced": outcome.introduced,
        "left_out": outcome.left_out,
        "labels_cut": outcome.cut,
        "duplicates": outcome.duplicates,
        "times": outcome.times,
        "fields": [{"problem": note, "count": count, "first_record": first} for note, count, first in outcome.notes],
        "engaged_requests": outcome.engaged_requests,
        "stopped": outcome.stopped or None,
        "first": _iso(outcome.first_ms),
        "last": _iso(outcome.last_ms),
        "files": outcome.files,
        "rejected": {
            "count": outcome.rejected.count,
            "file": outcome.rejected_file,
            "lines": [msgspec.to_builtins(one) for one in outcome.rejected.kept[:_LISTED]],
        },
        "sample": outcome.sample if outcome.dry_run else [],
    }


def show(outcome: Outcome, notes: Sequence[str]) -> None:
    """The outcome for a person; `notes` are lines for a dry run."""
    if outcome.again:
        _say(
            f"{outcome.source} was imported before, with the same options: nothing to add. "
            f"Its events are in {counted(len(outcome.files), 'file')}.",
        )
        return
    if outcome.dry_run:
        _show_sample(outcome.sample)
        _say(*notes)
    _say(*_summary(outcome))
    if outcome.rejected.count:
        _show_rejected(outcome)
    if outcome.stopped:
        _say(f"Nothing {'would be' if outcome.dry_run else 'was'} written: {outcome.stopped}.")
    elif outcome.events and not outcome.dry_run and outcome.engaged_requests < MIN_ENGAGED_REQUESTS:
        _say(_WITHOUT_MODEL.format(needed=MIN_ENGAGED_REQUESTS, days=DAYS, found=outcome.engaged_requests))
    elif outcome.events and not outcome.dry_run:
        _say(_NEXT)


def _summary(outcome: Outcome) -> list[str]:
    types = ", ".join(f"{count:,} {name}" for name, count in sorted(outcome.types.items()))
    read = f"{counted(outcome.records, 'line')}, {counted(outcome.events, 'event')}"
    lines = [f"{outcome.source}: {read} ({types or 'none'})"]
    if outcome.first_ms is not None:
        lines.append(f"  arriving from {_iso(outcome.first_ms)} to {_iso(outcome.last_ms)}")
    if outcome.last_ms is not None and outcome.end_ms - outcome.last_ms > 30 * DAY_MS:
        lines.append("  older than 30 days: few of its pings can be in a feed; --end-now moves it to the present")
    lines += [f"  timestamps: {count:,} in the form {kind}" for kind, count in outcome.times.items()]
    facts = {
        "duplicate records, each kept once": outcome.duplicates,
        "of the events, to introduce pings that the log mentions but does not introduce": outcome.introduced,
        "lines left out, as asked or for lack of a counterpart": outcome.left_out,
        "labels cut, as too long or beyond the 64th of their list": outcome.cut,
    }
    lines += [f"  {fact}: {count:,}" for fact, count in facts.items() if count]
    lines += [f"  {count:,} x {note} (first in record {first:,})" for note, count, first in outcome.notes]
    if outcome.otherwise:
        lines.append("  this log was imported before with other options: what both imports have is kept once")
    if outcome.dry_run:
        lines.append("  dry run: nothing was written")
    return lines


def _show_sample(rows: list[Row]) -> None:
    hidden = ("event_type", "received_ms", "timestamp_ms", "event_id")
    cells = []
    for row in rows:
        rest = ", ".join(f"{name}={value}" for name, value in row.items() if name not in hidden)
        cells.append((row["event_type"], _iso(row["received_ms"]), rest[:_WIDEST]))
    print_table(("event_type", "received", "values"), cells, title="The first events of each type")


def _show_rejected(outcome: Outcome) -> None:
    rejected = outcome.rejected
    print_table(
        ("record", "line", "field", "why", "text"),
        [(one.record, one.line, one.field or "", one.message, one.body[:80]) for one in rejected.kept[:_SHOWN]],
        title=f"{counted(rejected.count, 'record')} rejected",
    )
    if rejected.count > _SHOWN:
        _say(f"  and {rejected.count - _SHOWN:,} more")
    for reason, count in rejected.reasons.most_common(5):
        _say(f"  {count:,} rejected for a reason such as: {rejected.examples[reason]}")
    if outcome.rejected_file:
        kept = f"the first {len(rejected.kept):,} are" if rejected.count > len(rejected.kept) else "all are"
        _say(f"  {kept} kept in {outcome.rejected_file} of the lake")


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _iso(ms: int | None) -> str | None:
    return None if ms is None else to_iso(ms)
