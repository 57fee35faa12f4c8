"""Old raw, rejected and quarantined data are removed by the nightly job; no file goes that no run has read."""

import os
from pathlib import Path

import pytest

from batch.jobs.nightly import etl
from batch.lake.compaction import RawCompaction
from batch.ticks import day_name
from pingfeed.core.errors import PingfeedError, Unavailable
from pingfeed.core.events import Row
from pingfeed.settings import load
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, TICK_MS, LakeWorld, row

KEEP = 10


def _world(home: Path, days: int = KEEP, rejected_days: int = 5) -> LakeWorld:
    settings = {"PINGFEED_RAW_DAYS": str(days), "PINGFEED_REJECTED_DAYS": str(rejected_days)}
    return LakeWorld(home, {"PINGFEED_SINK_FLUSH_SECONDS": "0.05", **settings})


def _like(tick: int) -> Row:
    return row("like", tick * TICK_MS - 1, user_id="ada", ping_id="p1")


def _night(world: LakeWorld, day: int) -> None:
    tick = (FIRST_DAY + day) * DAY + 12
    world.time.now_ms = tick * TICK_MS + 5_000
    etl(world.batch, tick)


def _listed(world: LakeWorld, folder: str) -> list[str]:
    world.batch.tables.refresh()
    return world.batch.tables.lake.list(folder)


def test_raw_files_of_the_oldest_days_go_with_their_compactions(tmp_path: Path) -> None:
    world = _world(tmp_path)
    for number in range(2):
        world.land([_like(FIRST + 1 + number)])
    world.land([_like(FIRST + DAY + 1)])
    world.batch.tables.lake.write("errors/x/year=2024/month=10/day=04/e", b"\n")
    _night(world, KEEP)
    assert len(_listed(world, "events")) == 2
    assert len(_listed(world, "compactions")) == 1
    assert len(_listed(world, "errors")) == 1
    _night(world, KEEP + 1)
    (left,) = _listed(world, "events")
    assert "day=05" in left
    assert _listed(world, "compactions") == _listed(world, "errors") == []
    assert world.batch.tables.clean(FIRST_DAY, FIRST_DAY + 99).num_rows == 3, "what was learned stays"


def test_a_file_that_no_run_has_read_stays_however_old(tmp_path: Path) -> None:
    world = _world(tmp_path)
    world.batch.tables.lake.write("events/year=2024/month=10/day=04/broken", b"PAR1 no more")
    _night(world, 99)
    assert _listed(world, "events") == ["events/year=2024/month=10/day=04/broken"]


def test_a_file_that_is_put_back_is_not_read_again(tmp_path: Path) -> None:
    world = _world(tmp_path)
    world.land([_like(FIRST + 1)])
    (path,) = _listed(world, "events")
    data = world.batch.tables.lake.read(path)
    _night(world, KEEP + 1)
    assert _listed(world, "events") == []
    world.batch.tables.lake.write(path, data)
    _night(world, KEEP + 2)
    assert _listed(world, "events") == []
    assert world.batch.tables.clean(FIRST_DAY, FIRST_DAY + 99).num_rows == 1


def test_rejected_events_of_so_many_days_are_kept_today_included(tmp_path: Path) -> None:
    world = _world(tmp_path)
    for day in ("2024-10-04", "2024-10-05"):
        world.batch.tables.lake.write(f"rejected/day={day}/w.jsonl", b"{}\n")
    _night(world, 5)
    assert _listed(world, "rejected") == ["rejected/day=2024-10-05/w.jsonl"]


def test_quarantined_parts_of_a_spool_go_with_rejected_events(tmp_path: Path) -> None:
    world = _world(tmp_path)
    folder = world.batch.settings.spool_dir / "ingest" / "damaged"
    folder.mkdir(parents=True)
    for number, day in enumerate((FIRST_DAY, FIRST_DAY + 1)):
        (folder / str(number)).write_bytes(b"zoe")
        os.utime(folder / str(number), (day * 86_400, day * 86_400))
    _night(world, 5)
    assert [file.name for file in folder.iterdir()] == ["1"]


@pytest.mark.parametrize(("raw_days", "day"), [(0, 500), (1, 0)])
def test_raw_days_of_0_keep_everything_and_nothing_of_today_goes(tmp_path: Path, raw_days: int, day: int) -> None:
    world = _world(tmp_path, raw_days, 1)
    world.land([_like(FIRST + 1)])
    world.batch.tables.lake.write(f"rejected/day={day_name(FIRST_DAY + day)}/w.jsonl", b"{}\n")
    _night(world, day)
    assert len(_listed(world, "events")) == len(_listed(world, "rejected")) == 1


@pytest.mark.parametrize("days", ["0", "31"])
def test_rejected_events_cannot_be_kept_longer_than_30_days(tmp_path: Path, days: str) -> None:
    with pytest.raises(PingfeedError, match="REJECTED_DAYS"):
        load({"PINGFEED_HOME": str(tmp_path), "PINGFEED_REJECTED_DAYS": days})


def test_a_failed_removal_does_not_stop_the_nightly_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_path: str) -> None:
        raise Unavailable("deleting is not allowed")

    world = _world(tmp_path)
    world.land([_like(FIRST + 1)])
    monkeypatch.setattr(RawCompaction, "run", lambda _self, _today: None)
    monkeypatch.setattr(world.batch.tables.lake, "delete", refuse)
    _night(world, KEEP + 1)
    assert "old files were not removed" in caplog.text


def test_a_malformed_row_and_the_list_of_removed_events_are_kept_as_long_as_raw_events(tmp_path: Path) -> None:
    world = _world(tmp_path)
    odd = b'{"event_id":"e1","event_type":"view","received_ms":1728000000000,"watch_time_ratio":"much"}\n'
    for number in range(2):
        world.batch.tables.lake.write(f"events/year=2024/month=10/day=04/{number}", odd)
    world.batch.tables.lake.write("removed/day=2024-10-04/x.parquet", b"x")
    _night(world, KEEP)
    (kept, twin) = _listed(world, "rejected")
    assert "/raw-" in kept
    assert "/raw-" in twin
    assert len(_listed(world, "removed")) == 1
    _night(world, KEEP + 1)
    assert _listed(world, "rejected") == _listed(world, "removed") == []
