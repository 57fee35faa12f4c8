"""What every EventSink promises (`ports.EventSink`). A new adapter is one entry of ADAPTERS."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pingfeed.adapters.event_sink_disk import DiskEventSink
from pingfeed.adapters.lake_file import FileLake
from pingfeed.clock import DAY_MS, uuid7
from pingfeed.events import Row, to_row
from pingfeed.ports import EventSink
from tests.conformance.place import Place, cases
from tests.conformance.samples import NOON_MS, batch, like

pytestmark = pytest.mark.conformance


@dataclass(frozen=True)
class Adapter:
    """How to open the sink in a folder, and every row that landed by UTC day of arrival."""

    open: Callable[[Place], EventSink]
    landed: Callable[[Place], dict[str, list[Row]]]


def _landed_on_disk(place: Place) -> dict[str, list[Row]]:
    days: dict[str, list[Row]] = {}
    for path in FileLake(f"file://{place.folder}").list("events"):
        day = "-".join(part.partition("=")[2] for part in path.split("/")[1:4])
        rows = pq.read_table(place.folder / path, partitioning=None).to_pylist(maps_as_pydicts="strict")
        days.setdefault(day, []).extend(_without_nulls(row) for row in rows)
    return days


def _without_nulls(row: dict[str, Any]) -> Row:
    return {name: value for name, value in row.items() if value is not None}


ADAPTERS = {
    "disk": Adapter(lambda place: DiskEventSink(f"disk://{place.folder}"), _landed_on_disk),
}


@pytest.fixture(params=cases(ADAPTERS))
def adapter(request: pytest.FixtureRequest) -> Adapter:
    chosen: Adapter = request.param
    return chosen


@pytest.fixture
async def sink(adapter: Adapter, place: Place) -> AsyncIterator[EventSink]:
    opened = adapter.open(place)
    yield opened
    await opened.close()


async def test_what_was_written_is_there(adapter: Adapter, sink: EventSink, place: Place) -> None:
    await sink.write(batch("a", like(1), like(2)))
    assert adapter.landed(place) == {"2026-11-22": [like(1), like(2)]}


async def test_a_record_of_several_rows_lands_whole(adapter: Adapter, sink: EventSink, place: Place) -> None:
    several = batch("a", like(1))
    joined = type(several)("a", [several.lines[0] * 3, several.lines[0]], NOON_MS)
    await sink.write(joined)
    assert adapter.landed(place) == {"2026-11-22": [like(1)] * 4}


async def test_batches_of_different_names_are_all_kept(adapter: Adapter, sink: EventSink, place: Place) -> None:
    for number in range(4):
        await sink.write(batch(f"b{number}", like(number)))
    landed = adapter.landed(place)["2026-11-22"]
    assert sorted(row["event_id"] for row in landed) == [like(n)["event_id"] for n in range(4)]


async def test_the_same_batch_again_loses_nothing(adapter: Adapter, sink: EventSink, place: Place) -> None:
    for _ in range(2):
        await sink.write(batch("a", like(1), like(2)))
    landed = adapter.landed(place)["2026-11-22"]
    assert {row["event_id"] for row in landed} == {like(1)["event_id"], like(2)["event_id"]}


async def test_the_day_is_that_of_arrival(adapter: Adapter, sink: EventSink, place: Place) -> None:
    midnight = NOON_MS - NOON_MS % DAY_MS
    late = {**like(1), "timestamp_ms": midnight - 9 * DAY_MS}
    await sink.write(batch("a", late, received_ms=midnight - 1))
    await sink.write(batch("b", late, received_ms=midnight))
    assert adapter.landed(place).keys() == {"2026-11-21", "2026-11-22"}


async def test_every_kind_of_value_comes_back(adapter: Adapter, sink: EventSink, place: Place) -> None:
    created = {
        "event_type": "ping_created",
        "ping_id": "p",
        "creator_id": "c",
        "topics": ["böses Wetter", "x"],
        "duration_ms": 0,
        "attributes": {"price": 3, "huge": 10**30, "ratio": 0.1},
        "facets": {"brand": ["a", "b"], "none": []},
        "sent_at": "2026-11-22T11:00:00Z",
        "more": {"unknown": [1]},
    }
    row = to_row(created, NOON_MS, uuid7)
    await sink.write(batch("a", row))
    (landed,) = adapter.landed(place)["2026-11-22"]
    assert landed == {**row, "attributes": {"price": 3.0, "huge": 1e30, "ratio": 0.1}}
    assert isinstance(landed["attributes"]["price"], float)


async def test_unknown_numbers_in_lists_stay_unknown(adapter: Adapter, sink: EventSink, place: Place) -> None:
    served = {**like(1), "event_type": "feed_served", "served_scores": [0.5, None], "served_propensities": [1, 0.25]}
    await sink.write(batch("a", served))
    (landed,) = adapter.landed(place)["2026-11-22"]
    assert landed["served_scores"] == [0.5, None]
    assert landed["served_propensities"] == [1.0, 0.25]


async def test_a_ready_sink_passes_its_check(sink: EventSink) -> None:
    await sink.check()


def test_the_reader_reads_what_arrow_wrote() -> None:
    """The suite stands on this: a map comes back as a dict, an int64 as an int."""
    table = pa.table({"m": pa.array([[("a", 1.0)]], pa.map_(pa.string(), pa.float64()))})
    assert table.to_pylist(maps_as_pydicts="strict") == [{"m": {"a": 1.0}}]
