"""Writing a history into a lake's folder of events: one Parquet file for each UTC day of arrival.

A file is written under a name that readers ignore, then renamed, so that none is ever half there. The batch side reads
`history-*` files by their rows' time of arrival (tick = floor(received / tick length) + 1).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pingfeed.clock import DAY_MS, day_of
from pingfeed.errors import InvalidInput
from simulator import portraits
from simulator.columns import Columns
from simulator.history import Hour, play
from simulator.world import FILE, World, load, save

Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


def write_history(world: World, lake: Path, progress: Progress = lambda _share: None) -> int:
    """Write the world's history below `lake`, its parameters and its people beside it; returns the number of rows.

    Writing the same world again replaces the same files by the same bytes. InvalidInput if the lake already holds the
    history of another world: two would be mixed, and nobody could tell them apart.
    """
    _check_unmixed(world, lake)
    save(world.spec, lake.parent)
    portraits.save(world, lake.parent)
    rows = 0
    for day, table in _days(world, progress):
        _write(table, lake / "events" / _partition(day) / f"history-{day}.parquet")
        rows += table.num_rows
    return rows


def _check_unmixed(world: World, lake: Path) -> None:
    there = next((lake / "events").rglob("history-*.parquet"), None)
    if there is None:
        return
    if not (lake.parent / FILE).exists() or load(lake.parent) != world.spec:
        raise InvalidInput(f"{lake} already holds another history; choose another folder, or remove it")


def _days(world: World, progress: Progress) -> Iterator[tuple[str, Any]]:
    """Each UTC day's rows, in order of arrival. What hours spill over midnight waits for the next day's table."""
    waiting: list[Any] = []
    span = world.spec.until_ms - world.spec.start_ms
    for begin_ms, tables in _hours(world):
        progress((begin_ms - world.spec.start_ms) / span)
        waiting += tables
        # Everything that arrives before this hour's begin is here: an hour's rows never arrive before it begins.
        day, waiting = _split(waiting, begin_ms // DAY_MS * DAY_MS)
        yield from day
    yield from _split(waiting, world.spec.until_ms)[0]
    progress(1.0)


def _hours(world: World) -> Iterator[tuple[int, list[Any]]]:
    """The begin of each hour with its tables; before the first, what was there before the first feed."""
    columns = Columns(world)
    before_ms = world.spec.start_ms - world.spec.tick_ms
    old = np.flatnonzero(world.pings.created_ms < world.spec.start_ms)
    yield before_ms, [columns.users(before_ms), columns.pings(old, np.full(len(old), before_ms))]
    acts = 0
    for hour in play(world):
        yield hour.begin_ms, list(_tables(columns, hour, acts))
        acts += len(hour.acts.kind)


def _tables(columns: Columns, hour: Hour, acts: int) -> Iterable[Any]:
    yield columns.pings(hour.created, columns.world.pings.created_ms[hour.created])
    yield columns.served(hour.served)
    yield columns.acts(hour.acts, acts)


def _split(tables: list[Any], boundary_ms: int) -> tuple[list[tuple[str, Any]], list[Any]]:
    """The rows that arrived before the boundary as (day, sorted table), and the tables of the others."""
    if not tables:
        return [], []
    rows = pa.concat_tables(tables)
    received = rows["received_ms"].to_numpy()
    if received.min() >= boundary_ms:
        return [], [rows]
    done = rows.filter(pa.array(received < boundary_ms))
    return list(_by_day(done)), [rows.filter(pa.array(received >= boundary_ms))]


def _by_day(table: Any) -> Iterator[tuple[str, Any]]:
    table = table.take(pc.sort_indices(table, sort_keys=[("received_ms", "ascending")]))
    days = table["received_ms"].to_numpy() // DAY_MS
    starts = np.flatnonzero(np.diff(days, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(days)], strict=True):
        yield day_of(int(days[start]) * DAY_MS), table.slice(start, stop - start)


def _partition(day: str) -> str:
    year, month, date = day.split("-")
    return f"year={year}/month={month}/day={date}"


def _write(table: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}")
    pq.write_table(table, hidden, compression="zstd")
    os.replace(hidden, path)
