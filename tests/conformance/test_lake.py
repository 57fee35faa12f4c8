"""What every Lake promises (`ports.Lake`). A new adapter is one entry of ADAPTERS."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pingfeed.adapters.lake_file import FileLake
from pingfeed.adapters.lake_s3 import S3Lake
from pingfeed.core.errors import InvalidInput, NotFound
from pingfeed.ports import Lake
from tests.conformance.place import Place

pytestmark = pytest.mark.conformance
ADAPTERS: dict[str, Callable[[Place], Lake]] = {
    "file": lambda place: FileLake(f"file://{place.folder}/lake"),
    "s3": lambda place: S3Lake(f"s3://{place.bucket}/some/lake"),
}


@pytest.fixture
def lake(open_store: Callable[[], Lake]) -> Lake:
    return open_store()


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def test_what_was_written_is_read(lake: Lake) -> None:
    lake.write("ticks/7/manifest.json", b"\x00{}")
    assert lake.read("ticks/7/manifest.json") == b"\x00{}"


def test_a_file_is_replaced_whole(lake: Lake) -> None:
    lake.write("a/b", b"long before")
    lake.write("a/b", b"now")
    assert lake.read("a/b") == b"now"
    assert lake.list("a") == ["a/b"]


def test_what_is_absent_is_not_found(lake: Lake) -> None:
    with pytest.raises(NotFound):
        lake.read("a/b")
    lake.write("a/b", b"")
    with pytest.raises(NotFound):
        lake.read("a")


def test_a_list_is_sorted_and_deep(lake: Lake) -> None:
    for path in ("events/year=2026/b", "events/year=2026/a", "events/year=2025/z/y", "eventselse/c", "other/a"):
        lake.write(path, b"x")
    assert lake.list("events") == ["events/year=2025/z/y", "events/year=2026/a", "events/year=2026/b"]
    assert lake.list("events/") == lake.list("events")
    assert len(lake.list("")) == 5


def test_an_absent_folder_has_no_files(lake: Lake) -> None:
    assert lake.list("events") == []


def test_a_deleted_file_is_gone_and_may_be_deleted_again(lake: Lake) -> None:
    lake.write("a/b", b"x")
    lake.delete("a/b")
    lake.delete("a/b")
    lake.delete("never/there")
    assert lake.list("") == []


def test_another_instance_sees_it_at_once(lake: Lake, open_store: Callable[[], Lake]) -> None:
    other = open_store()
    lake.write("a/b", b"x")
    assert other.read("a/b") == b"x"
    assert other.list("a") == ["a/b"]


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/passwd", "", "a/.hidden", "_own/b"])
def test_a_path_outside_the_lake_or_hidden_is_rejected(lake: Lake, path: str) -> None:
    with pytest.raises(InvalidInput):
        lake.write(path, b"x")
    with pytest.raises(InvalidInput):
        lake.read(path)


def test_a_dataset_reads_files_in_order_and_fills_absent_columns_with_nulls(lake: Lake) -> None:
    schema = pa.schema([("n", pa.int64()), ("since_later", pa.string())])
    lake.write("d/old", _parquet(pa.table({"n": [1, 2], "dropped": [0, 0]})))
    lake.write("d/new", _parquet(pa.table({"since_later": ["x"], "n": [3]})))
    table = lake.dataset(["d/old", "d/new"], schema).to_table()
    assert table.schema == schema
    assert table.to_pydict() == {"n": [1, 2, 3], "since_later": [None, None, "x"]}


def test_a_dataset_of_nothing_is_empty(lake: Lake) -> None:
    schema = pa.schema([("n", pa.int64())])
    assert lake.dataset([], schema).to_table() == schema.empty_table()


def test_a_dataset_of_an_absent_file_is_not_found(lake: Lake) -> None:
    with pytest.raises(NotFound):
        lake.dataset(["d/none"], pa.schema([("n", pa.int64())]))


def test_a_file_is_created_once(lake: Lake, open_store: Callable[[], Lake]) -> None:
    assert lake.create("a/b", b"first")
    assert not open_store().create("a/b", b"second")
    assert lake.read("a/b") == b"first"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: lake.create("a/c", b"%d" % number), range(8)))
    assert made.count(True) == 1
    assert lake.read("a/c") == b"%d" % made.index(True)
    assert lake.list("a") == ["a/b", "a/c"]


def test_a_list_of_what_was_written_before(lake: Lake) -> None:
    lake.write("a/b", b"x")
    now_ms = time.time_ns() // 1_000_000
    assert lake.list("a", now_ms - 60_000) == []
    assert lake.list("a", now_ms + 60_000) == ["a/b"]
