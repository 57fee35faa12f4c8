"""State at the start of a day: one row a key, carried forward from the previous day, so that a day costs a day.

`lifetime` has each ping's totals (evergreen pings come from it), `user_relations` what each user decided of each target
(follow, block, hide, mute) and said of themselves, with the order key of the act. The state of day D sums the known
ticks before D's first tick, so it does not depend on which run computes it.
"""

from typing import Final

import pyarrow as pa

from batch.features import catalogue
from batch.lake.tables import STATES
from batch.wiring import Batch

_SOURCE: Final = {
    "lifetime": "ping_buckets",
    "user_relations": "user_relation_buckets",
}
_WITHOUT_KEYS: Final = ("relation_buckets", "relations", "blocked", "hidden")
"""Tables of an earlier version, whose rows have no order key."""


def ensure(batch: Batch, tick: int, run: int) -> None:
    """Write all missing states up to the tick's day."""
    upgrade(batch, run)
    tables, today = batch.tables, batch.ticks.day(tick)
    for name in STATES:
        have = [day for day in tables.state_days(name) if day <= today]
        learned = [day for day in tables.clean_days() if day <= today]
        first = have[-1] + 1 if have else min(learned, default=today) + 1
        for day in range(first, today + 1):
            tables.put_state(name, day, run, at_start(batch, name, day))


def at_start(batch: Batch, name: str, day: int) -> pa.Table:
    """A state at the start of a day, from that of the day before and its buckets."""
    return _carried(batch, name, day - 1, batch.tables.aggregate(_SOURCE[name], day - 1, day - 1))


def upgrade(batch: Batch, run: int) -> None:
    """Make the relations of a lake of an earlier version anew, from its clean events; repeating it is harmless."""
    tables = batch.tables
    stale = [path for path in tables.lake.list("aggregates") if any(f"/{name}/" in path for name in _WITHOUT_KEYS)]
    if not stale:
        return
    known = catalogue.load(batch)
    with batch.progress.step("relations of an earlier version"):
        for day in tables.clean_days():
            acts = catalogue.acts(batch, known, tables.clean(day, day, catalogue.ACTS))
            buckets = batch.engine.run("user_relation_buckets", batch.ticks.params(), acts=acts)
            tables.add("user_relation_buckets", run, buckets, day)
        for path in stale:
            tables.lake.delete(path)


def current(batch: Batch, name: str, tick: int) -> pa.Table:
    """A state as of a tick: the state at the start of the day plus the day's buckets so far."""
    day = batch.ticks.day(tick)
    return _carried(batch, name, day, batch.tables.aggregate(_SOURCE[name], day, day, tick))


def latest(batch: Batch, name: str) -> pa.Table:
    """A state as of everything that runs have read."""
    tables = batch.tables
    learned = tables.clean_days()
    day = max([*learned[:1], *tables.state_days(name)], default=0)
    return _carried(batch, name, day, tables.aggregate(_SOURCE[name], day, max([day, *learned])))


def _carried(batch: Batch, name: str, day: int, buckets: pa.Table) -> pa.Table:
    inputs = {"state": batch.tables.state(name, day), _SOURCE[name]: buckets}
    return batch.engine.run(name, batch.ticks.params(), **inputs)


def evergreen(batch: Batch, first_day: int, last_day: int) -> pa.Table:
    """(day, ping) of the top tenth of pings by engagement before each day."""
    pieces = []
    for day in range(first_day, last_day + 1):
        pings = batch.engine.run("evergreen", batch.ticks.params(), lifetime=batch.tables.state("lifetime", day))
        pieces.append(pings.append_column("day", pa.array([day] * pings.num_rows, pa.int64())))
    return pa.concat_tables(pieces)
