"""What `pingfeed doctor` says of the lake: unread events, runs ahead of the clock, quarantined rows."""

from collections.abc import Iterator

import pyarrow.compute as pc

from batch.lake.ledger import Ledger, is_history, tick_of_run
from batch.lake.quarantine import quarantined
from batch.lake.raw_files import each_events
from batch.wiring import Batch, build
from pingfeed.core.clock import Clock, to_iso
from pingfeed.core.errors import PingfeedError
from pingfeed.core.words import counted
from pingfeed.settings import Settings

_MAX_FILES = 200
"""How many unread files are opened to see how old their events are."""
_LATE_TICKS = 2
_SHOWN = 120
_NAMED = 5
Finding = tuple[str, bool, str]
"""Name, whether it is well, detail."""


def examine(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """Findings, in the order in which they matter."""
    batch = build(settings, clock=clock, wall_clock=clock, quiet=True)
    for name, look in (("runs", _runs), ("run in progress", _lease), ("events", _unread), ("quarantine", _quarantined)):
        try:
            yield name, *look(batch)
        except PingfeedError as error:
            yield name, False, error.message


def _runs(batch: Batch) -> tuple[bool, str]:
    runs = Ledger(batch.tables, batch.ticks).finished()
    ahead = [run for run in runs if tick_of_run(run) > batch.present + 1]
    last = to_iso(batch.ticks.start_ms(tick_of_run((ahead or runs)[-1]))) if runs else ""
    if ahead:
        return False, f"ahead of the clock: {len(ahead):,}, the last of {last}; their events count from then"
    return True, f"the last tick was {last}" if runs else "none yet"


def _lease(batch: Batch) -> tuple[bool, str]:
    said = batch.open_lease().holder()
    return True, f"the lease is {said}" if said else "none"


def _quarantined(batch: Batch) -> tuple[bool, str]:
    found = list(quarantined(batch.tables.lake))
    if not found:
        return True, "empty"
    rows = sum(one.rows for one in found)
    said = f"rows, groups and users that a step could not take: {rows:,}" if rows else f"entries: {len(found):,}"
    shown = [f"{one.step}, {one.what}: {one.reason[:_SHOWN]}" for one in found[:_NAMED]]
    return False, "; ".join([said, *shown, *(["..."] if len(found) > _NAMED else [])])


def _unread(batch: Batch) -> tuple[bool, str]:
    """Events that landed and that no run has read; a problem if they should have been read by now."""
    unread = Ledger(batch.tables, batch.ticks).unread(batch.present, everything=True)
    paths = [*unread.live, *unread.history, *unread.errors]
    count, oldest_ms = 0, None
    unreadable: dict[str, str] = {}
    for found in each_events(batch.tables.lake, paths[:_MAX_FILES]):
        unreadable |= found.left_out
        count += found.rows.num_rows
        first_ms = pc.min(found.rows["received_ms"]).as_py()
        if first_ms is not None and not is_history(found.files[0]):
            oldest_ms = first_ms if oldest_ms is None else min(oldest_ms, first_ms)
    late = oldest_ms is not None and batch.ticks.of(oldest_ms) < batch.present - _LATE_TICKS
    detail = f"unread events: {count:,} in {counted(len(paths), 'file')}"
    if len(paths) > _MAX_FILES:
        detail = f"unread files: {len(paths):,}; events in the first {_MAX_FILES}: {count:,}"
    if oldest_ms is not None:
        detail += f", the oldest received {to_iso(oldest_ms)}"
    if unreadable:
        named = "; ".join(f"{path}: {reason[:_SHOWN]}" for path, reason in list(unreadable.items())[:_NAMED])
        detail += f"; files that cannot be read: {len(unreadable):,}: {named}"
    if late:
        detail += "; `pingfeed etl` reads them"
    return not late and not unreadable, detail
