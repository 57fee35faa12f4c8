"""NDCG at 10 over requests, and paired bootstrap intervals of differences."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
LABEL_GAIN: Final = (0.0, 1.0, 2.0, 3.5, 5.0, 9.0, 12.0, 15.0, 20.0)
"""Gain of each grade 0 to 8; strictly increasing: the ranker cannot learn from equal gains."""
_CUT: Final = 10


def ndcg(grades: NDArray[np.int64], scores: Float64, starts: NDArray[np.int64]) -> Float64:
    """NDCG@10 of each request, (requests,). Gains are measured from the request's worst grade.

    `starts` gives where each request's rows begin, and n. Ties in score rank by row. A request whose grades are all
    equal counts 1: no order is better than another.
    """
    gains = np.array(LABEL_GAIN)[grades]
    out = np.ones(len(starts) - 1)
    discount = 1 / np.log2(np.arange(2, _CUT + 2))
    for index, (start, end) in enumerate(pairwise(starts)):
        mine = gains[start:end] - gains[start:end].min()
        best = np.sort(mine)[::-1][:_CUT]
        ideal = best @ discount[: len(best)]
        if ideal > 0:
            top = mine[np.argsort(-scores[start:end], kind="stable")[:_CUT]]
            out[index] = top @ discount[: len(top)] / ideal
    return out


def interval(values: Float64, seed: int, rounds: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over requests; (nan, nan) for none."""
    if not len(values):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(rounds)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def distinct_grades(grades: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which requests have two distinct grades: only those can be learned from or measured."""
    if len(starts) < 2:
        return np.zeros(0, bool)
    low, high = np.minimum.reduceat(grades, starts[:-1]), np.maximum.reduceat(grades, starts[:-1])
    different: NDArray[np.bool_] = low != high
    return different


def mean(values: Sequence[float] | Float64) -> float:
    """The mean; NaN for none."""
    return float(np.mean(values)) if len(values) else float("nan")
