"""NDCG, its intervals, and what the gate lets through."""

import numpy as np
import pytest

from batch.training import gate, ndcg

GRADES, STARTS = np.random.default_rng(1).integers(2, 6, 2000), np.arange(201) * 10
WORSE = GRADES + np.random.default_rng(5).normal(0, 1.5, len(GRADES))


def test_ndcg_is_one_for_the_ideal_order_and_falls_with_a_swap_at_the_top() -> None:
    grades, starts = np.array([5, 3, 2, 2]), np.array([0, 4])
    assert ndcg.ndcg(grades, np.array([4.0, 3, 2, 1]), starts)[0] == pytest.approx(1)
    gains = np.array(ndcg.LABEL_GAIN)
    discount = 1 / np.log2([2, 3])
    swapped = (gains[3] - gains[2]) * discount[0] + (gains[5] - gains[2]) * discount[1]
    ideal = (gains[5] - gains[2]) * discount[0] + (gains[3] - gains[2]) * discount[1]
    assert ndcg.ndcg(grades, np.array([3.0, 4, 2, 1]), starts)[0] == pytest.approx(swapped / ideal)


def test_label_gain_strictly_increases() -> None:
    assert (np.diff(ndcg.LABEL_GAIN) > 0).all()


@pytest.mark.parametrize(
    ("model", "live", "tolerance", "stopped_by"),
    [
        pytest.param(GRADES, None, 0.01, "", id="it beats popularity"),
        pytest.param(np.random.default_rng(4).random(2000), None, 0.01, "popularity", id="it may not beat popularity"),
        pytest.param(WORSE, GRADES, 0.01, "live", id="it is worse than the live model"),
        pytest.param(WORSE, GRADES, 1.0, "", id="it is worse than the live model within the tolerance"),
    ],
)
def test_a_model_goes_live_only_if_it_beats_popularity_and_is_not_worse_than_the_live_one(
    model: np.ndarray, live: np.ndarray | None, tolerance: float, stopped_by: str
) -> None:
    popularity = np.random.default_rng(3).random(len(GRADES))
    verdict = gate.judge(GRADES, STARTS, model, popularity, live, tolerance=tolerance, seed=1)
    assert verdict.passed is (not stopped_by)
    assert stopped_by in verdict.sentence


def test_interval_of_nothing_is_unknown_and_never_passes() -> None:
    assert np.isnan(ndcg.interval(np.empty(0), 1)).all()
    nothing = np.empty(0, np.int64)
    verdict = gate.judge(nothing, np.zeros(1, np.int64), np.empty(0), np.empty(0), None, tolerance=0.01, seed=1)
    assert not verdict.passed
