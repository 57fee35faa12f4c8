"""Writing a history into a lake's folder of events: one Parquet file for each UTC day of arrival.

The batch side reads `history-*` files by their rows' time of arrival (tick = floor(received / tick length) + 1).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pingfeed.adapters.registry import open_lake_at
from pingfeed.core.arrow import EVENT_SCHEMA
from pingfeed.core.clock import DAY_MS, day_of
from pingfeed.core.errors import InvalidInput, NotFound
from simulator import personas
from simulator.columns import Columns
from simulator.history import Hour, play
from simulator.world import FILE, Spec, World, decoded, encoded, save

if TYPE_CHECKING:
    from pingfeed.ports import Lake

_PREFIX: Final = "history-"
Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


def is_remote(lake: str | Path) -> bool:
    """Whether the lake is in S3 rather than in a folder."""
    return str(lake).startswith("s3://")


@dataclass(frozen=True)
class Store:
    """A lake, and the folder or bucket that it is in: a world's own files are beside the lake."""

    parent: "Lake"
    name: str
    """The lake's folder in `parent`."""

    @classmethod
    def open(cls, lake: str | Path) -> "Store":
        """From a folder or `s3://bucket/prefix`; InvalidInput for a bucket without a prefix."""
        place = str(lake).rstrip("/") if is_remote(lake) else f"file://{Path(lake).expanduser().absolute()}"
        parent, _, name = place.rpartition("/")
        if parent == "s3:/":
            raise InvalidInput(f"{lake} leaves no room beside the lake; name a prefix, such as {place}/lake")
        return cls(open_lake_at(parent), name)

    def event_files(self) -> list[str]:
        """The paths of all raw event files in `parent`, sorted."""
        return [path for path in self.parent.list(f"{self.name}/events") if path.endswith(".parquet")]

    def events(self) -> Any:
        """The raw events as a dataset; NotFound if there are none."""
        files = self.event_files()
        if not files:
            raise NotFound(f"{self.name} has no events")
        return self.parent.dataset(files, EVENT_SCHEMA)

    def spec(self) -> Spec:
        """The parameters of the world whose history the lake holds; NotFound if there is none."""
        try:
            return decoded(self.parent.read(FILE), FILE)
        except NotFound:
            return decoded(None, f"{FILE} beside {self.name}")


def write_history(world: World, lake: str | Path, progress: Progress = lambda _share: None) -> int:
    """Write the world's history below `lake` (a folder, or `s3://bucket/prefix`), its parameters and its people beside.

    Returns the number of rows. Writing the same world again replaces the same files by the same bytes. InvalidInput if
    the lake already holds the history of another world: two histories in one lake cannot be told apart.
    """
    store = Store.open(lake)
    _check_unmixed(world, store)
    store.parent.write(FILE, encoded(world.spec))
    store.parent.write(personas.FILE, personas.encoded(world))
    rows = 0
    for day, table in _days(world, progress):
        store.parent.write(f"{store.name}/events/{_partition(day)}/{_PREFIX}{day}.parquet", _parquet(table))
        rows += table.num_rows
    return rows


def keep_in(world: World, home: Path) -> None:
    """Keep the world's parameters and people in a folder too, for a lake that is not of this machine."""
    save(world.spec, home)
    personas.save(world, home)


def _check_unmixed(world: World, store: Store) -> None:
    if not any(path.rpartition("/")[2].startswith(_PREFIX) for path in store.event_files()):
        return
    try:
        there = store.spec()
    except NotFound:
        there = None
    if there != world.spec:
        raise InvalidInput(f"{store.name} already holds another history; choose another folder, or remove it")


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


def _parquet(table: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data
