"""Raw and refused events that are old enough go with the night; nothing goes that nobody has read."""

from pathlib import Path

import pytest

from batch.jobs.nightly import etl
from batch.lake.compaction import RawCompaction
from pingfeed.core.errors import Unavailable
from pingfeed.core.events import Row
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


def test_refused_events_go_by_their_own_number_of_days(tmp_path: Path) -> None:
    world = _world(tmp_path)
    for day in ("2024-10-04", "2024-10-05"):
        world.batch.tables.lake.write(f"rejected/day={day}/w.jsonl", b"{}\n")
    _night(world, 6)
    assert _listed(world, "rejected") == ["rejected/day=2024-10-05/w.jsonl"]


def test_raw_events_stay_for_ever_at_0_days_and_nothing_of_today_goes(tmp_path: Path) -> None:
    for raw_days, today in ((0, 500), (1, 0)):
        world = _world(tmp_path / str(raw_days), raw_days, 1)
        world.land([_like(FIRST + 1)])
        world.batch.tables.lake.write("rejected/day=2024-10-04/w.jsonl", b"{}\n")
        _night(world, today)
        assert len(_listed(world, "events")) == 1
        assert len(_listed(world, "rejected")) == int(today == 0)


def test_what_cannot_be_removed_costs_the_night_nothing_else(
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


def test_an_accepted_row_that_lies_only_among_the_refused_is_kept_as_long_as_raw_events(tmp_path: Path) -> None:
    world = _world(tmp_path)
    odd = b'{"event_id":"e1","event_type":"view","received_ms":1728000000000,"watch_time_ratio":"much"}\n'
    for number in range(2):
        world.batch.tables.lake.write(f"events/year=2024/month=10/day=04/{number}", odd)
    _night(world, KEEP)
    (kept, twin) = _listed(world, "rejected")
    assert "/raw-" in kept
    assert "/raw-" in twin
    _night(world, KEEP + 1)
    assert _listed(world, "rejected") == []
