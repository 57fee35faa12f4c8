"""State at the start of a day: one row a key, carried forward from the previous day, so that a day costs a day.

`lifetime` has each ping's totals (evergreen pings come from it), `relations` the latest follow or unfollow of each user
and creator, `blocked` and `hidden` all creators that a user ever blocked and all pings that a user ever hid. The state
of day D sums the known ticks before D's first tick, so it does not depend on which run computes it.
"""

from typing import Final

import pyarrow as pa

from batch.features.engine import Engine
from batch.lake.tables import STATES, Tables
from batch.ticks import Ticks

_SOURCE: Final = {
    "lifetime": "ping_buckets",
    "relations": "relation_buckets",
    "blocked": "relation_buckets",
    "hidden": "user_ping_buckets",
}


def ensure(tables: Tables, engine: Engine, ticks: Ticks, tick: int, run: int) -> None:
    """Write all missing states up to the tick's day."""
    today = ticks.day(tick)
    for name in STATES:
        have = [day for day in tables.state_days(name) if day <= today]
        learned = [day for day in tables.clean_days() if day <= today]
        first = have[-1] + 1 if have else min(learned, default=today) + 1
        for day in range(first, today + 1):
            buckets = tables.aggregate(_SOURCE[name], day - 1, day - 1)
            inputs = {"state": tables.state(name, day - 1), _SOURCE[name]: buckets}
            tables.put_state(name, day, run, engine.run(name, ticks.params(), **inputs))


def current(tables: Tables, engine: Engine, ticks: Ticks, name: str, tick: int) -> pa.Table:
    """A state as of a tick: the state at the start of the day plus the day's buckets so far."""
    day = ticks.day(tick)
    buckets = tables.aggregate(_SOURCE[name], day, day, tick)
    return engine.run(name, ticks.params(), **{"state": tables.state(name, day), _SOURCE[name]: buckets})


def evergreen(tables: Tables, engine: Engine, ticks: Ticks, first_day: int, last_day: int) -> pa.Table:
    """(day, ping) of the top tenth of pings by engagement before each day."""
    pieces = []
    for day in range(first_day, last_day + 1):
        pings = engine.run("evergreen", ticks.params(), lifetime=tables.state("lifetime", day))
        pieces.append(pings.append_column("day", pa.array([day] * pings.num_rows, pa.int64())))
    return pa.concat_tables(pieces)
