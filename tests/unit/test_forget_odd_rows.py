"""A row that is no row is forgotten too; it is counted where reconcile would have counted it, and nowhere else."""

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.forget.commands import forget_users
from batch.forget.tombstones import Tombstones
from batch.jobs.nightly import etl
from pingfeed.core.arrow import table_of_rows
from pingfeed.core.events import encode_rows
from tests.unit.forget_world import places_of
from tests.unit.lakes import DAY, FIRST, TICK_MS
from tests.unit.test_reconcile import PARTITION, TODAY, Town, like, town

__all__ = ["town"]


def _night(world: Town, tick: int) -> None:
    world.time.now_ms = tick * TICK_MS + 5_000
    etl(world.batch, tick)


def _removed(world: Town) -> dict[str, int]:
    world.batch.tables.refresh()
    (stone,) = Tombstones(world.lake).done_since(0)
    return stone.removed


@pytest.mark.parametrize(
    ("column", "counted"), [("received_ms", 1), ("event_id", 2), ("event_type", 2), ("timestamp_ms", 2)]
)
def test_a_column_without_a_value_stops_no_night_and_counts_only_if_it_had_landed(
    town: Town, column: str, counted: int
) -> None:
    rows = table_of_rows([like(1), like(2)])
    at = rows.column_names.index(column)
    rows = rows.set_column(at, rows.schema.field(at), pa.array([None, *rows[column].to_pylist()[1:]], rows[at].type))
    folder = town.home / "lake" / PARTITION
    folder.mkdir(parents=True)
    pq.write_table(rows, folder / "fire.parquet")
    town.deliver(counted)
    _night(town, FIRST + 60)
    assert town.counts().missing == 0
    forget_users(town.batch, ["ada"])
    _night(town, FIRST + DAY + 12)
    assert _removed(town) == {TODAY: counted}
    assert not [place for place in places_of(town, "ada") if "forgotten/" not in place]
    assert town.counts().missing == 0


def test_a_row_of_a_time_that_no_day_has_goes_and_stops_no_night(town: Town) -> None:
    town.lake.write(f"{PARTITION}/fire", encode_rows([like(1), like(2, -(1 << 62))]))
    _night(town, FIRST + 60)
    forget_users(town.batch, ["ada"])
    _night(town, FIRST + DAY + 12)
    assert _removed(town) == {TODAY: 1}


def _odd(number: int) -> bytes:
    return msgspec.json.encode(like(number) | {"watch_time_ratio": "much"}) + b"\n"


@pytest.mark.parametrize("compacted", [False, True])
def test_a_document_that_is_no_row_is_counted_once_wherever_it_lies(town: Town, compacted: bool) -> None:
    town.lake.write(f"{PARTITION}/fire-1", _odd(1) + encode_rows([like(2)]))
    town.lake.write(f"{PARTITION}/fire-2", encode_rows([like(3)]))
    town.deliver(3)
    _night(town, FIRST + (DAY + 12 if compacted else 60))
    assert town.counts().missing == 0
    forget_users(town.batch, ["ada"])
    _night(town, FIRST + DAY + 13)
    assert _removed(town) == {TODAY: 3}
    assert town.counts().missing == 0
    assert town.lake.list("rejected") == []


def test_refused_events_that_are_shipped_long_after_their_day_go_too(town: Town) -> None:
    town.time.now_ms = (FIRST + 5 * DAY) * TICK_MS
    forget_users(town.batch, ["ada"])
    _night(town, FIRST + 5 * DAY + 12)
    line = {"received_ms": FIRST * TICK_MS, "code": "c", "field": None, "message": "m", "body": '{"user_id":"ada"}'}
    town.lake.write(f"rejected/day={TODAY}/w.jsonl", msgspec.json.encode(line) + b"\n")
    _night(town, FIRST + 6 * DAY + 12)
    assert _removed(town) == {}
    assert town.lake.list("rejected") == []
