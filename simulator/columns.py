"""The history as rows of the lake, made column by column: a million rows are never Python objects.

Event ids are UUIDs computed from (seed, kind of row, number), so writing the same world again writes the same rows, and
the live player announces a ping under one id however often it does so.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pingfeed.core.arrow import EVENT_SCHEMA, table_of_rows
from pingfeed.core.events import Row
from simulator.behave import KINDS
from simulator.history import Acts, Served
from simulator.people import DEVICES, LANGUAGES, PLACES, Ints
from simulator.world import World, creator_id, ping_id, user_id

ACT, SERVED, REQUEST, PING, USER = range(5)
"""The kinds of things that have ids of their own."""

_HEX: Final = np.frombuffer(b"0123456789abcdef", np.uint8)
_DASHES: Final = (8, 13, 18, 23)
_U64 = np.uint64


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64 (Steele et al., OOPSLA 2014): a bijection that looks random."""
    x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
    return x ^ (x >> _U64(31))


def uuids(seed: int, kind: int, numbers: Ints) -> Any:
    """A version 4 UUID for each number, as an Arrow string array; distinct for distinct (kind, number) of a seed."""
    stream = np.random.SeedSequence([seed, 4, kind]).generate_state(2, np.uint64)
    count = numbers.astype(np.uint64) * _U64(0x9E3779B97F4A7C15)
    halves = np.stack([_mix(count + stream[0]), _mix(count + stream[1])], axis=1)
    raw = halves.astype(">u8").view(np.uint8).reshape(-1, 16)
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    text = np.full((len(raw), 36), ord("-"), np.uint8)
    places = [at for at in range(36) if at not in _DASHES]
    text[:, places[0::2]] = _HEX[raw >> 4]
    text[:, places[1::2]] = _HEX[raw & 0x0F]
    offsets = np.arange(len(raw) + 1, dtype=np.int32) * 36
    return pa.StringArray.from_buffers(len(raw), pa.py_buffer(offsets), pa.py_buffer(text))


def _named(names: Any, numbers: Ints, where: NDArray[np.bool_] | None = None) -> Any:
    """names[numbers] of an Arrow array; null where `where` is false."""
    return names.take(pa.array(numbers, mask=None if where is None else ~where))


def _constant(text: str, length: int) -> Any:
    return pa.array([text]).take(pa.array(np.zeros(length, np.int64)))


_KINDS: Final = pa.array(KINDS)
_COUNTRIES: Final = pa.array([place.country for place in PLACES])
_LANGUAGES: Final = pa.array(LANGUAGES)
_DEVICES: Final = pa.array(DEVICES)


def _table(columns: Mapping[str, Any], length: int) -> Any:
    """A table of the event schema; a column that is not given is null."""
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(length, field.type)
        for field in EVENT_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=EVENT_SCHEMA)


class Columns:
    """Makes tables of one world's history; the names of everything are made once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._users = pa.array([user_id(n) for n in range(len(world.users))])
        self._creators = pa.array([creator_id(n) for n in range(len(world.creators))])
        self._pings = pa.array([ping_id(n) for n in range(len(world.pings))])

    def _id(self, kind: int, numbers: Ints) -> Any:
        return uuids(self.world.spec.seed, kind, numbers)

    def acts(self, acts: Acts, first: int) -> Any:
        """Events by users; `first` is the number of the first of them in the history, their ids come from it."""
        about_ping = acts.kind != KINDS.index("follow")
        n = len(acts.kind)
        people = self.world.users
        columns = {
            "event_id": self._id(ACT, first + np.arange(n)),
            "event_type": _named(_KINDS, acts.kind),
            "user_id": _named(self._users, acts.user),
            "received_ms": pa.array(acts.received_ms),
            "timestamp_ms": pa.array(acts.at_ms),
            "country": _named(_COUNTRIES, people.place[acts.user]),
            "language": _named(_LANGUAGES, people.language[acts.user]),
            "device": _named(_DEVICES, people.device[acts.user]),
            "ping_id": _named(self._pings, acts.ping),
            "creator_id": _named(self._creators, self.world.pings.creator[acts.ping], ~about_ping),
            "request_id": self._id(REQUEST, acts.request),
            "position": pa.array(acts.position, mask=~about_ping),
            "watch_time_ratio": pa.array(acts.watch, mask=acts.kind != KINDS.index("view")),
        }
        return _table(columns, n)

    def served(self, served: Served) -> Any:
        """`feed_served` rows; no model made these feeds, so scores and real-time values are unknown and sources 0."""
        n, slots = served.pings.shape
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * slots)
        columns = {
            "event_id": self._id(SERVED, served.request),
            "event_type": _constant("feed_served", n),
            "user_id": _named(self._users, served.user),
            "received_ms": pa.array(served.at_ms),
            "timestamp_ms": pa.array(served.at_ms),
            "country": _named(_COUNTRIES, self.world.users.place[served.user]),
            "request_id": self._id(REQUEST, served.request),
            "served_pings": pa.ListArray.from_arrays(offsets, _named(self._pings, served.pings.ravel())),
            "served_sources": pa.ListArray.from_arrays(offsets, pa.array(np.zeros(n * slots, np.int64))),
            "served_propensities": pa.ListArray.from_arrays(offsets, pa.array(served.propensity.ravel())),
        }
        return _table(columns, n)

    def pings(self, numbers: Ints, received_ms: Ints) -> Any:
        """`ping_created` rows."""
        ids = self._id(PING, numbers).to_pylist()
        rows: list[Row] = []
        for number, event_id, received in zip(numbers.tolist(), ids, received_ms.tolist(), strict=True):
            created = {"timestamp_ms": int(self.world.pings.created_ms[number]), "received_ms": received}
            rows.append(self.world.ping_event(number) | created | {"event_id": event_id})
        return table_of_rows(rows)

    def users(self, received_ms: int) -> Any:
        """One `user_updated` row for everybody."""
        numbers = np.arange(len(self.world.users))
        n, people = len(numbers), self.world.users
        columns = {
            "event_id": self._id(USER, numbers),
            "event_type": _constant("user_updated", n),
            "user_id": _named(self._users, numbers),
            "received_ms": pa.array(np.full(n, received_ms)),
            "timestamp_ms": pa.array(np.full(n, received_ms)),
            "country": _named(_COUNTRIES, people.place),
            "language": _named(_LANGUAGES, people.language),
            "device": _named(_DEVICES, people.device),
        }
        return _table(columns, n)


def ping_event_id(seed: int, number: int) -> str:
    """The id of the one event that announces a ping, in the history and live."""
    return str(uuids(seed, PING, np.array([number]))[0])
