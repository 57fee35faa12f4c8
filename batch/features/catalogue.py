"""The catalogue: numbers for ids, the versions of each ping, and both as of any tick.

A number is assigned once, in the order in which ids became known, and never reused: packets and snapshots of different
ages agree on what 4711 is. Kinds of ids: `ping`, `creator`, and `value`, a facet's value written `facet=value`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from batch.lake.tables import CATALOGUE, Tables
from batch.wiring import Batch
from pingfeed.core.features import FACET_WIDTH

_KINDS: Final = ("ping", "creator", "value")
_VERSION: Final = ("known_tick", "received_ms", "seq", "event_id", "duration_ms", "country", "language", "by_user")
_VERSION_KEY: Final = {"known_tick": pa.int64(), "event_id": pa.string()}
_FACET: Final = _VERSION_KEY | {"facet": pa.string(), "position": pa.int64()}
ACTS: Final = [
    *("user_id", "known_tick", "ping_id", "creator_id", "event_type", "country", "language", "received_ms", "event_id"),
    *("watch_time_ratio", "timestamp_ms", "seq", "topic", "interests"),
]
"""The columns that `acts.sql` reads: those of the catalogue's events may be large."""


@dataclass(frozen=True)
class Catalogue:
    """The tables of the catalogue that the SQL statements read."""

    numbers: pa.Table
    pings: pa.Table
    versions: pa.Table
    facets: pa.Table
    attributes: pa.Table
    deletions: pa.Table


def load(batch: Batch) -> Catalogue:
    """Read the catalogue with the range of ticks in which each version of a ping is valid."""
    engine, params = batch.engine, batch.ticks.params()
    raw = {name: batch.tables.catalogue(name) for name in CATALOGUE if name != "numbers_copy"}
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
    numbers = _number_new(tables, run, events, _facets_of(created))
    for name, rows in derived(numbers, events).items():
        tables.add(name, run, rows)


def derived(numbers: pa.Table, events: pa.Table) -> dict[str, pa.Table]:
    """The rows of the catalogue's other tables for these clean events."""
    created = events.filter(pc.field("event_type") == "ping_created")
    facets = _facets_of(created)
    facets = facets.append_column("value", _look_up(numbers, "value", facets["value_id"]))
    versions = {
        "ping": _look_up(numbers, "ping", created["ping_id"]),
        "creator": _look_up(numbers, "creator", created["creator_id"]),
        **{name: created[name] for name in _VERSION},
    }
    deleted = events.filter(pc.field("event_type") == "ping_deleted")
    deletions = {"ping": _look_up(numbers, "ping", deleted["ping_id"]), "known_tick": deleted["known_tick"]}
    found = {"facets": facets, "attributes": _attributes_of(created)}
    for name, rows in found.items():
        found[name] = rows.append_column("ping", _look_up(numbers, "ping", rows["ping_id"]))
    return found | {"versions": pa.table(versions), "deletions": pa.table(deletions)}


def _number_new(tables: Tables, run: int, events: pa.Table, facets: pa.Table) -> pa.Table:
    """All numbers, including those of ids that these events mention for the first time."""
    numbers = tables.catalogue("numbers")
    topics = pc.binary_join_element_wise("topics", events["topic"], "=")
    values = pa.chunked_array([*facets["value_id"].chunks, *topics.chunks], pa.string())
    mentioned = {"ping": events["ping_id"], "creator": events["creator_id"], "value": values}
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
    whole = pa.concat_tables([numbers, fresh])
    # A lake of an earlier version has no copy yet.
    tables.add("numbers_copy", run, fresh if tables.catalogue("numbers_copy").num_rows else whole)
    tables.add("numbers", run, fresh)
    return whole


def _look_up(numbers: pa.Table, kind: str, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """The number of each id, null for none."""
    have = numbers.filter(pc.field("kind") == kind)
    return pc.take(have["number"], pc.index_in(ids, value_set=have["id"].combine_chunks()))


def _facets_of(created: pa.Table) -> pa.Table:
    """One row for each (version, facet value), without repeated values and with at most FACET_WIDTH a facet.

    Topics are the facet `topics`.
    """
    versions = created.select(["ping_id", "known_tick", "event_id", "topics", "facets"]).to_pylist()
    lists = [(one, "topics", one["topics"] or []) for one in versions]
    lists += [(one, facet, values) for one in versions for facet, values in one["facets"] or []]
    rows: list[tuple[Any, ...]] = []
    seen: set[tuple[str, str]] = set()
    count: Counter[tuple[str, str]] = Counter()
    for one, facet, values in lists:
        event = one["event_id"]
        for value in (f"{facet}={name}" for name in values if name is not None):
            if (event, value) not in seen:
                seen.add((event, value))
                position = count[event, facet]
                count[event, facet] += 1
                if position < FACET_WIDTH:
                    rows.append((one["ping_id"], one["known_tick"], event, facet, position, value))
    return _table(rows, ping_id=pa.string(), **_FACET, value_id=pa.string())


def _attributes_of(created: pa.Table) -> pa.Table:
    """One row for each (version, attribute)."""
    versions = created.select(["ping_id", "known_tick", "event_id", "attributes"]).to_pylist()
    rows = [
        (one["ping_id"], one["known_tick"], one["event_id"], name, number)
        for one in versions
        for name, number in one["attributes"] or []
    ]
    return _table(rows, ping_id=pa.string(), **_VERSION_KEY, name=pa.string(), number=pa.float64())


def _table(rows: list[tuple[Any, ...]], **types: pa.DataType) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ([] for _ in types)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types.values(), strict=True)]
    return pa.table(arrays, names=list(types))


def acts(batch: Batch, known: Catalogue, events: pa.Table) -> pa.Table:
    """What users did, with numbers for ids (`acts.sql`)."""
    inputs = {"events": events.select(ACTS), "numbers": known.numbers, "pings": known.pings}
    return batch.engine.run("acts", batch.ticks.params(), **inputs)


def ids_of(catalogue: Catalogue, kind: str) -> dict[int, str]:
    """Number to id, for one kind."""
    have = catalogue.numbers.filter(pc.field("kind") == kind)
    return dict(zip(have["number"].to_pylist(), have["id"].to_pylist(), strict=True))


def ids_for(catalogue: Catalogue, kind: str, numbers: pa.ChunkedArray) -> pa.ChunkedArray:
    """The id of each number, null for none."""
    have = catalogue.numbers.filter(pc.field("kind") == kind)
    return pc.take(have["id"], pc.index_in(numbers, value_set=have["number"].combine_chunks()))


def numbers_for(catalogue: Catalogue, kind: str, ids: Sequence[str]) -> pa.ChunkedArray:
    """The number of each id, null for none."""
    return _look_up(catalogue.numbers, kind, pa.chunked_array([pa.array(ids, pa.string())]))
