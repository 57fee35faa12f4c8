"""Compaction makes few large raw files of many small ones and loses, rereads or duplicates no event."""

from pathlib import Path
from shutil import copytree

import pytest

from batch.jobs.nightly import etl
from batch.lake import compaction
from batch.lake.compaction import RawCompaction
from batch.lake.ledger import Ledger, is_compacted
from batch.lake.tables import CLEAN
from pingfeed.core.errors import Busy, Unavailable
from tests.unit.dying_lake import deaths
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, LakeWorld, event_id, like
from tests.unit.test_versions import Lease

NIGHT = FIRST + DAY + 12


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    found = LakeWorld(tmp_path)
    _fill(found)
    return found


def _fill(world: LakeWorld, files: int = 4) -> None:
    """Files that as many runs read, one after another."""
    for number in range(files):
        world.land([like(FIRST + 1 + number, 2 * number), like(FIRST + 1 + number, 2 * number + 1)])
        world.learn(FIRST + 1 + number)


def _raw(world: LakeWorld) -> list[str]:
    world.batch.tables.refresh()
    return world.batch.tables.lake.list("events")


def _compact(world: LakeWorld, today: int = FIRST_DAY + 1) -> None:
    tables = world.batch.tables
    tables.refresh()
    RawCompaction(tables, Ledger(tables, world.batch.ticks)).run(today)


def _rows(world: LakeWorld) -> list[tuple[str, int | None]]:
    """Every raw row: its event, and the tick that a compacted file says it is known from."""
    table = world.batch.tables.lake.dataset(_raw(world), CLEAN).to_table()
    return sorted(zip(table["event_id"].to_pylist(), table["known_tick"].to_pylist(), strict=True), key=repr)


def test_files_that_runs_have_read_become_one_file_with_every_row_and_its_tick(world: LakeWorld) -> None:
    _compact(world)
    assert [is_compacted(path) for path in _raw(world)] == [True]
    assert _rows(world) == world.known()
    assert len(_rows(world)) == 8


def test_no_run_reads_a_compacted_file_as_new(world: LakeWorld) -> None:
    _compact(world)
    before = world.known()
    assert world.learn(FIRST + DAY).files == []
    assert world.learn(FIRST + 9 * DAY, everything=True).files == []
    assert world.known() == before


def test_files_that_no_run_has_read_stay(world: LakeWorld) -> None:
    read = set(_raw(world))
    world.land([like(FIRST + 6, 100)])
    world.land([like(FIRST + 6, 101)])
    late = set(_raw(world)) - read
    _compact(world)
    assert late < set(_raw(world))
    assert world.learn(FIRST + DAY, everything=True).kept == 2


@pytest.mark.parametrize("today", [FIRST_DAY, FIRST_DAY + compaction.DAYS + 1], ids=["current", "perhaps-archived"])
def test_files_of_the_current_day_and_of_old_days_stay(world: LakeWorld, today: int) -> None:
    before = _raw(world)
    _compact(world, today)
    assert _raw(world) == before


def test_files_of_imported_history_stay(world: LakeWorld) -> None:
    for _ in range(2):
        world.land([like(FIRST + DAY + 1, 50)], history=True)
    world.learn(FIRST + 3 * DAY, everything=True)
    _compact(world, FIRST_DAY + 3)
    assert sum("history-" in path for path in _raw(world)) == 2


def test_a_latecomer_joins_the_file_of_its_day(world: LakeWorld) -> None:
    _compact(world)
    world.land([like(FIRST + 9, 200)])
    world.learn(FIRST + 2 * DAY, everything=True)
    _compact(world, FIRST_DAY + 2)
    assert len(_raw(world)) == 1
    assert _rows(world) == world.known()
    assert (event_id(200), FIRST + 2 * DAY) in _rows(world)


def test_compacting_again_changes_nothing(world: LakeWorld) -> None:
    _compact(world)
    before = {path: path.stat().st_mtime_ns for path in world.home.rglob("*") if path.is_file()}
    _compact(world)
    assert {path: path.stat().st_mtime_ns for path in world.home.rglob("*") if path.is_file()} == before


def test_a_compacted_file_holds_at_most_max_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MAX_ROWS", 4)
    world = LakeWorld(tmp_path)
    _fill(world, files=5)
    _compact(world)
    assert sorted(map(is_compacted, _raw(world))) == [False, True, True]
    assert len(_rows(world)) == 10


def test_a_source_that_a_sink_sends_again_is_removed_again(world: LakeWorld) -> None:
    """It died before it could note that the batch had arrived: the same batch gets the same name."""
    again = {path: world.batch.tables.lake.read(path) for path in _raw(world)[:2]}
    _compact(world)
    before = _rows(world)
    for path, data in again.items():
        world.batch.tables.lake.write(path, data)
    assert world.learn(FIRST + DAY, everything=True).files == []
    _compact(world)
    assert _rows(world) == before


@pytest.mark.parametrize("joining", [False, True], ids=["first", "with-a-latecomer"])
def test_a_compaction_killed_at_any_change_loses_and_duplicates_nothing(tmp_path: Path, joining: bool) -> None:
    prepared = LakeWorld(tmp_path / "prepared")
    _fill(prepared)
    if joining:
        _compact(prepared)
        prepared.land([like(FIRST + 9, 200)])
        prepared.learn(FIRST + DAY, everything=True)
    expected = prepared.known()
    for attempt in deaths(least=4, most=20):
        world = LakeWorld(copytree(prepared.home, tmp_path / f"died-{attempt.changes}"))
        with attempt.in_lake(world.batch.tables):
            _compact(world)
        assert world.learn(FIRST + DAY + 1, everything=True).files == [], f"read again after change {attempt.changes}"
        found = {event for event, _ in _rows(world)}
        assert found == {event for event, _ in expected}, f"lost at change {attempt.changes}"
        _compact(world)
        assert _rows(world) == expected, f"died at change {attempt.changes}"
        assert len(_raw(world)) == 1


def test_the_nightly_job_compacts_past_days(world: LakeWorld) -> None:
    world.land([like(FIRST + DAY + 2, 300)])
    world.land([like(FIRST + DAY + 3, 301)])
    world.night(NIGHT)
    assert sorted(map(is_compacted, _raw(world))) == [False, False, True]
    assert len(_rows(world)) == 10


def test_a_file_that_has_become_unreadable_stays(world: LakeWorld) -> None:
    damaged, *others = _raw(world)
    world.batch.tables.lake.write(damaged, b"PAR1 no more")
    _compact(world)
    kept = _raw(world)
    assert damaged in kept
    assert not set(others) & set(kept)
    assert world.batch.tables.lake.dataset([p for p in kept if p != damaged], CLEAN).count_rows() == 6


def test_a_compacted_file_is_recognised_beside_other_folders_of_its_day(world: LakeWorld) -> None:
    _compact(world)
    before = _rows(world)
    (file,) = _raw(world)
    world.batch.tables.lake.write(f"{file.rpartition('/')[0]}/again/a.parquet", world.batch.tables.lake.read(file))
    _compact(world)
    assert file in _raw(world)
    assert world.batch.tables.lake.dataset([file], CLEAN).count_rows() == len(before)


def test_a_compacted_file_without_a_manifest_is_kept_if_it_is_the_only_copy(world: LakeWorld) -> None:
    """A lake of which `events/` alone was copied, say."""
    _compact(world)
    lake = world.batch.tables.lake
    for manifest in lake.list("compactions"):
        lake.delete(manifest)
    before = _raw(world)
    _compact(world)
    assert _raw(world) == before


def test_a_run_that_was_paused_removes_no_compacted_file_that_another_is_about_to_commit(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [event for event, _ in _rows(world)]
    paused, other = world.batch.tables, LakeWorld(world.home).batch.tables
    paused.versions.claim(Lease(1))
    other.versions.claim(Lease(2))
    commit = other.versions.commit

    def woken(*others: str) -> None:
        paused.versions.refresh("events")
        with pytest.raises(Busy):
            RawCompaction(paused, Ledger(paused, world.batch.ticks)).run(FIRST_DAY + 1)
        commit(*others)

    monkeypatch.setattr(other.versions, "commit", woken)
    RawCompaction(other, Ledger(other, world.batch.ticks)).run(FIRST_DAY + 1)
    paused.versions.end()
    assert [event for event, _ in _rows(world)] == before


def test_a_failed_compaction_does_not_stop_the_nightly_job(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_self: RawCompaction, _today: int) -> None:
        raise Unavailable("deleting is not allowed")

    monkeypatch.setattr(RawCompaction, "run", fail)
    assert etl(world.batch, NIGHT).tick == NIGHT
    assert "raw files were not compacted" in caplog.text
