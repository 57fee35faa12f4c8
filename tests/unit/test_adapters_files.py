"""Files appear whole or not at all: through a kill between write and rename, a full disk, a folder in the way."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pingfeed.adapters.artifacts_file import FileArtifacts
from pingfeed.adapters.event_sink_disk import DiskEventSink
from pingfeed.adapters.lake_file import FileLake
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import FormatError, NotFound, Unavailable
from pingfeed.files import below, make_folder, write_whole
from tests.conformance.samples import NOON_MS, SampleBatch, batch, disk_full_above, like

ROOT = Path(__file__).parents[2]
KILLED_BEFORE_THE_RENAME = """
import asyncio, os, signal, sys
from pathlib import Path
from pingfeed.adapters.event_sink_disk import DiskEventSink
from tests.conformance.samples import batch, like

Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(DiskEventSink(f"disk://{sys.argv[1]}").write(batch("a", like(1), like(2))))
"""


@pytest.fixture
def sink(tmp_path: Path) -> DiskEventSink:
    return DiskEventSink(f"disk://{tmp_path}")


@pytest.fixture
def lake(tmp_path: Path) -> FileLake:
    return FileLake(f"file://{tmp_path}")


def _all_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_file_of_a_killed_writer_is_never_read(tmp_path: Path, sink: DiskEventSink, lake: FileLake) -> None:
    command = [sys.executable, "-c", KILLED_BEFORE_THE_RENAME, str(tmp_path)]
    killed = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = _all_files(tmp_path)
    assert left.name.startswith(".")
    assert lake.list("events") == []
    await sink.write(batch("a", like(1), like(2)))
    (landed,) = lake.list("events")
    assert pq.read_table(tmp_path / landed, partitioning=None).num_rows == 2


async def test_a_half_written_file_is_not_listed(tmp_path: Path, sink: DiskEventSink, lake: FileLake) -> None:
    folder = tmp_path / "events" / "year=2026" / "month=11" / "day=22"
    folder.mkdir(parents=True)
    for name in (".part-a.parquet.1234", "_SUCCESS", ".hidden/part-b.parquet", "_temporary/part-c.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"PAR1 and then nothing")
    await sink.write(batch("d", like(1)))
    assert lake.list("events") == ["events/year=2026/month=11/day=22/part-d.parquet"]


async def test_the_same_batch_replaces_its_own_file(tmp_path: Path, sink: DiskEventSink) -> None:
    for _ in range(2):
        await sink.write(batch("a", like(1)))
    assert len(_all_files(tmp_path)) == 1


async def test_a_full_disk_leaves_the_old_bytes_and_no_other_file(tmp_path: Path) -> None:
    artifacts = FileArtifacts(f"file://{tmp_path}")
    await artifacts.put("models/m/model.txt", b"old")
    with disk_full_above(1 << 16), pytest.raises(Unavailable) as error:
        await artifacts.put("models/m/model.txt", b"x" * (1 << 20))
    assert isinstance(error.value.__cause__, OSError)
    assert await artifacts.get("models/m/model.txt") == b"old"
    assert len(_all_files(tmp_path)) == 1
    await artifacts.put("models/m/model.txt", b"new")
    assert await artifacts.get("models/m/model.txt") == b"new"


async def test_a_sink_on_a_full_disk_is_unavailable_and_recovers_by_itself(sink: DiskEventSink, lake: FileLake) -> None:
    rows = batch("a", *({**like(n), "extra": os.urandom(64).hex()} for n in range(1000)))
    with disk_full_above(1 << 12), pytest.raises(Unavailable):
        await sink.write(rows)
    assert lake.list("events") == []
    await sink.write(rows)
    assert len(lake.list("events")) == 1


async def test_a_file_in_a_folders_place_is_unavailable(tmp_path: Path, sink: DiskEventSink) -> None:
    tmp_path.joinpath("events").touch()
    tmp_path.joinpath("lake").touch()
    for call in (
        sink.write(batch("a", like(1))),
        DiskEventSink(f"disk://{tmp_path}/lake").check(),
        FileArtifacts(f"file://{tmp_path}/lake").check(),
        asyncio.to_thread(FileLake(f"file://{tmp_path}/lake").write, "a/b", b"x"),
    ):
        with pytest.raises(Unavailable):
            await call


async def test_an_invalid_row_is_a_format_error(tmp_path: Path, sink: DiskEventSink) -> None:
    wrong = SampleBatch("a", [b'{"received_ms":"yesterday"}\n'], NOON_MS)
    with pytest.raises(FormatError, match="received_ms"):
        await sink.write(wrong)
    assert _all_files(tmp_path) == []


def test_a_missing_file_says_which(lake: FileLake) -> None:
    with pytest.raises(NotFound, match="ticks/7"):
        lake.read("ticks/7/manifest.json")


def test_a_killed_writer_does_not_stop_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    make_folder(path.parent)
    path.with_name(".b.deadbeef").write_bytes(b"half")
    write_whole(path, b"whole")
    assert path.read_bytes() == b"whole"


def test_below_joins_forward_slashes(tmp_path: Path) -> None:
    assert below(tmp_path, "a/b=1/c.txt") == tmp_path / "a" / "b=1" / "c.txt"


async def test_a_batch_is_stored_under_the_utc_day_of_its_oldest_arrival(sink: DiskEventSink, lake: FileLake) -> None:
    midnight = NOON_MS - NOON_MS % DAY_MS
    late = {**like(1), "timestamp_ms": midnight - 9 * DAY_MS}
    await sink.write(batch("a", late, received_ms=midnight - 1))
    await sink.write(batch("b", late, received_ms=midnight))
    days = [path.rsplit("/", 1)[0] for path in lake.list("events")]
    assert days == ["events/year=2026/month=11/day=21", "events/year=2026/month=11/day=22"]
