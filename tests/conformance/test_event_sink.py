"""What every EventSink promises (`ports.EventSink`). A new adapter is one entry of ADAPTERS."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pyarrow as pa
import pytest

from batch.lake.raw_files import read_events
from batch.ticks import day_of_path
from deploy.stream import ensure as ensure_stream
from pingfeed.adapters.event_sink_disk import DiskEventSink
from pingfeed.adapters.event_sink_firehose import FirehoseEventSink
from pingfeed.adapters.lake_file import FileLake
from pingfeed.core.clock import DAY_MS, day_of, system_clock
from pingfeed.core.events import Row, to_row
from pingfeed.core.ids import uuid7
from pingfeed.ports import EventSink, Lake
from tests.buckets import bucket_of, mirrored
from tests.conformance.place import Place
from tests.conformance.samples import NOON_MS, batch, eventually, like

pytestmark = pytest.mark.conformance


@dataclass(frozen=True)
class Adapter:
    """How to open the sink, and the lake that it fills, as far as it has landed."""

    open: Callable[[Place], EventSink]
    lake: Callable[[Place], Lake]


def _stream(place: Place) -> FirehoseEventSink:
    """A stream into a bucket of this test's own; made by what makes it for an installation."""
    ensure_stream(f"firehose://{place.aws}", bucket_of(place), interval_s=60)
    return FirehoseEventSink(f"firehose://{place.aws}")


ADAPTERS = {
    "disk": Adapter(
        lambda place: DiskEventSink(f"disk://{place.folder}"), lambda place: FileLake(f"file://{place.folder}")
    ),
    "firehose": Adapter(_stream, mirrored),
}


@dataclass(frozen=True)
class Landing:
    """A sink, and the lake that it fills."""

    sink: EventSink
    lake: Callable[[], Lake]

    async def with_days(self, count: int) -> list[tuple[str, Row]]:
        """At least `count` rows with the days of their partitions, once they are there: a sink may take its time.

        Read by what the batch side reads with.
        """
        found: list[tuple[str, Row]] = []

        def are_there() -> bool:
            lake = self.lake()
            found[:] = [(day_of_path(path), row) for path in lake.list("events") for row in _rows(lake, path)]
            return len(found) >= count

        await eventually(are_there)
        return found

    async def rows(self, count: int) -> list[Row]:
        """The rows alone, by event id."""
        return sorted((row for _, row in await self.with_days(count)), key=lambda row: row["event_id"])


@pytest.fixture
async def landing(adapter: Adapter, place: Place) -> AsyncIterator[Landing]:
    sink = adapter.open(place)
    yield Landing(sink, lambda: adapter.lake(place))
    await sink.close()


def _rows(lake: Lake, path: str) -> list[Row]:
    read = read_events(lake, [path])
    assert read.files == [path]
    assert not read.rejected
    rows = read.rows.to_pylist(maps_as_pydicts="strict")
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


async def test_what_was_written_is_there(landing: Landing) -> None:
    await landing.sink.write(batch("a", like(1), like(2)))
    assert await landing.rows(2) == [like(1), like(2)]


async def test_a_record_of_several_rows_lands_whole(landing: Landing) -> None:
    several = batch("a", like(1))
    joined = type(several)("a", [several.lines[0] * 3, several.lines[0]], NOON_MS)
    await landing.sink.write(joined)
    assert await landing.rows(4) == [like(1)] * 4


async def test_batches_of_different_names_are_all_kept(landing: Landing) -> None:
    for number in range(4):
        await landing.sink.write(batch(f"b{number}", like(number)))
    assert await landing.rows(4) == [like(n) for n in range(4)]


async def test_the_same_batch_again_loses_nothing(landing: Landing) -> None:
    for _ in range(2):
        await landing.sink.write(batch("a", like(1), like(2)))
    found = await landing.rows(2)
    assert {row["event_id"] for row in found} == {like(1)["event_id"], like(2)["event_id"]}


async def test_the_day_is_that_of_arrival_and_never_that_of_the_event(landing: Landing) -> None:
    """At the service or the sink: a batch is written soon after its rows were accepted, so both are about now."""
    now_ms = system_clock()
    late = {**like(1, received_ms=now_ms), "timestamp_ms": now_ms - 9 * DAY_MS}
    early = {**like(2, received_ms=now_ms), "timestamp_ms": now_ms + DAY_MS}
    await landing.sink.write(batch("a", late, early, received_ms=now_ms))
    days = {day for day, _ in await landing.with_days(2)}
    assert days <= {day_of(now_ms), day_of(system_clock())}


async def test_every_kind_of_value_comes_back(landing: Landing) -> None:
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
    await landing.sink.write(batch("a", row))
    (found,) = await landing.rows(1)
    assert found == {**row, "attributes": {"price": 3.0, "huge": 1e30, "ratio": 0.1}}
    assert isinstance(found["attributes"]["price"], float)


async def test_unknown_numbers_in_lists_stay_unknown(landing: Landing) -> None:
    served = {**like(1), "event_type": "feed_served", "served_scores": [0.5, None], "served_propensities": [1, 0.25]}
    await landing.sink.write(batch("a", served))
    (found,) = await landing.rows(1)
    assert found["served_scores"] == [0.5, None]
    assert found["served_propensities"] == [1.0, 0.25]


async def test_what_was_taken_is_counted(landing: Landing) -> None:
    for number in range(2):
        await landing.sink.write(batch(f"b{number}", like(number)))
    counters = landing.sink.counters
    assert (counters.records, counters.retried, counters.quarantined) == (2, 0, 0)
    assert counters.bytes > 0
    assert counters.billed_bytes == 0 or counters.billed_bytes >= counters.bytes


async def test_a_ready_sink_passes_its_check(landing: Landing) -> None:
    await landing.sink.check()


def test_the_reader_reads_what_arrow_wrote() -> None:
    """The suite stands on this: a map comes back as a dict, an int64 as an int."""
    table = pa.table({"m": pa.array([[("a", 1.0)]], pa.map_(pa.string(), pa.float64()))})
    assert table.to_pylist(maps_as_pydicts="strict") == [{"m": {"a": 1.0}}]
