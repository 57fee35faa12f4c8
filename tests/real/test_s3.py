"""What S3 costs and keeps: requests are counted where they leave, files where they land."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.bucket import ensure, flaws
from pingfeed.adapters.artifacts_s3 import S3Artifacts
from pingfeed.adapters.lake_s3 import WHOLE_BYTES, S3Lake
from pingfeed.core.errors import NotFound, Unavailable
from simulator.lake import open_lake
from tests.conformance.place import Place

pytestmark = pytest.mark.real
SCHEMA = pa.schema([("n", pa.int64())])


def parquet(rows: int) -> bytes:
    """Rows that do not compress."""
    sink = pa.BufferOutputStream()
    noise = np.random.default_rng(rows).integers(0, 2**62, rows)
    pq.write_table(pa.table({"n": noise, "more": noise[::-1]}), sink)
    return bytes(sink.getvalue())


def counting(lake: S3Lake) -> "Counter[str]":
    """The requests that a lake makes from now on, by what they do."""
    counts: Counter[str] = Counter()
    lake._client.meta.events.register("before-send.s3", lambda request, **_: counts.update([request.method]))
    return counts


def uploads(bucket: str) -> int:
    answer: dict[str, Any] = _client().list_multipart_uploads(Bucket=bucket)
    return len(answer.get("Uploads", ()))


def _client() -> Any:
    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


@pytest.fixture
def lake(place: Place) -> S3Lake:
    return S3Lake(f"s3://{place.bucket}/lake")


def test_each_call_of_the_lake_is_one_request(lake: S3Lake, place: Place) -> None:
    counts = counting(lake)
    for number in range(5):
        lake.write(f"a/{number}", b"x")
    assert counts == {"PUT": 5}
    counts.clear()
    assert len(lake.list("a")) == 5
    assert counts == {"GET": 1}
    lake.read("a/1")
    lake.delete("a/1")
    assert counts == {"GET": 2, "DELETE": 1}
    assert [one["Key"] for one in _client().list_objects_v2(Bucket=place.bucket)["Contents"]] == [
        f"lake/a/{number}" for number in (0, 2, 3, 4)
    ], "no marker of a folder is left"


def test_a_small_file_is_read_by_one_request_and_a_large_one_by_ranges(lake: S3Lake) -> None:
    files = {"d/small": parquet(100), "d/large": parquet(100_000), "d/tiny": parquet(1)}
    assert len(files["d/large"]) > 2 * WHOLE_BYTES
    for path, data in files.items():
        lake.write(path, data)
    counts = counting(lake)
    dataset = lake.dataset(list(files), SCHEMA)
    assert counts == {"GET": 3}
    assert dataset.to_table().num_rows == dataset.count_rows() == 100_101
    assert sum(batch.num_rows for batch in dataset.to_batches(columns=["n"])) == 100_101
    assert counts == {"GET": 3}, "what is left of the large one is Arrow's business"


def test_a_large_file_deleted_during_a_read_is_not_found(lake: S3Lake) -> None:
    lake.write("d/large", parquet(100_000))
    for read in ("to_table", "count_rows"):
        dataset = lake.dataset(["d/large"], SCHEMA)
        lake.delete("d/large")
        with pytest.raises(NotFound):
            getattr(dataset, read)()
        lake.write("d/large", parquet(100_000))


def test_an_empty_file_is_invalid_parquet_not_an_outage(lake: S3Lake) -> None:
    lake.write("d/empty", b"")
    with pytest.raises(pa.ArrowInvalid):
        lake.dataset(["d/empty"], SCHEMA).count_rows()


def test_an_absent_bucket_is_unavailable_not_an_empty_lake(place: Place) -> None:
    lake = S3Lake(f"s3://{place.aws}-none/lake")
    for call in (lambda: lake.list("events"), lambda: lake.read("a"), lambda: lake.dataset(["a"], SCHEMA)):
        with pytest.raises(Unavailable, match="NoSuchBucket"):
            call()


def test_more_than_a_page_is_listed_whole(lake: S3Lake) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: lake.write(f"a/{number:04}", b""), range(1001)))
    assert len(lake.list("a")) == 1001


def test_a_history_file_is_one_put_and_leaves_no_upload_open(place: Place) -> None:
    lake, beside = open_lake(f"s3://{place.bucket}/lake")
    assert isinstance(lake, S3Lake)
    counts = counting(lake)
    lake.write("events/history-1.parquet", b"x" * (11 << 20))
    assert counts == {"PUT": 1}
    beside.write("world.json", b"{}")
    assert beside.read("world.json") == b"{}"
    assert lake.list("events") == ["events/history-1.parquet"]
    assert uploads(place.bucket) == 0


async def test_a_bucket_that_is_absent_fails_the_check(place: Place) -> None:
    artifacts = S3Artifacts(f"s3://{place.aws}-none")
    with pytest.raises(Unavailable):
        await artifacts.check()
    await artifacts.close()


def test_a_bucket_is_created_once_private_and_with_its_rules(place: Place) -> None:
    url = f"s3://made-{place.aws}/lake"
    made = ensure(url)
    assert made[0] == f"created the bucket made-{place.aws}"
    assert len(made) == 4
    assert ensure(url) == []
    rules = _client().get_bucket_lifecycle_configuration(Bucket=f"made-{place.aws}")["Rules"]
    (moved,) = (rule for rule in rules if "Transitions" in rule)
    assert moved["Transitions"] == [{"Days": 90, "StorageClass": "GLACIER_IR"}]
    assert moved["Filter"]["And"] == {"Prefix": "lake/events/", "ObjectSizeGreaterThan": 131_071}
    private = _client().get_public_access_block(Bucket=f"made-{place.aws}")["PublicAccessBlockConfiguration"]
    assert all(private.values())
    assert flaws(url) == []
    _client().delete_public_access_block(Bucket=f"made-{place.aws}")
    assert flaws(url) == ["does not block public access"]
    assert len(ensure(url)) == 1


def test_a_bucket_keeps_foreign_rules(place: Place) -> None:
    bucket = f"rules-{place.aws}"
    ensure(f"s3://{bucket}/one")
    found = _client().get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    _client().put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [*found, theirs]})
    assert len(ensure(f"s3://{bucket}/two")) == 1
    names = [rule["ID"] for rule in _client().get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]]
    assert len(names) == 4
    assert "theirs" in names
