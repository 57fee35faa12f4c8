"""What an import came to, for a person and for machines."""

from typing import Any, Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from batch.importers.run import Outcome
from pingfeed.core.clock import DAY_MS, to_iso
from pingfeed.core.events import Row

_SHOWN: Final = 20
"""Refused lines that a person is shown."""
_LISTED: Final = 1_000
"""Refused lines that a machine is given."""
_WIDEST: Final = 240
"""Characters of an event's values that a person is shown."""
_NEXT: Final = "Next: pingfeed etl, then pingfeed train, then pingfeed tick --all"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome for machines; `refused.lines` has the first thousand of `refused.count`."""
    refused = outcome.refused
    return {
        "source": outcome.source,
        "digest": outcome.digest,
        "dry_run": outcome.dry_run,
        "again": outcome.again,
        "otherwise": outcome.otherwise,
        "lines": outcome.lines,
        "events": outcome.events,
        "types": dict(outcome.types),
        "introduced": outcome.introduced,
        "left_out": outcome.left_out,
        "labels_cut": outcome.cut,
        "first": _iso(outcome.first_ms),
        "last": _iso(outcome.last_ms),
        "files": outcome.files,
        "refused": {
            "count": refused.count,
            "file": outcome.rejected_file,
            "lines": [msgspec.to_builtins(one) for one in refused.kept[:_LISTED]],
        },
        "sample": outcome.sample if outcome.dry_run else [],
    }


def show(outcome: Outcome, console: Console) -> None:
    """The outcome for a person."""
    if outcome.again:
        console.print(
            f"{outcome.source} was imported before, with the same options: nothing to add. "
            f"Its events are in {len(outcome.files):,} files.",
            highlight=False,
            soft_wrap=True,
        )
        return
    if outcome.dry_run:
        _show_sample(outcome.sample, console)
    console.print(_summary(outcome), highlight=False, soft_wrap=True)
    if outcome.refused.count:
        _show_refused(outcome, console)
    if outcome.events and not outcome.dry_run:
        console.print(_NEXT, highlight=False)


def _summary(outcome: Outcome) -> str:
    types = ", ".join(f"{count:,} {name}" for name, count in sorted(outcome.types.items()))
    lines = [f"{outcome.source}: {outcome.lines:,} lines, {outcome.events:,} events ({types or 'none'})"]
    if outcome.first_ms is not None:
        lines.append(f"  arriving from {_iso(outcome.first_ms)} to {_iso(outcome.last_ms)}")
    if outcome.last_ms is not None and outcome.end_ms - outcome.last_ms > 30 * DAY_MS:
        lines.append("  older than 30 days: few of its pings can be in a feed; --end-now moves it to the present")
    if outcome.introduced:
        lines.append(f"  {outcome.introduced:,} of them introduce pings that the log mentions and nobody introduced")
    if outcome.left_out:
        lines.append(f"  {outcome.left_out:,} lines left out, as asked or for lack of a counterpart")
    if outcome.cut:
        lines.append(f"  {outcome.cut:,} labels cut: they were too long, or beyond the 64th of their list")
    if outcome.otherwise:
        lines.append("  this log was imported before with other options: what both imports have is kept once")
    if outcome.dry_run:
        lines.append("  dry run: nothing was written")
    return "\n".join(lines)


def _show_sample(rows: list[Row], console: Console) -> None:
    table = Table("event_type", "received", "values", title="The first events of each type")
    for row in rows:
        shown = ("event_type", "received_ms", "timestamp_ms", "event_id")
        rest = ", ".join(f"{name}={value}" for name, value in row.items() if name not in shown)
        table.add_row(row["event_type"], _iso(row["received_ms"]), escape(rest[:_WIDEST]))
    console.print(table)


def _show_refused(outcome: Outcome, console: Console) -> None:
    refused = outcome.refused
    table = Table("line", "field", "why", "text", title=f"{refused.count:,} lines refused")
    for one in refused.kept[:_SHOWN]:
        table.add_row(f"{one.line}", one.field or "", escape(one.message), escape(one.body[:80]))
    console.print(table)
    if refused.count > _SHOWN:
        console.print(f"  {refused.count - _SHOWN:,} more; the most frequent reasons:", highlight=False)
        for message, count in refused.reasons.most_common(5):
            console.print(f"  {count:,} x {escape(message)}", highlight=False)
    if outcome.rejected_file:
        kept = f"the first {len(refused.kept):,} are" if refused.count > len(refused.kept) else "all are"
        console.print(f"  {kept} kept in {outcome.rejected_file} of the lake", highlight=False)


def _iso(ms: int | None) -> str | None:
    return None if ms is None else to_iso(ms)
