"""The files of an import: by day of arrival, named and filled by their content alone, in bounded memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch.importers import history
from batch.importers.history import HistoryFiles
from pingfeed.adapters.lake_file import FileLake
from pingfeed.core.arrow import EVENT_SCHEMA
from pingfeed.core.clock import DAY_MS

DAY = 20_000


def events(days: list[int], note: str = "x") -> Any:
    """One event in the middle of each of these days, in this order."""
    n = len(days)
    received = np.array(days) * DAY_MS + DAY_MS // 2 + np.arange(n)
    return pa.table({"received_ms": received, "event_type": ["like"] * n, "user_id": [note] * n})


@pytest.fixture
def lake(tmp_path: Path) -> FileLake:
    return FileLake(f"file://{tmp_path}")


def test_rows_lie_in_the_folder_of_their_day_in_order_of_arrival(lake: FileLake) -> None:
    files = HistoryFiles(lake, "log")
    files.add(events([DAY + 1, DAY, DAY + 1]))
    files.add(events([DAY]))
    files.add(events([]))
    files.close()
    assert sorted(files.paths) == lake.list("events")
    assert lake.list("events") == [
        "events/year=2024/month=10/day=04/history-log-2024-10-04-001.parquet",
        "events/year=2024/month=10/day=05/history-log-2024-10-05-001.parquet",
    ]
    table = lake.dataset(lake.list("events")[:1], EVENT_SCHEMA).to_table()
    assert table.schema == EVENT_SCHEMA
    received = [ms - DAY * DAY_MS - DAY_MS // 2 for ms in table["received_ms"].to_pylist()]
    assert received == [0, 1]
    assert table["watch_time_ratio"].null_count == 2


def test_a_day_with_many_rows_gets_several_files(lake: FileLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_WAITING", 3)
    files = HistoryFiles(lake, "log")
    for _ in range(3):
        files.add(events([DAY, DAY, DAY + 1]))
    files.close()
    names = sorted(path.rsplit("/", 1)[1] for path in files.paths)
    assert names == [
        "history-log-2024-10-04-001.parquet",
        "history-log-2024-10-04-002.parquet",
        "history-log-2024-10-05-001.parquet",
    ]
    assert lake.dataset(files.paths, EVENT_SCHEMA).count_rows() == 9


def test_a_file_that_is_there_stays_as_it_is(lake: FileLake) -> None:
    for note in ("first", "second"):
        files = HistoryFiles(lake, "log")
        files.add(events([DAY], note))
        files.close()
        assert len(files.paths) == 1
    assert lake.dataset(files.paths, EVENT_SCHEMA).to_table()["user_id"].to_pylist() == ["first"]


def test_what_waits_holds_no_more_than_its_own_memory(lake: FileLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log without order: each block has a row of every day, and one day is written at a time."""
    monkeypatch.setattr(history, "MAX_WAITING", 400)
    files = HistoryFiles(lake, "log")
    before = pa.total_allocated_bytes()
    for _ in range(60):
        files.add(events(list(range(DAY, DAY + 40)), "y" * 5_000))
    held = pa.total_allocated_bytes() - before
    files.close()
    assert held < 2 * 400 * 5_000
