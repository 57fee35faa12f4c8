"""One request with more rows than LightGBM takes stops no training: its first rows, as served, are trained on."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch.training import train as training
from batch.training import training_set
from tests.unit.lakes import DAY, FIRST, TICK_MS, LakeWorld, row

MANY = 10_001
CUTOFF = FIRST + 4 * DAY


def _act(kind: str, tick: int, user: str, ping: int, request: str, **values: Any) -> dict[str, Any]:
    return row(kind, tick * TICK_MS - 1, user_id=user, ping_id=f"p{ping}", request_id=request, **values)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> LakeWorld:
    world = LakeWorld(tmp_path_factory.mktemp("groups"))
    world.land(row("ping_created", FIRST * TICK_MS - 1, ping_id=f"p{i}", creator_id=f"c{i % 9}") for i in range(MANY))
    world.learn(FIRST)
    flood = [_act("impression", FIRST + 1, "mallory", i, "flood", position=(MANY - i) % MANY) for i in range(MANY)]
    rows = [*flood, _act("like", FIRST + 1, "mallory", 7, "flood")]
    for request in range(30):
        rows += [_act("impression", FIRST + 1, f"u{request}", i, f"r{request}", position=i) for i in range(10)]
        rows.append(_act("like", FIRST + 1, f"u{request}", request % 10, f"r{request}"))
    world.land(rows)
    world.learn(FIRST + 1)
    world.time.now_ms = CUTOFF * TICK_MS
    return world


@pytest.mark.parametrize("stored_by_an_earlier_version", [False, True])
def test_a_request_of_10001_impressions_does_not_stop_the_training(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch, stored_by_an_earlier_version: bool
) -> None:
    for path in world.batch.tables.lake.list("training"):
        world.batch.tables.lake.delete(path)
    if stored_by_an_earlier_version:
        monkeypatch.setattr(training_set, "MAX_GROUP", 10**9)
        assert len(training_set.collect(world.batch, CUTOFF, 30).grades) == MANY + 300
        monkeypatch.undo()
    monkeypatch.setattr(training, "MIN_ENGAGED_REQUESTS", 5)
    assert training.train(world.batch, CUTOFF).manifest is not None
    assert max(np.diff(training_set.collect(world.batch, CUTOFF, 30).starts)) == training_set.MAX_GROUP


def test_the_rows_kept_are_the_first_as_served(world: LakeWorld) -> None:
    rows = training_set.collect(world.batch, CUTOFF, 30).table.to_pylist()
    flood = [one for one in rows if one["request_id"] == "flood"]
    assert sorted(one["position"] for one in flood) == list(range(training_set.MAX_GROUP))
    assert len(rows) == training_set.MAX_GROUP + 300


def test_one_request_that_cannot_be_taken_costs_no_other(world: LakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in world.batch.tables.lake.list("training"):
        world.batch.tables.lake.delete(path)
    with_features = training_set.with_features

    def failing(batch: Any, catalog: Any, labels: pa.Table) -> Any:
        if "r7" in labels["request_id"].to_pylist():
            raise ArithmeticError("this request")
        return with_features(batch, catalog, labels)

    monkeypatch.setattr(training_set, "with_features", failing)
    rows = training_set.collect(world.batch, CUTOFF, 30).table
    assert sorted(set(rows["request_id"].to_pylist())) == sorted({"flood", *(f"r{n}" for n in range(30))} - {"r7"})


def test_rows_without_a_place_come_last_and_acts_before_impressions() -> None:
    count = training_set.MAX_GROUP + 2
    table = pa.table(
        {
            "user_id": ["u"] * count,
            "request_id": ["r"] * count,
            "position": pa.array([None] * (count - 1) + [3], pa.int64()),
            "grade": [2] * (count - 2) + [5, 2],
        }
    )
    kept = training_set.first_of_group(table)
    assert kept.sum() == training_set.MAX_GROUP
    assert kept[-2:].all(), "the like, and the one with a place"
