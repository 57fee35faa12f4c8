"""What `pingfeed doctor` says of the lake: unread events, runs ahead of the clock, quarantined rows."""

from collections.abc import Iterator

import pyarrow.compute as pc

from batch.lake.ledger import Ledger, tick_of_run
from batch.lake.quarantine import quarantined
from batch.lake.raw_files import each_events
from batch.wiring import Batch, build
from pingfeed.core.clock import Clock, to_iso
from pingfeed.core.words import counted
from pingfeed.settings import Settings

_MAX_FILES = 200
"""How many unread files are opened to see how old their events are."""
_LATE_TICKS = 2
_SHOWN = 120
Finding = tuple[str, bool, str]
"""Name, whether it is well, detail."""


def examine(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """Findings, in the order in which they matter."""
    batch = build(settings, clock=clock, wall_clock=clock, quiet=True)
    ledger = Ledger(batch.tables, batch.ticks)
    runs = ledger.finished()
    yield _runs(batch, runs)
    yield _unread(batch, ledger)
    yield _quarantined(batch)


def _runs(batch: Batch, runs: list[int]) -> Finding:
    ahead = [run for run in runs if tick_of_run(run) > batch.present + 1]
    last = to_iso(batch.ticks.start_ms(tick_of_run((ahead or runs)[-1]))) if runs else ""
    if ahead:
        return "runs", False, f"ahead of the clock: {len(ahead):,}, the last of {last}; their events count from then"
    return "runs", True, f"the last tick was {last}" if runs else "none yet"


def _quarantined(batch: Batch) -> Finding:
    found = list(quarantined(batch.tables.lake))
    if not found:
        return "quarantine", True, "empty"
    first = f"{found[0].step}, {found[0].what}: {found[0].reason[:_SHOWN]}"
    return "quarantine", False, f"rows that a step could not take: {sum(one.rows for one in found):,}; {first}"


def _unread(batch: Batch, ledger: Ledger) -> Finding:
    """Events that landed and that no run has read; a problem if they should have been read by now."""
    unread = ledger.unread(batch.present, everything=True)
    paths = [*unread.live, *unread.history, *unread.errors]
    count, unreadable, oldest_ms = 0, 0, None
    for found in each_events(batch.tables.lake, paths[:_MAX_FILES]):
        unreadable += len(found.left_out)
        count += found.rows.num_rows
        first_ms = pc.min(found.rows["received_ms"]).as_py()
        if first_ms is not None and not found.files[0].rpartition("/")[2].startswith("history-"):
            oldest_ms = first_ms if oldest_ms is None else min(oldest_ms, first_ms)
    late = oldest_ms is not None and batch.ticks.of(oldest_ms) < batch.present - _LATE_TICKS
    detail = f"unread events: {count:,} in {counted(len(paths), 'file')}"
    if len(paths) > _MAX_FILES:
        detail = f"unread files: {len(paths):,}; events in the first {_MAX_FILES}: {count:,}"
    if oldest_ms is not None:
        detail += f", the oldest received {to_iso(oldest_ms)}"
    if unreadable:
        detail += f"; files that cannot be read: {unreadable:,}"
    if late:
        detail += "; `pingfeed etl` reads them"
    return "events", not late and not unreadable, detail
