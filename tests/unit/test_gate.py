"""NDCG, its intervals, and what the gate lets through."""

import numpy as np
import pytest

from batch.training import gate, ndcg


def _lists(requests: int = 200, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(2, 6, requests * 10), np.arange(requests + 1) * 10


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


def _judge(model: np.ndarray, live: np.ndarray | None = None, tolerance: float = 0.01) -> gate.Verdict:
    grades, starts = _lists()
    popularity = np.random.default_rng(3).random(len(grades))
    return gate.judge(grades, starts, model, popularity, live, tolerance=tolerance, seed=1)


def test_a_model_that_beats_popularity_goes_live() -> None:
    grades, _ = _lists()
    assert _judge(grades.astype(float)).passed


def test_a_model_that_may_not_beat_popularity_stays_out() -> None:
    verdict = _judge(np.random.default_rng(4).random(2000))
    assert not verdict.passed
    assert "popularity" in verdict.sentence


def test_a_model_worse_than_the_live_one_stays_out() -> None:
    grades, _ = _lists()
    worse = grades + np.random.default_rng(5).normal(0, 1.5, len(grades))
    verdict = _judge(worse, live=grades.astype(float))
    assert not verdict.passed
    assert "live" in verdict.sentence
    assert _judge(worse, live=grades.astype(float), tolerance=1.0).passed


def test_interval_of_nothing_is_unknown_and_never_passes() -> None:
    assert np.isnan(ndcg.interval(np.empty(0), 1)).all()
    nothing = np.empty(0, np.int64)
    verdict = gate.judge(nothing, np.zeros(1, np.int64), np.empty(0), np.empty(0), None, tolerance=0.01, seed=1)
    assert not verdict.passed
