"""Raw files of every writer become rows; a document that is not a valid row is rejected once, with its reason."""

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pytest
from botocore.exceptions import ClientError

from batch.jobs.load_events import EventLoader
from batch.jobs.tick import wait_for_landing
from batch.lake.ledger import Manifest
from batch.lake.raw_files import Read, read_events
from pingfeed.adapters.event_sink_disk import parquet_of
from pingfeed.adapters.lake_file import FileLake
from pingfeed.aws import translated
from pingfeed.core.arrow import EVENT_SCHEMA, table_of_rows
from pingfeed.core.clock import DAY_MS
from pingfeed.core.events import Row, encode_rows
from tests.conformance.samples import like
from tests.unit.dying_lake import deaths
from tests.unit.lakes import ARRIVED_MS, FIRST, FIRST_DAY, TICK_MS, LakeWorld, error_line, event_id, row
from tests.unit.lakes import like as like_at
from tests.unit.test_learn import _clean, _everything

DAY = "events/year=2024/month=10/day=04"
ERRORS = "errors/format-conversion-failed/year=2024/month=10/day=04"


class CountingLake(FileLake):
    """Counts the reads of each file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"file://{folder}")
        self.reads: list[str] = []

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return super().read(path)


@pytest.fixture
def lake(tmp_path: Path) -> CountingLake:
    return CountingLake(tmp_path)


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    return LakeWorld(tmp_path)


def rows_of(found: Read) -> list[Row]:
    rows = found.rows.to_pylist(maps_as_pydicts="strict")
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def read_one(lake: CountingLake, data: bytes, name: str = "any-name") -> Read:
    lake.write(f"{DAY}/{name}", data)
    return read_events(lake, [f"{DAY}/{name}"])


def parquet(table: pa.Table) -> bytes:
    return bytes(parquet_of(table))


FULL = {
    **like(1),
    "topics": ["ö", "x"],
    "attributes": {"price": 3.0},
    "facets": {"brand": ["a"], "none": []},
    "served_scores": [0.5, None],
    "served_sources": [1, 2],
    "watch_time_ratio": 1.0,
}
FORMS = {
    "parquet": parquet(table_of_rows([FULL, like(2)])),
    "lines": encode_rows([FULL, like(2)]),
    "without a last line feed": encode_rows([FULL, like(2)]).rstrip(),
    "one behind the other": encode_rows([FULL, like(2)]).replace(b"\n", b""),
    "gzip": gzip.compress(encode_rows([FULL, like(2)])),
    "gzip after gzip": gzip.compress(encode_rows([FULL])) + gzip.compress(encode_rows([like(2)])),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["stream-1-2024-10-04-00-00-00-uuid", "x.parquet", "x.json", "x.gz"])
def test_the_content_of_a_file_says_what_it_is(lake: CountingLake, form: str, name: str) -> None:
    assert rows_of(read_one(lake, FORMS[form], name)) == [FULL, like(2)]


def test_every_file_is_fetched_once_and_rows_keep_the_order_of_the_files(lake: CountingLake) -> None:
    paths = [f"{DAY}/{number:03}" for number in range(30)]
    for number, path in enumerate(paths):
        lake.write(path, encode_rows([like(number)]) if number % 2 else parquet(table_of_rows([like(number)])))
    assert [row["event_id"] for row in rows_of(read_events(lake, paths))] == [like(n)["event_id"] for n in range(30)]
    assert sorted(lake.reads) == paths


def test_columns_may_be_unknown_absent_or_of_a_type_that_can_be_cast(lake: CountingLake) -> None:
    table = pa.table(
        {
            "unheard_of": [1],
            "event_id": pa.array(["i"]).dictionary_encode(),
            "event_type": ["like"],
            "received_ms": pa.array([5], pa.int32()),
            "timestamp_ms": pa.array([6.0]),
            "watch_time_ratio": pa.array([1], pa.int64()),
            "topics": pa.array([["a"]], pa.list_(pa.field("element", pa.large_string()))),
            "country": pa.nulls(1),
        }
    )
    found = read_one(lake, parquet(table))
    assert found.rows.schema == EVENT_SCHEMA
    expected = {"event_id": "i", "event_type": "like", "received_ms": 5, "timestamp_ms": 6}
    assert rows_of(found) == [{**expected, "watch_time_ratio": 1.0, "topics": ["a"]}]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PAR1 this is not Parquet",
        FORMS["parquet"][:-20],
        b"\x00\x01",
        b"a,b\n1,2\n",
        gzip.compress(FORMS["lines"])[:-12],
        parquet(table_of_rows([like(1)]).set_column(3, "received_ms", pa.array(["yesterday"]))),
        parquet(table_of_rows([like(1)]).set_column(3, "received_ms", pa.array([[1]]))),
    ],
)
def test_a_file_that_cannot_be_read_is_left_out_with_its_reason(lake: CountingLake, data: bytes) -> None:
    lake.write(f"{DAY}/good", FORMS["lines"])
    lake.write(f"{DAY}/bad", data)
    found = read_events(lake, [f"{DAY}/bad", f"{DAY}/good"])
    assert found.files == [f"{DAY}/good"]
    assert found.left_out[f"{DAY}/bad"]
    assert rows_of(found) == [FULL, like(2)]


def test_a_file_in_an_archive_is_left_out_and_does_not_stop_the_nightly_job(
    lake: CountingLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Glacier's answer, after our own rule has moved a file that no run could read."""
    answer = {"Error": {"Code": "InvalidObjectState", "Message": "storage class"}}

    def read(path: str) -> bytes:
        if path.endswith("archived"):
            with translated(path):
                raise ClientError(answer, "GetObject")
        return encode_rows([like_at(FIRST, 1)])

    monkeypatch.setattr(lake, "read", read)
    found = read_events(lake, [f"{DAY}/archived", f"{DAY}/here"])
    assert found.files == [f"{DAY}/here"]
    assert "is archived" in found.left_out[f"{DAY}/archived"]


def test_a_document_that_is_not_a_row_is_rejected_and_its_neighbours_are_kept(lake: CountingLake) -> None:
    bad = encode_rows([{**like(2), "position": "third"}])
    found = read_one(lake, encode_rows([like(1)]) + bad + b'{"torn":\n' + encode_rows([like(3)]))
    assert rows_of(found) == [like(1), like(3)]
    assert [(one.code, one.field, one.body) for one in found.rejected] == [
        ("format", "position", bad.decode().strip()),
        ("format", None, '{"torn":'),
    ]
    assert {(one.received_ms, one.source) for one in found.rejected} == {(FIRST_DAY * DAY_MS, f"{DAY}/any-name")}


def test_a_row_without_an_id_a_type_or_a_time_is_rejected_in_parquet_too(lake: CountingLake) -> None:
    nameless = {name: value for name, value in like(2).items() if name != "event_id"}
    found = read_one(lake, parquet(table_of_rows([like(1), nameless, like(3)])))
    assert rows_of(found) == [like(1), like(3)]
    assert [json.loads(one.body) for one in found.rejected] == [nameless]
    assert "event_id" in found.rejected[0].message


@pytest.mark.parametrize("form", ["errorCode", "lastErrorCode", "ErrorCode"])
def test_the_good_neighbours_in_an_error_are_rows_and_the_bad_one_has_both_reasons(
    lake: CountingLake, form: str
) -> None:
    bad = encode_rows([{**like(2), "position": "third"}])
    said = {form: "DataFormatConversion.MalformedData", form.replace("Code", "Message"): "It does not match."}
    lake.write(f"{ERRORS}/x", error_line(encode_rows([like(1)]) + bad + encode_rows([like(3)]), **said))
    found = read_events(lake, [f"{ERRORS}/x"])
    assert rows_of(found) == [like(1), like(3)]
    (rejected,) = found.rejected
    assert (rejected.received_ms, rejected.body, rejected.field) == (ARRIVED_MS, bad.decode().strip(), "position")
    assert "got `str`" in rejected.message
    assert rejected.message.endswith("(Firehose: DataFormatConversion.MalformedData: It does not match.)")


def test_an_error_record_of_several_lines_gives_all_of_their_documents(lake: CountingLake) -> None:
    lines = [error_line(encode_rows([like(number)])) for number in range(3)]
    lake.write(f"{ERRORS}/x", gzip.compress(b"".join(lines)))
    assert rows_of(read_events(lake, [f"{ERRORS}/x"])) == [like(number) for number in range(3)]


@pytest.mark.parametrize(
    "line", [b'{"errorCode":"x"}', b'{"rawData":"%%%"}', b'{"rawData":5}', b'{"rawData":"aGk=","arrivalTimestamp":"?"}']
)
def test_a_line_that_is_no_error_record_is_kept_as_rejected(lake: CountingLake, line: bytes) -> None:
    lake.write(f"{ERRORS}/x", line + b"\n" + error_line(encode_rows([like(1)])))
    found = read_events(lake, [f"{ERRORS}/x"])
    assert rows_of(found) == [like(1)]
    assert [one.body for one in found.rejected] == [line.decode()]


def _rejected(world: LakeWorld) -> list[dict[str, Any]]:
    lake = world.batch.tables.lake
    return [json.loads(line) for path in lake.list("rejected") for line in lake.read(path).splitlines()]


def _fill(world: LakeWorld) -> None:
    """Raw files of every kind: Parquet, JSON with a bad document, and two errors, one of which repeats a row."""
    lake, base = world.batch.tables.lake, FIRST * TICK_MS
    world.land([row("ping_created", base, event_id=event_id("p"), ping_id="p1", creator_id="c", topics=["x"])])
    lake.write(f"{DAY}/json", encode_rows([like_at(FIRST + 1, 1)]) + b'{"bad":1}\n')
    beside = encode_rows([like_at(FIRST + 1, 1), like_at(FIRST + 1, 2, user="bob")])
    lake.write(f"{ERRORS}/one", error_line(beside + encode_rows([{**like_at(FIRST + 1, 3), "position": "x"}])))
    lake.write(f"{ERRORS}/two", error_line(encode_rows([like_at(FIRST + 1, 4)]) + b"torn{"))


def _load_all(world: LakeWorld, tick: int) -> Manifest:
    return world.learn(tick, everything=True)


def test_the_nightly_job_loads_good_documents_from_errors_and_rejects_bad_ones(world: LakeWorld) -> None:
    _fill(world)
    world.learn(FIRST + 1)
    assert _clean(world) == sorted([(event_id("p"), FIRST + 1), (event_id(1), FIRST + 1)])
    manifest = _load_all(world, FIRST + 2)
    late = [(event_id(2), FIRST + 2), (event_id(4), FIRST + 2)]
    assert _clean(world) == sorted([(event_id("p"), FIRST + 1), (event_id(1), FIRST + 1), *late])
    assert manifest.rejected == 2
    lake = world.batch.tables.lake
    assert lake.list("rejected") == lake.list("rejected/day=2024-10-04")
    bodies = [one["body"] for one in _rejected(world)]
    assert sorted(bodies) == sorted(
        ['{"bad":1}', "torn{", encode_rows([{**like_at(FIRST + 1, 3), "position": "x"}]).decode().strip()]
    )


def test_an_error_object_is_read_once(world: LakeWorld) -> None:
    _fill(world)
    _load_all(world, FIRST + 1)
    before, rejected = _everything(world), _rejected(world)
    again = _load_all(world, FIRST + 1)
    assert _load_all(world, FIRST + 2).files == []
    assert (_everything(world), _rejected(world)) == (before, rejected)
    assert again.run == (FIRST + 1) * 100


def test_a_nightly_job_killed_at_any_write_loses_and_duplicates_nothing(tmp_path: Path) -> None:
    calm = LakeWorld(tmp_path / "calm")
    _fill(calm)
    _load_all(calm, FIRST + 2)
    expected = (_everything(calm), _rejected(calm))
    assert len(expected[1]) == 3
    for attempt in deaths(least=10, most=80):
        world = LakeWorld(tmp_path / f"died-{attempt.changes}")
        _fill(world)
        batch = world.batch
        with attempt.in_lake(batch.tables):
            EventLoader(batch).run(FIRST + 1, 0, everything=True)
        if attempt.died:
            _load_all(world, FIRST + 2)  # a later tick's run: another number, the same rejected files
            assert (_everything(world), _rejected(world)) == expected, f"died at change {attempt.changes}"


def test_an_unreadable_file_is_loaded_once_it_can_be_read(world: LakeWorld) -> None:
    lake = world.batch.tables.lake
    lake.write(f"{DAY}/x", b"PAR1 torn")
    assert world.learn(FIRST + 1).left_out == 1
    assert _load_all(world, FIRST + 1).run == (FIRST + 1) * 100, "nothing was read: no amendment"
    lake.write(f"{DAY}/x", parquet(table_of_rows([like_at(FIRST + 1)])))
    world.learn(FIRST + 2)
    assert _clean(world) == [(event_id(0), FIRST + 2)]


def test_an_older_manifest_is_still_read(tmp_path: Path) -> None:
    old = {"run": 100, "tick": 1, "at_ms": 0, "files": ["a"], "read": 1, "kept": 1, "oldest_day": None}
    assert msgspec.json.decode(json.dumps(old).encode(), type=Manifest).rejected == 0


@pytest.mark.parametrize(("url", "patience_s"), [("disk:///lake", 7), ("firehose://events", 0)])
def test_only_a_sink_that_lands_at_once_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, patience_s: float
) -> None:
    lake = f"file://{tmp_path}/lake"
    environ = {"PINGFEED_EVENTS_URL": url, "PINGFEED_LAKE_URL": lake, "PINGFEED_SINK_FLUSH_SECONDS": "1"}
    world = LakeWorld(tmp_path, environ)
    waited: list[float] = []

    def wait(folder: Path, before_ms: int, timeout_s: float) -> int:
        waited.append(timeout_s)
        return 3

    monkeypatch.setattr("batch.jobs.tick.wait_landed", wait)
    assert wait_for_landing(world.batch, FIRST) == 3
    assert waited == [patience_s]


def test_lists_and_maps_of_another_writer_are_read(lake: CountingLake, tmp_path: Path) -> None:
    """Their inner fields have other names and may not be null."""
    sql = (
        "SELECT 'i' event_id, 'like' event_type, 1::BIGINT received_ms, 2::BIGINT timestamp_ms, ['a'] topics, "
        "MAP {'p': 1.5::DOUBLE} attributes, MAP {'b': ['c']} facets"
    )
    duckdb.execute(f"COPY ({sql}) TO '{tmp_path}/x' (FORMAT parquet)")
    (found,) = rows_of(read_one(lake, (tmp_path / "x").read_bytes()))
    assert (found["attributes"], found["facets"], found["topics"]) == ({"p": 1.5}, {"b": ["c"]}, ["a"])
