"""The gate: whether a trained model may go live.

On held-out time it must beat smoothed popularity with a paired 95 % interval above zero, and its difference to the live
model must have a lower bound above minus the tolerance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batch.training import ndcg

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """What the gate found; `metrics` are NDCG@10 and paired differences on held-out time."""

    passed: bool
    sentence: str
    metrics: dict[str, float]


def judge(
    grades: NDArray[np.int64],
    starts: NDArray[np.int64],
    model: Float64,
    popularity: Float64,
    live: Float64 | None,
    *,
    tolerance: float,
    seed: int,
) -> Verdict:
    """Compare scores of the same held-out rows, (n,) each."""
    of_model = ndcg.ndcg(grades, model, starts)
    gain = of_model - ndcg.ndcg(grades, popularity, starts)
    low, high = ndcg.interval(gain, seed)
    metrics = {
        "ndcg_at_10": ndcg.mean(of_model),
        "popularity_ndcg_at_10": ndcg.mean(of_model - gain),
        "model_minus_popularity": ndcg.mean(gain),
        "model_minus_popularity_low": low,
        "model_minus_popularity_high": high,
    }
    if not low > 0:
        beaten = f"it does not beat smoothed popularity on held-out time (interval {low:+.4f} to {high:+.4f})"
        return Verdict(False, beaten, metrics)
    if live is not None:
        change = of_model - ndcg.ndcg(grades, live, starts)
        low, high = ndcg.interval(change, seed)
        metrics |= {"model_minus_live": ndcg.mean(change), "model_minus_live_low": low, "model_minus_live_high": high}
        if not low > -tolerance:
            return Verdict(False, f"it may be worse than the live model (interval {low:+.4f} to {high:+.4f})", metrics)
    return Verdict(True, f"it beats smoothed popularity by {metrics['model_minus_popularity']:+.4f} NDCG@10", metrics)
