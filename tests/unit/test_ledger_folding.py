"""Folding the manifests of old days keeps everything that the ledger knows."""

from pathlib import Path
from shutil import copytree

import pytest

from batch.jobs import rebuild
from batch.lake.ledger import FOLD_DAYS, Ledger
from tests.unit.dying_lake import deaths
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, LakeWorld, like

LATER = FIRST_DAY + FOLD_DAYS + 1


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs and an amendment on one day, one run on the next, one lately."""
    world = LakeWorld(tmp_path_factory.mktemp("prepared"))
    for tick in (FIRST + 1, FIRST + 2, FIRST + 3, FIRST + DAY + 1, (LATER + 1) * DAY):
        world.land([like(tick, tick)])
        world.learn(tick)
        if tick == FIRST + 3:
            world.land([like(tick)])
            world.learn(tick, everything=True)
    return world.home


def _world(prepared: Path, home: Path) -> LakeWorld:
    return LakeWorld(copytree(prepared, home, dirs_exist_ok=True))


def _ledger(world: LakeWorld) -> Ledger:
    world.batch.tables.refresh()
    return Ledger(world.batch.tables, world.batch.ticks)


def _manifests(world: LakeWorld) -> list[str]:
    world.batch.tables.refresh()
    return world.batch.tables.lake.list("ticks")


def test_a_days_manifests_become_one_and_every_file_stays_known(prepared: Path, tmp_path: Path) -> None:
    world = _world(prepared, tmp_path)
    before = _ledger(world).known_runs()
    _ledger(world).fold(LATER)
    assert [path for path in _manifests(world) if "/day=" in path] == [
        f"ticks/day=2024-10-04/manifests-{(FIRST + 3) * 100 + 1}.json"
    ]
    assert len(_manifests(world)) == 3
    assert _ledger(world).known_runs() == before
    assert len(before) == 6
    assert len(_ledger(world).known_runs(FIRST_DAY + 1)) == 2
    folded = _manifests(world)
    _ledger(world).fold(LATER)
    assert _manifests(world) == folded, "folding again changes nothing"


def test_tables_of_folded_runs_stay_and_nothing_is_loaded_again(prepared: Path, tmp_path: Path) -> None:
    world = _world(prepared, tmp_path)
    _ledger(world).fold(LATER + 1)
    rows = world.batch.tables.clean(FIRST_DAY, LATER + 1).num_rows
    assert world.learn((LATER + 1) * DAY + 1, everything=True).files == []
    assert world.batch.tables.clean(FIRST_DAY, LATER + 1).num_rows == rows == 6
    assert world.learn(FIRST + 2).files == [], "a past tick loads nothing"


def test_folding_killed_at_any_change_knows_every_file(prepared: Path, tmp_path: Path) -> None:
    for attempt in deaths(least=5, most=20):
        world = _world(prepared, tmp_path / f"died-{attempt.changes}")
        before = _ledger(world).known_runs()
        with attempt.in_lake(world.batch.tables):
            _ledger(world).fold(LATER)
        assert _ledger(world).known_runs() == before, f"died at change {attempt.changes}"
        assert world.learn((LATER + 1) * DAY + 1, everything=True).files == []
        assert world.batch.tables.clean(FIRST_DAY, LATER + 1).num_rows == 6
        _ledger(world).fold(LATER)
        assert _ledger(world).known_runs() == before


@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize("bad", [b"", b"[", b'{"run": 1}', b'[{"run": "\xff"}]', b"[" * 5000])
def test_a_damaged_manifest_is_rebuilt_and_events_of_long_ago_are_not_loaded_again(
    prepared: Path, tmp_path: Path, bad: bytes, is_folded: bool
) -> None:
    world = _world(prepared, tmp_path)
    rebuild.enable(world.batch)
    before = _ledger(world).known_runs()
    if is_folded:
        _ledger(world).fold(LATER)
    for path in _manifests(world):
        world.batch.tables.lake.write(path, bad)
        assert world.learn((LATER + 1) * DAY + 1, everything=True).files == [], path
        assert world.batch.tables.clean(FIRST_DAY, LATER + 1).num_rows == 6, path
    assert _ledger(world).known_runs().keys() == before.keys()
