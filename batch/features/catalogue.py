"""The catalogue: numbers for ids, the versions of each ping, and both as of any tick.

A number is assigned once, in the order in which ids became known, and never reused: packets and snapshots of different
ages agree on what 4711 is. Kinds of ids: `ping`, `creator`, and `value`, a facet's value written `facet=value`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from batch.features.engine import Engine
from batch.lake.tables import CATALOGUE, Tables
from batch.ticks import Ticks
from pingfeed.core.features import FACET_WIDTH

_KINDS: Final = ("ping", "creator", "value")
_VERSION: Final = ("known_tick", "received_ms", "event_id", "duration_ms", "country", "language")


@dataclass(frozen=True)
class Catalogue:
    """The tables of the catalogue that the SQL statements read."""

    numbers: pa.Table
    pings: pa.Table
    versions: pa.Table
    facets: pa.Table
    attributes: pa.Table
    deletions: pa.Table


def load(tables: Tables, engine: Engine, ticks: Ticks) -> Catalogue:
    """Read the catalogue with the range of ticks in which each version of a ping is valid."""
    params = ticks.params()
    raw = {name: tables.catalogue(name) for name in CATALOGUE}
    versions = engine.run("ping_versions", params, versions=raw["versions"])
    return Catalogue(
        numbers=raw["numbers"],
        pings=engine.run("pings", params, versions=raw["versions"]),
        versions=versions,
        facets=engine.run("ping_facets", params, facets=raw["facets"], ping_versions=versions),
        attributes=engine.run("ping_attributes", params, attributes=raw["attributes"], ping_versions=versions),
        deletions=raw["deletions"],
    )


def add(tables: Tables, run: int, events: pa.Table) -> None:
    """Add the clean events of a run to the catalogue: number new ids, keep each `ping_created` as a version."""
    created = events.filter(pc.field("event_type") == "ping_created")
    facets = _facets_of(created)
    numbers = _number_new(tables, run, events, facets)
    ping = _look_up(numbers, "ping", created["ping_id"])
    versions = {
        "ping": ping,
        "creator": _look_up(numbers, "creator", created["creator_id"]),
        **{name: created[name] for name in _VERSION},
    }
    tables.add_catalogue("versions", run, pa.table(versions))
    tables.add_catalogue("facets", run, _numbered(facets, numbers))
    tables.add_catalogue("attributes", run, _attributes_of(created, ping))
    deleted = events.filter(pc.field("event_type") == "ping_deleted")
    deletions = {"ping": _look_up(numbers, "ping", deleted["ping_id"]), "known_tick": deleted["known_tick"]}
    tables.add_catalogue("deletions", run, pa.table(deletions))


def _number_new(tables: Tables, run: int, events: pa.Table, facets: pa.Table) -> pa.Table:
    """All numbers, including those of ids that these events mention for the first time."""
    numbers = tables.catalogue("numbers")
    mentioned = {"ping": events["ping_id"], "creator": events["creator_id"], "value": facets["value_id"]}
    added = []
    for kind in _KINDS:
        have = numbers.filter(pc.field("kind") == kind)
        ids = pc.drop_null(pc.unique(mentioned[kind]))
        new = ids.filter(pc.invert(pc.is_in(ids, value_set=have["id"].combine_chunks())))
        first = (pc.max(have["number"]).as_py() or 0) + 1
        count = len(new)
        columns = [pa.array([kind] * count, pa.string()), new, pa.array(range(first, first + count), pa.int64())]
        added.append(pa.table(columns, schema=CATALOGUE["numbers"]))
    fresh = pa.concat_tables(added)
    tables.add_catalogue("numbers", run, fresh)
    return pa.concat_tables([numbers, fresh])


def _look_up(numbers: pa.Table, kind: str, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """The number of each id, null for none."""
    have = numbers.filter(pc.field("kind") == kind)
    return pc.take(have["number"], pc.index_in(ids, value_set=have["id"].combine_chunks()))


def _facets_of(created: pa.Table) -> pa.Table:
    """One row for each (version, facet value); topics are the facet `topics`."""
    pieces = [_exploded(created, created["topics"], None)]
    maps = created["facets"].combine_chunks()
    if len(maps) and maps.null_count < len(maps):
        row = pc.list_parent_indices(maps.cast(pa.list_(pa.struct([("k", pa.string()), ("v", pa.list_(pa.string()))]))))
        entries = maps.drop_null()
        pieces.append(_exploded(created.take(row), entries.items, entries.keys))
    return _placed(pa.concat_tables(pieces))


def _exploded(created: pa.Table, lists: pa.ChunkedArray | pa.Array, facet: pa.Array | None) -> pa.Table:
    """One row for each value of each list; `facet` names each list's facet, None means topics."""
    values = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    parent = pc.list_parent_indices(values)
    flat = pc.list_flatten(values)
    names = pa.array(["topics"] * len(flat), pa.string()) if facet is None else pc.take(facet, parent)
    rows = created.select(["ping_id", "known_tick", "event_id"]).take(parent).append_column("facet", names)
    return rows.append_column("value_id", pc.binary_join_element_wise(names, flat, "="))


def _placed(rows: pa.Table) -> pa.Table:
    """The rows with each value's position in its version's facet, without repeated values, up to FACET_WIDTH each."""
    position: list[int] = []
    seen: set[tuple[str, str]] = set()
    count: Counter[tuple[str, str]] = Counter()
    for event, facet, value in zip(*(rows[c].to_pylist() for c in ("event_id", "facet", "value_id")), strict=True):
        again = (event, value) in seen
        position.append(FACET_WIDTH if again else count[event, facet])
        if not again:
            seen.add((event, value))
            count[event, facet] += 1
    placed = rows.append_column("position", pa.array(position, pa.int64()))
    return placed.filter(pc.field("position") < FACET_WIDTH)


def _numbered(facets: pa.Table, numbers: pa.Table) -> pa.Table:
    return pa.table(
        {
            "ping": _look_up(numbers, "ping", facets["ping_id"]),
            "known_tick": facets["known_tick"],
            "event_id": facets["event_id"],
            "facet": facets["facet"],
            "position": facets["position"],
            "value": _look_up(numbers, "value", facets["value_id"]),
        }
    )


def _attributes_of(created: pa.Table, ping: pa.ChunkedArray) -> pa.Table:
    maps = created["attributes"].combine_chunks()
    if not len(maps) or maps.null_count == len(maps):
        return CATALOGUE["attributes"].empty_table()
    row = pc.list_parent_indices(maps.cast(pa.list_(pa.struct([("k", pa.string()), ("v", pa.float64())]))))
    entries = maps.drop_null()
    columns = {
        "ping": pc.take(ping, row),
        "known_tick": pc.take(created["known_tick"], row),
        "event_id": pc.take(created["event_id"], row),
        "name": entries.keys,
        "number": entries.items,
    }
    return pa.table(columns)


def ids_of(catalogue: Catalogue, kind: str) -> dict[int, str]:
    """Number to id, for one kind."""
    have = catalogue.numbers.filter(pc.field("kind") == kind)
    return dict(zip(have["number"].to_pylist(), have["id"].to_pylist(), strict=True))


def numbers_for(catalogue: Catalogue, kind: str, ids: Sequence[str]) -> pa.ChunkedArray:
    """The number of each id, null for none."""
    return _look_up(catalogue.numbers, kind, pa.chunked_array([pa.array(ids, pa.string())]))
