"""Writes a world's history to a lake: one Parquet file for each UTC day of arrival, and the world's files beside it.

Rows are made column by column, never as Python objects. Event ids are UUIDs computed from (seed, kind, number): writing
a world again writes the same bytes, and live traffic announces a ping under one id however often it does so.
The batch side reads `history-*` files by each row's time of arrival (tick = floor(received / tick length) + 1).
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pingfeed.adapters.registry import open_lake_at
from pingfeed.core.arrow import EVENT_SCHEMA, table_of_rows
from pingfeed.core.clock import DAY_MS, day_of
from pingfeed.core.errors import InvalidInput, NotFound
from pingfeed.ports import Lake
from simulator import personas
from simulator.behave import KINDS
from simulator.history import Actions, Served, simulate
from simulator.people import DEVICES, LANGUAGES, PLACES, Ints
from simulator.world import FILE, Spec, World, creator_id, decode, encode, ping_id, user_id

Progress = Callable[[float], None]
"""Called with the completed share, 0 to 1."""

ACTION, SERVED, REQUEST, PING, USER = range(5)
"""The kinds of ids."""
_PREFIX: Final = "history-"
_U64 = np.uint64


def is_remote(place: str | Path) -> bool:
    """Whether the lake is not a folder of this machine."""
    return str(place).startswith("s3://")


def open_lake(place: str | Path) -> tuple[Lake, Lake]:
    """The lake at a folder or `s3://bucket/prefix`, and the folder that holds it, for the world's own files."""
    if not is_remote(place):
        folder = Path(place).expanduser().absolute()
        return open_lake_at(f"file://{folder}"), open_lake_at(f"file://{folder.parent}")
    url = str(place).rstrip("/")
    parent = url.rpartition("/")[0]
    if parent == "s3:/":
        raise InvalidInput(f"{place} leaves no room beside the lake; name a prefix, such as {url}/lake")
    return open_lake_at(url), open_lake_at(parent)


def write_history(world: World, place: str | Path, progress: Progress = lambda _share: None) -> int:
    """Write the history into the lake at `place` and the world's files beside it; returns the number of rows.

    InvalidInput if the lake holds the history of another world: two histories in one lake cannot be told apart.
    """
    lake, beside = open_lake(place)
    if any(path.rpartition("/")[2].startswith(_PREFIX) for path in lake.list("events")):
        _check_same_world(world, place)
    save_world(world, beside)
    rows = 0
    for day, table in _days(world, progress):
        if not len(table):
            continue
        year, month, date = day.split("-")
        file = f"events/year={year}/month={month}/day={date}/{_PREFIX}{day}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        lake.write(file, sink.getvalue().to_pybytes())
        rows += table.num_rows
    return rows


def _check_same_world(world: World, place: str | Path) -> None:
    with suppress(NotFound):
        if world_beside(place) == world.spec:
            return
    raise InvalidInput(f"{place} already holds another history; choose another folder, or remove it")


def save_world(world: World, folder: Lake) -> None:
    """Write the world's parameters and personas, which `simulate live` and the demo page read."""
    folder.write(FILE, encode(world.spec))
    folder.write(personas.FILE, personas.encode(world))


def world_beside(place: str | Path) -> Spec:
    """The parameters of the world whose history a lake holds; NotFound if there is none."""
    try:
        return decode(open_lake(place)[1].read(FILE), f"{FILE} beside {place}")
    except NotFound as error:
        raise NotFound(
            f"there is no {FILE} beside {place}; create a world with pingfeed simulate history or pingfeed demo"
        ) from error


def _days(world: World, progress: Progress) -> Iterator[tuple[str, Any]]:
    """Each UTC day with its rows in order of arrival. Rows that arrive after midnight wait for the next day's table."""
    start_ms, until_ms = world.spec.start_ms, world.spec.until_ms
    day_ms = (start_ms - world.spec.tick_ms) // DAY_MS * DAY_MS
    waiting: list[Any] = []
    for begin_ms, tables in _hours(world):
        progress((begin_ms - start_ms) / (until_ms - start_ms))
        # An hour's rows never arrive before it begins, so the rows of earlier days are complete.
        while day_ms + DAY_MS <= begin_ms:
            day_ms += DAY_MS
            rows = pa.concat_tables(waiting)
            today = pc.less(rows["received_ms"], day_ms)
            yield day_of(day_ms - DAY_MS), rows.filter(today).sort_by("received_ms")
            waiting = [rows.filter(pc.invert(today))]
        waiting += tables
    yield day_of(day_ms), pa.concat_tables(waiting).sort_by("received_ms")
    progress(1.0)


def _hours(world: World) -> Iterator[tuple[int, list[Any]]]:
    """The beginning of each hour with its tables, preceded by the initial users and pings."""
    rows = HistoryRows(world)
    before_ms = world.spec.start_ms - world.spec.tick_ms
    old = np.flatnonzero(world.pings.created_ms < world.spec.start_ms)
    yield before_ms, [rows.users(before_ms), rows.pings(old, np.full(len(old), before_ms))]
    actions = 0
    for hour in simulate(world):
        created = rows.pings(hour.created, world.pings.created_ms[hour.created])
        yield hour.begin_ms, [created, rows.served(hour.served), rows.actions(hour.actions, actions)]
        actions += len(hour.actions.kind)


class HistoryRows:
    """Makes tables of one world's events."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._users = pa.array([user_id(n) for n in range(len(world.users))])
        self._creators = pa.array([creator_id(n) for n in range(len(world.creators))])
        self._pings = pa.array([ping_id(n) for n in range(len(world.pings))])

    def actions(self, actions: Actions, first: int) -> Any:
        """The events of users; `first` is the number of the first of them in the history."""
        n = len(actions.kind)
        follow = actions.kind == KINDS.index("follow")
        return self._table(
            n,
            event_id=self._id(ACTION, first + np.arange(n)),
            event_type=_take(KINDS, actions.kind),
            received_ms=actions.received_ms,
            timestamp_ms=actions.at_ms,
            **self._context(actions.user),
            ping_id=self._pings.take(pa.array(actions.ping)),
            creator_id=self._creators.take(pa.array(self.world.pings.creator[actions.ping], mask=~follow)),
            request_id=self._id(REQUEST, actions.request),
            position=pa.array(actions.position, mask=follow),
            watch_time_ratio=pa.array(actions.watch, mask=actions.kind != KINDS.index("view")),
        )

    def served(self, served: Served) -> Any:
        """`feed_served` rows. No model ranked these feeds, so scores and real-time values are null and sources 0."""
        n, slots = served.pings.shape
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * slots)
        context = self._context(served.user)
        return self._table(
            n,
            event_id=self._id(SERVED, served.request),
            event_type=_take(("feed_served",), np.zeros(n, np.int64)),
            received_ms=served.at_ms,
            timestamp_ms=served.at_ms,
            user_id=context["user_id"],
            country=context["country"],
            request_id=self._id(REQUEST, served.request),
            served_pings=pa.ListArray.from_arrays(offsets, self._pings.take(pa.array(served.pings.ravel()))),
            served_sources=pa.ListArray.from_arrays(offsets, pa.array(np.zeros(n * slots, np.int64))),
            served_propensities=pa.ListArray.from_arrays(offsets, pa.array(served.propensity.ravel())),
        )

    def pings(self, numbers: Ints, received_ms: Ints) -> Any:
        """`ping_created` rows."""
        ids = self._id(PING, numbers).to_pylist()
        rows = []
        for number, event_id, received in zip(numbers.tolist(), ids, received_ms.tolist(), strict=True):
            times = {"timestamp_ms": int(self.world.pings.created_ms[number]), "received_ms": received}
            rows.append(self.world.ping_event(number) | times | {"event_id": event_id})
        return table_of_rows(rows)

    def users(self, received_ms: int) -> Any:
        """One `user_updated` row for each user."""
        numbers = np.arange(len(self.world.users))
        n = len(numbers)
        return self._table(
            n,
            event_id=self._id(USER, numbers),
            event_type=_take(("user_updated",), np.zeros(n, np.int64)),
            received_ms=np.full(n, received_ms),
            timestamp_ms=np.full(n, received_ms),
            **self._context(numbers),
        )

    def _id(self, kind: int, numbers: Ints) -> Any:
        return uuids(self.world.spec.seed, kind, numbers)

    def _context(self, user: Ints) -> dict[str, Any]:
        people = self.world.users
        return {
            "user_id": self._users.take(pa.array(user)),
            "country": _take([place.country for place in PLACES], people.place[user]),
            "language": _take(LANGUAGES, people.language[user]),
            "device": _take(DEVICES, people.device[user]),
        }

    @staticmethod
    def _table(length: int, **columns: Any) -> Any:
        """A table of the event schema; a column that is not given is null."""
        arrays = [
            pa.array(columns[field.name]).cast(field.type) if field.name in columns else pa.nulls(length, field.type)
            for field in EVENT_SCHEMA
        ]
        return pa.Table.from_arrays(arrays, schema=EVENT_SCHEMA)


def _take(names: Any, numbers: Ints) -> Any:
    return pa.array(names).take(pa.array(numbers))


def uuids(seed: int, kind: int, numbers: Ints) -> Any:
    """A version 4 UUID for each number, as an Arrow string array; distinct for distinct (kind, number) of a seed."""
    stream = np.random.SeedSequence([seed, 4, kind]).generate_state(2, np.uint64)
    count = numbers.astype(np.uint64) * _U64(0x9E3779B97F4A7C15)
    halves = np.stack([_mix(count + stream[0]), _mix(count + stream[1])], axis=1)
    raw = halves.astype(">u8").view(np.uint8).reshape(-1, 16)
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    digits = np.frombuffer(raw.tobytes().hex().encode(), np.uint8).reshape(-1, 32)
    text = np.insert(digits, (8, 12, 16, 20), ord("-"), axis=1)
    offsets = np.arange(len(raw) + 1, dtype=np.int32) * 36
    return pa.StringArray.from_buffers(len(raw), pa.py_buffer(offsets), pa.py_buffer(text))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64 (Steele et al., OOPSLA 2014): a bijection that looks random."""
    x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
    return x ^ (x >> _U64(31))


def ping_event_id(seed: int, number: int) -> str:
    """The id of the one event that announces a ping, in the history and in live traffic."""
    return str(uuids(seed, PING, np.array([number]))[0])
