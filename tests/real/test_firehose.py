"""Events on their way through Firehose (MiniStack) into the lake, with one that the Glue table rejects among them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from batch.jobs.nightly import etl
from batch.lake.ledger import Manifest
from deploy.stream import ensure, flaws
from pingfeed import checks
from pingfeed.adapters.event_sink_firehose import FirehoseEventSink
from pingfeed.adapters.lake_file import FileLake
from pingfeed.core.clock import DAY_MS, day_of, system_clock
from pingfeed.core.errors import SettingsError
from pingfeed.core.events import Row, encode_rows
from pingfeed.settings import load
from tests.buckets import mirror
from tests.conformance.samples import SampleBatch, eventually, like
from tests.servers import AWS_ENVIRONMENT, ministack, running
from tests.unit.lakes import LakeWorld

pytestmark = pytest.mark.real

STREAM, BUCKET = "pingfeed-events", "pingfeed-lake"
LANDED = re.compile(rf"events/year=\d{{4}}/month=\d{{2}}/day=\d{{2}}/{STREAM}-[^/]+\.parquet")


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A stream into an empty bucket, as an installation makes it."""
    with running(ministack(tmp_path / "aws")) as server:
        for name, value in {**AWS_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        made = ensure(f"firehose://{STREAM}", f"s3://{BUCKET}/lake", interval_s=60)
        assert len(made) == 4
        assert ensure(f"firehose://{STREAM}", f"s3://{BUCKET}/lake", interval_s=60) == []
        yield STREAM


async def _delivered(rows: list[Row]) -> FirehoseEventSink:
    sink = FirehoseEventSink(f"firehose://{STREAM}")
    try:
        await sink.check()
        await sink.write(SampleBatch("a", [encode_rows(rows)], system_clock()))
    finally:
        await sink.close()
    return sink


def _put(*rows: Row) -> None:
    """Straight into the stream, in one record, unchecked, as another program might."""
    record = {"Data": encode_rows(rows)}
    answer = boto3.client("firehose").put_record_batch(DeliveryStreamName=STREAM, Records=[record])
    assert answer["FailedPutCount"] == 0


def _loaded(world: LakeWorld) -> list[str]:
    today = system_clock() // DAY_MS
    return sorted(world.batch.tables.clean(today - 1, today + 1)["event_id"].to_pylist())


def _nightly(world: LakeWorld, tick: int) -> Manifest:
    world.time.now_ms = world.batch.ticks.start_ms(tick)
    return etl(world.batch, tick)


async def test_a_document_that_the_table_rejects_does_not_affect_its_neighbours(stream: str, tmp_path: Path) -> None:
    now_ms = system_clock()
    rejected = {**like(2, received_ms=now_ms), "position": "third"}
    sink = await _delivered([like(n, received_ms=now_ms) for n in range(10, 15)])
    assert sink.counters.billed_bytes == 5120
    _put(like(1, received_ms=now_ms), rejected, like(3, received_ms=now_ms))
    quarantined = {**like(4, received_ms=now_ms), "duration_ms": "long"}
    await _delivered([quarantined, like(5, received_ms=now_ms)])

    mirrored = f"file://{tmp_path}/home/lake"
    environ = {"PINGFEED_EVENTS_URL": f"firehose://{stream}", "PINGFEED_LAKE_URL": mirrored}
    world, lake = LakeWorld(tmp_path / "home", environ), FileLake(mirrored)
    await eventually(lambda: len(mirror(BUCKET, lake).list("")) == 4)
    assert [bool(LANDED.fullmatch(path)) for path in lake.list("events")] == [True, True]
    assert len(lake.list("errors/format-conversion-failed")) == 2

    tick = world.batch.ticks.of(system_clock()) + 1
    assert _nightly(world, tick).rejected == 2
    assert _loaded(world) == sorted(like(n)["event_id"] for n in (1, 3, 5, *range(10, 15)))
    (today,) = {path.split("/")[1] for path in lake.list("rejected")}
    assert today in (f"day={day_of(now_ms)}", f"day={day_of(system_clock())}")
    kept = [json.loads(line) for path in lake.list("rejected") for line in lake.read(path).splitlines()]
    assert sorted((one["field"], json.loads(one["body"])) for one in kept) == [
        ("duration_ms", quarantined),
        ("position", rejected),
    ]
    assert all("DataFormatConversion" in one["message"] for one in kept)

    assert _nightly(world, tick + 1).files == [], "each error is read once"
    assert len(_loaded(world)) == 8


def test_a_second_stage_and_a_drift_of_the_first_are_told_apart(stream: str) -> None:
    lake = f"s3://{BUCKET}/lake"
    boto3.client("s3").create_bucket(Bucket="pingfeed-second")
    assert len(ensure("firehose://second-events", "s3://pingfeed-second")) == 4
    assert flaws("firehose://second-events", "s3://pingfeed-second") == []
    iam = boto3.client("iam")
    policies = {
        name: json.dumps(iam.get_role_policy(RoleName=f"{name}-us-east-1-firehose", PolicyName="deliver"))
        for name in (stream, "second-events")
    }
    assert [bucket in policies[stream] for bucket in (BUCKET, "pingfeed-second")] == [True, False]

    assert flaws(f"firehose://{stream}", lake) == ["it buffers 64 MB or 60 s, not 64 MB or 300 s"]
    found = load({"PINGFEED_EVENTS_URL": f"firehose://{stream}", "PINGFEED_LAKE_URL": lake})
    drift = {check.name: check for check in checks._drift(found)}
    assert drift[f"drift of {lake}"].detail == "does not block public access", "the test made that bucket"
    assert drift[f"drift of firehose://{stream}"].detail.startswith("it buffers 64 MB or 60 s")
    glue = boto3.client("glue")
    table = glue.get_table(DatabaseName="pingfeed_events", Name="events")["Table"]
    kept = {name: table[name] for name in ("Name", "PartitionKeys", "StorageDescriptor", "TableType")}
    kept["StorageDescriptor"]["Columns"].pop()
    glue.update_table(DatabaseName="pingfeed_events", TableInput=kept | {"Parameters": {"by": "hand"}})
    assert flaws(f"firehose://{stream}", lake)[1:] == [
        "its table pingfeed_events.events lacks seq, partition projection"
    ]
    assert len(ensure(f"firehose://{stream}", lake, interval_s=60)) == 1
    parameters = glue.get_table(DatabaseName="pingfeed_events", Name="events")["Table"]["Parameters"]
    assert (parameters["by"], parameters["projection.enabled"]) == ("hand", "true")
    with pytest.raises(SettingsError, match="writes to pingfeed-lake/lake/events"):
        ensure(f"firehose://{stream}", "s3://pingfeed-second")
