"""Training rows: grades, label windows, logged ticks, what is left out."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch.features.collaborative import quantiles_as_of
from batch.training import training_set
from batch.training.skew import measure
from pingfeed.core.events import Row
from pingfeed.core.features import PING, REALTIME
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, TICK_MS, LakeWorld, row

WINDOW = 24  # label window of 6 hours in ticks


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    world = LakeWorld(tmp_path)
    made = [row("ping_created", FIRST * TICK_MS - 1, ping_id=f"p{i}", creator_id="c", topics=["x"]) for i in range(4)]
    _learn(world, FIRST, *made)
    return world


def _learn(world: LakeWorld, tick: int, *rows: Row) -> None:
    """These rows land, and a tick learns of them."""
    world.land(rows)
    world.learn(tick)


def _act(kind: str, tick: int, ping: str = "p0", request: str = "r1", **values: Any) -> dict[str, Any]:
    return row(kind, tick * TICK_MS - 1, user_id="ada", ping_id=ping, request_id=request, **values)


def _grades(world: LakeWorld, cutoff: int) -> dict[str, int]:
    rows = training_set.build(world.batch, FIRST, FIRST + DAY, cutoff)
    return dict(zip(rows.table["ping_id"].to_pylist(), rows.grades.tolist(), strict=True))


@pytest.mark.parametrize(
    ("acts", "grade"),
    [
        (["impression"], 2),
        (["impression", ("view", 0.1)], 2),
        (["impression", ("view", 0.3)], 3),
        (["impression", ("view", 0.75)], 4),
        (["impression", ("view", 1.0), "like"], 5),
        (["impression", "comment"], 6),
        (["impression", "like", "share"], 7),
        (["impression", "like", "follow"], 8),
        (["impression", ("view", 2.0), "like", "hide"], 1),
        (["impression", "share", "hide", "report"], 0),
        (["like", "unlike"], 2),
        (["impression", "like", "unlike", "comment"], 6),
        (["unlike", "like"], 5),
        (["share", "hide", "report", "unhide"], 7),
    ],
)
def test_grade_is_the_best_act_unless_a_hide_or_report_outweighs_it(
    world: LakeWorld, acts: list[Any], grade: int
) -> None:
    given = [(act, None) if isinstance(act, str) else act for act in acts]
    rows = [_act(kind, FIRST + 1, watch_time_ratio=ratio, seq=seq) for seq, (kind, ratio) in enumerate(given)]
    _learn(world, FIRST + 1, *rows)
    assert _grades(world, FIRST + 1 + WINDOW) == {"p0": grade}


def test_a_request_waits_until_its_label_window_is_over(world: LakeWorld) -> None:
    _learn(world, FIRST + 1, _act("impression", FIRST + 1))
    assert _grades(world, FIRST + WINDOW) == {}
    assert _grades(world, FIRST + 1 + WINDOW) == {"p0": 2}


def test_an_act_after_the_label_window_is_not_a_label(world: LakeWorld) -> None:
    _learn(world, FIRST + 1, _act("impression", FIRST + 1))
    _learn(world, FIRST + 2 + WINDOW, _act("like", FIRST + 2 + WINDOW))
    assert _grades(world, FIRST + 80) == {"p0": 2}


@pytest.mark.parametrize(("after", "grade"), [(WINDOW, 2), (WINDOW + 1, 5)])
def test_a_like_taken_back_within_the_label_window_is_no_label(world: LakeWorld, after: int, grade: int) -> None:
    """The app need not say by which request the ping was liked."""
    _learn(world, FIRST + 1, _act("like", FIRST + 1), _act("impression", FIRST + 1, "p1"))
    taken_back = row("unlike", (FIRST + 1 + after) * TICK_MS - 1, user_id="ada", ping_id="p0")
    _learn(world, FIRST + 1 + after, taken_back)
    assert _grades(world, FIRST + 80) == {"p0": grade, "p1": 2}


def test_an_act_that_arrives_days_later_is_no_request_of_its_own(world: LakeWorld) -> None:
    """It would be a group whose features know how the real request ended."""
    _learn(world, FIRST + 1, _act("impression", FIRST + 1))
    late = FIRST + 3 * DAY + 5
    _learn(world, late, _act("like", late))
    later = training_set.build(world.batch, FIRST + 3 * DAY, FIRST + 4 * DAY, FIRST + 5 * DAY)
    assert later.table.num_rows == 0


def test_what_was_served_but_never_seen_is_no_example(world: LakeWorld) -> None:
    _learn(world, FIRST + 1, _served(["p0", "p1"]), _act("impression", FIRST + 1, "p1"))
    assert _grades(world, FIRST + 1 + WINDOW) == {"p1": 2}


def test_unlogged_requests_take_features_of_the_tick_before_they_became_known(world: LakeWorld) -> None:
    """The request's own outcome becomes known at its tick: a planted leak would show in the points."""
    _learn(world, FIRST + 5, _act("impression", FIRST + 5), _act("like", FIRST + 5))
    rows = training_set.build(world.batch, FIRST, FIRST + DAY, FIRST + DAY)
    columns = {feature.name: index for index, feature in enumerate(PING)}
    assert rows.matrix[0, columns["ping_impressions_30d"]] == 0
    assert rows.matrix[0, columns["ping_age_hours"]] == 1.0


def test_logged_ticks_and_values_are_taken_from_the_log(world: LakeWorld) -> None:
    _learn(world, FIRST + 1, _act("impression", FIRST + 1, request="r0"))
    served = _served(["p1"], snapshot_tick=FIRST + 1, packet_tick=None, served_sources=[5], served_scores=[0.25])
    served |= {"served_realtime": [0.5, None, 1.0, 0.0]}
    _learn(world, FIRST + 9, served, _act("impression", FIRST + 9, "p1"))
    rows = training_set.build(world.batch, FIRST + 5, FIRST + DAY, FIRST + DAY)
    names = world.batch.features.names
    found = dict(zip(names, rows.matrix[0].tolist(), strict=True))
    assert found["ping_age_hours"] == 0.25, "the snapshot's tick, not the one before the request became known"
    assert np.isnan(found["user_points_30d"]), "no packet was logged: nothing was known of the user"
    assert [found[f"source_{name}"] for name in ("followed", "engaged_creator", "collaborative")] == [1, 0, 1]
    assert found["retrieval_score"] == 0.25
    assert found["trending_now"] == 0.5
    assert np.isnan(found["just_followed"])


def _liked(tick: int, users: str, pings: range) -> list[Row]:
    """Each of the users (one letter each) likes each of the pings."""
    return [row("like", tick * TICK_MS - 1, user_id=user, ping_id=f"p{ping}") for user in users for ping in pings]


def test_retrieval_of_unlogged_requests_is_of_their_own_day_and_tick(tmp_path: Path) -> None:
    """Later factors, and what the user did after the tick, know the outcome."""
    world = LakeWorld(tmp_path)
    made = [row("ping_created", FIRST * TICK_MS - 1, ping_id=f"p{i}", creator_id="c") for i in range(8)]
    camps = [*_liked(FIRST, "abcdef", range(4)), *_liked(FIRST, "ghijkl", range(4, 8)), *_liked(FIRST, "u", range(1))]
    _learn(world, FIRST, *made, *camps)
    numbers = np.array([world.number("ping", f"p{i}") for i in range(8)])
    users = pa.chunked_array([pa.array(["u"] * 8)])

    def retrieval(tick: int) -> Any:
        return quantiles_as_of(world.batch, users, numbers, np.full(8, tick)).tolist()

    asked = FIRST + DAY + 5
    before = retrieval(asked)
    assert min(before[1:4]) > max(before[4:]), "those who share the user's like of p0 like p1 to p3"
    _learn(world, asked + 1, *_liked(asked + 1, "uabcdef", range(6, 8)))
    _learn(world, FIRST + 2 * DAY, _act("impression", FIRST + 2 * DAY))
    assert retrieval(asked) == before
    assert retrieval(FIRST + 2 * DAY) != before


def test_a_score_logged_under_other_features_is_no_quantile(world: LakeWorld) -> None:
    digests = [world.batch.features.digest, "0" * 16]
    logged = [_served(["p1"], request_id=d, served_scores=[0.25], feature_digest=d) for d in digests]
    _learn(world, FIRST + 9, *logged)
    items = training_set.served_items(world.batch.tables.clean(FIRST_DAY, FIRST_DAY), digests[0])
    found = dict(zip(items["request_id"].to_pylist(), items["retrieval_score"].to_pylist(), strict=True))
    assert found == {digests[0]: 0.25, digests[1]: None}


def test_country_and_language_are_those_of_the_request(world: LakeWorld) -> None:
    """A profile or a hint may say more than the packet did."""
    made = row("ping_created", FIRST * TICK_MS + 1, ping_id="br", creator_id="c", country="BR", language="pt")
    served = [_served(["br"], country="BR", language="de"), _served(["br"], request_id="r2")]
    acts = [_act("impression", FIRST + 9, "br", request=f"r{i}") for i in (1, 2)]
    _learn(world, FIRST + 1, made)
    _learn(world, FIRST + 9, *(one | {"snapshot_tick": FIRST + 1} for one in served), *acts)
    rows = training_set.build(world.batch, FIRST + 5, FIRST + DAY, FIRST + DAY)
    at = [world.batch.features.names.index(name) for name in ("country_match", "language_match")]
    np.testing.assert_equal(rows.matrix[:, at], [[1, 0], [np.nan, np.nan]])


def test_a_closed_day_is_kept_and_an_open_one_is_made_anew(world: LakeWorld) -> None:
    _learn(world, FIRST + 1, _act("impression", FIRST + 1), _act("like", FIRST + 1, "p1"))
    first = training_set.collect(world.batch, FIRST + 40, 30)
    _learn(world, FIRST + 41, _act("impression", FIRST + 41, request="r2"))
    second = training_set.collect(world.batch, FIRST + DAY + WINDOW, 30)
    assert (first.table.num_rows, second.table.num_rows) == (2, 3)
    kept = [path for path in world.batch.tables.lake.list("training") if "open" not in path]
    assert len(kept) == 1, "the first day's last request has had its six hours"
    again = training_set.collect(world.batch, FIRST + DAY + WINDOW, 30)
    np.testing.assert_array_equal(again.matrix, second.matrix)


def _served(pings: list[str], **values: Any) -> dict[str, Any]:
    n = len(pings)
    logged = {
        "snapshot_tick": FIRST,
        "packet_tick": None,
        "served_sources": [0] * n,
        "served_scores": [None] * n,
        "served_propensities": [1.0] * n,
        "served_realtime": [None] * n * len(REALTIME),
    }
    plain = row("feed_served", FIRST * TICK_MS + 60_000, user_id="ada", request_id="r1", served_pings=pings)
    return plain | logged | values


def test_skew_finds_a_vector_that_was_not_what_training_computes(world: LakeWorld) -> None:
    _learn(world, FIRST + 1, _act("impression", FIRST + 1))
    labels = training_set.build(world.batch, FIRST, FIRST + DAY, FIRST + DAY)
    vector = labels.matrix[:1].copy()
    names = list(world.batch.features.names)
    vector[0, names.index("context_hour")] = 0.0
    _log_and_learn(world, vector, FIRST + 2)
    honest = measure(world.batch, FIRST_DAY, FIRST_DAY)
    vector[0, names.index("ping_duration_s")] = 99.0
    _log_and_learn(world, vector, FIRST + 3)
    lying = measure(world.batch, FIRST_DAY, FIRST_DAY)
    assert (honest.rows, honest.differing) == (1, 0)
    assert (lying.rows, lying.differing, lying.features) == (2, 1, {"ping_duration_s": 1})


def test_skew_leaves_out_what_was_logged_under_other_features(world: LakeWorld) -> None:
    _log_and_learn(world, np.zeros((1, 5), np.float32), FIRST + 2, feature_digest="0" * 16)
    assert measure(world.batch, FIRST_DAY, FIRST_DAY).rows == 0


def _log_and_learn(world: LakeWorld, vector: Any, tick: int, **values: Any) -> None:
    """Log a scored row as of FIRST, with the packet of FIRST."""
    matrix = base64.b64encode(vector.astype("<f4").tobytes()).decode()
    logged = {"matrix_pings": ["p0"], "matrix": matrix, "feature_digest": world.batch.features.digest} | values
    _learn(world, tick, _served(["p0"], packet_tick=FIRST, request_id=f"r{tick}", **logged))
