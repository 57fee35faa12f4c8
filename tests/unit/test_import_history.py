"""The files of an import: by day of arrival, named and filled by their content alone, in bounded memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch.importers import staging
from batch.importers.staging import write_history
from pingfeed.adapters.lake_file import FileLake
from pingfeed.core.arrow import EVENT_SCHEMA
from pingfeed.core.clock import DAY_MS

DAY = 20_000


def events(days: list[int], note: str = "x") -> Any:
    """One event in the middle of each of these days, in two batches."""
    n = len(days)
    received = np.array(days) * DAY_MS + DAY_MS // 2 + np.arange(n)
    table = pa.table({"received_ms": received, "event_type": ["like"] * n, "user_id": [note] * n})
    return [*table.slice(0, 2).to_batches(), *table.slice(2).to_batches()]


@pytest.fixture
def lake(tmp_path: Path) -> FileLake:
    return FileLake(f"file://{tmp_path}")


def test_rows_lie_in_the_folder_of_their_day_with_every_column(lake: FileLake) -> None:
    assert write_history(lake, "log", []) == []
    assert write_history(lake, "log", events([DAY, DAY, DAY, DAY + 1])) == lake.list("events")
    assert lake.list("events") == [
        "events/year=2024/month=10/day=04/history-log-2024-10-04-001.parquet",
        "events/year=2024/month=10/day=05/history-log-2024-10-05-001.parquet",
    ]
    table = lake.dataset(lake.list("events")[:1], EVENT_SCHEMA).to_table()
    assert table.schema == EVENT_SCHEMA
    assert [ms - DAY * DAY_MS - DAY_MS // 2 for ms in table["received_ms"].to_pylist()] == [0, 1, 2]
    assert table["watch_time_ratio"].null_count == 3


def test_a_day_with_many_rows_gets_several_files(lake: FileLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MAX_ROWS", 3)
    paths = write_history(lake, "log", events([DAY] * 7 + [DAY + 1] * 2))
    names = [path.rsplit("/", 1)[1].removeprefix("history-log-2024-10-") for path in paths]
    assert names == [*(f"04-{part:03}.parquet" for part in (1, 2, 3)), "05-001.parquet"]
    assert lake.dataset(paths, EVENT_SCHEMA).count_rows() == 9


def test_an_existing_file_stays_as_it_is(lake: FileLake) -> None:
    for note in ("first", "second"):
        (path,) = write_history(lake, "log", events([DAY], note))
    assert lake.dataset([path], EVENT_SCHEMA).to_table()["user_id"].to_pylist() == ["first"]
