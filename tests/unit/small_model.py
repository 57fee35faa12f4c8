"""A small trained model, for tests of what loads and serves one."""

from typing import Any, Final

import lightgbm
import msgspec
import numpy as np

from pingfeed.core.features import FeatureSet
from pingfeed.core.ranker import Manifest

FEATURES: Final = FeatureSet()


def train(width: int | None = None, feature: str = "ping_points_7d", sign: float = 1) -> lightgbm.Booster:
    """Twenty small trees that score by one feature (highest first, or lowest with `sign` -1)."""
    rng = np.random.default_rng(0)
    matrix = rng.random((2000, width or len(FEATURES.all))).astype(np.float32)
    target = sign * matrix[:, FEATURES.names.index(feature)]
    parameters = {"objective": "regression", "num_leaves": 31, "verbosity": -1, "num_threads": 1, "seed": 1}
    return lightgbm.train(parameters, lightgbm.Dataset(matrix, target), num_boost_round=20)


def manifest(**changes: Any) -> bytes:
    """The manifest of model "m1", of the default feature set."""
    described = Manifest(
        model_id="m1",
        digest=FEATURES.digest,
        features=list(FEATURES.names),
        created_ms=0,
        cutoff_tick=1,
        trained_requests=1000,
        held_out_requests=100,
        metrics={"ndcg_at_10": 0.5},
        params={"num_leaves": 31},
        score_std=0.5,
        learned_realtime=[],
        live=True,
        gate="it may go live",
    )
    return msgspec.json.encode(msgspec.structs.replace(described, **changes))
