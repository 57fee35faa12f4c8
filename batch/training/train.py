"""Trains the ranker: LightGBM's lambdarank on what was shown, one group a request, judged on later time.

The number of trees is fixed, and the trees are small with a low learning rate. Early stopping on a validation set was
measured to be worse (by 0.004 NDCG@10 on RankLens): a few hundred requests are too few to decide when to stop, and they
are missing from the training data. The gate keeps a model that learned nothing from going live.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import lightgbm
import msgspec
import numpy as np
from numpy.typing import NDArray

from batch.training import gate, models, ndcg, training_set
from batch.training.training_set import TrainingSet
from batch.wiring import Batch
from pingfeed.core.errors import Busy, FormatError, Unavailable
from pingfeed.core.features import REALTIME, Float32
from pingfeed.core.ranker import Manifest, TreeRanker
from pingfeed.core.words import counted

MIN_ENGAGED_REQUESTS: Final = 500
DAYS: Final = 30
SEED: Final = 7
_HELD_OUT: Final = 0.2
_IMPRESSION: Final = 2
PARAMS: Final[dict[str, Any]] = {
    "objective": "lambdarank",
    "label_gain": list(ndcg.LABEL_GAIN),
    "metric": "none",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "lambdarank_truncation_level": 12,
    "max_bin": 127,
    "num_threads": 2,
    "deterministic": True,
    "force_row_wise": True,
    "seed": SEED,
    "verbosity": -1,
}
_TREES: Final = 200
_TRAINED: Final = "ticks/trained.json"


@dataclass(frozen=True)
class Outcome:
    """The result of a training: a model, or what is missing."""

    manifest: Manifest | None
    sentence: str


@dataclass(frozen=True)
class Part:
    """Some requests: their rows, and where each request begins, and n."""

    matrix: Float32
    grades: NDArray[np.int64]
    starts: NDArray[np.int64]


def train(batch: Batch, tick: int, *, days: int = DAYS) -> Outcome:
    """Train on what was known at `tick`, store the model, and make it live if it passes the gate."""
    outcome = _train(batch, tick, days)
    batch.tables.lake.write(_TRAINED, msgspec.json.encode({"tick": tick}))
    batch.tables.versions.commit()
    return outcome


def last_trained(batch: Batch) -> int | None:
    """The tick of the latest training, None if there was none."""
    if _TRAINED not in batch.tables.lake.list("ticks"):
        return None
    found = batch.tables.json(_TRAINED, dict[str, int])
    return found.get("tick") if found else None


def _train(batch: Batch, tick: int, days: int) -> Outcome:
    rows = training_set.collect(batch, tick, days)
    try:
        return _trained(batch, tick, rows)
    except (Busy, Unavailable, MemoryError):
        raise
    except Exception:  # Whatever a request does to training, the others are trained on.
        usable = _usable(batch, rows)
        if len(usable.grades) == len(rows.grades):
            raise
        return _trained(batch, tick, usable)


def _usable(batch: Batch, rows: TrainingSet) -> TrainingSet:
    """The requests that can be trained on and judged alone; the others are quarantined."""

    def take(groups: list[training_set.Group]) -> TrainingSet:
        some = rows.rows(groups[0][0], groups[-1][1])
        ndcg.ndcg(some.grades, np.zeros(len(some.grades)), some.starts)
        fit(Part(some.matrix, some.grades, some.starts), batch.features.names, trees=1)
        return some

    return training_set.joined(training_set.each_group(batch, rows.table, take), batch.features.names)


def _trained(batch: Batch, tick: int, rows: TrainingSet) -> Outcome:
    engaged = _engaged_requests(rows)
    if engaged < MIN_ENGAGED_REQUESTS:
        hours = batch.settings.label_window_hours
        return Outcome(
            None,
            f"Not enough training data: {engaged:,} of {MIN_ENGAGED_REQUESTS} feed requests with an interaction "
            f"({hours} h window); the current ranker keeps serving",
        )
    training, held_out = _split(rows)
    if min(len(training.starts), len(held_out.starts)) < 2:
        sentence = "Not enough training data: no request with two different outcomes in the training or held-out time"
        return Outcome(None, f"{sentence}; the current ranker keeps serving")
    requests = len(training.starts) - 1
    with batch.progress.step(f"training on {counted(requests, 'request')}, {counted(len(training.grades), 'row')}"):
        booster = fit(training, batch.features.names)
    manifest, text = _describe(batch, tick, booster, requests, held_out)
    models.store(batch, manifest, text)
    live = "is live" if manifest.live else "is stored but not live"
    return Outcome(manifest, f"model {manifest.model_id} {live}: {manifest.gate}")


def _engaged_requests(rows: TrainingSet) -> int:
    starts = rows.starts
    if len(starts) < 2:
        return 0
    return int((np.maximum.reduceat(rows.grades, starts[:-1]) > _IMPRESSION).sum())


def _split(rows: TrainingSet) -> tuple[Part, Part]:
    """Training and held-out parts in time order, without requests whose grades are all equal."""
    starts, grades = rows.starts, rows.grades
    useful = ndcg.distinct_grades(grades, starts)
    count = len(useful)
    bounds = [0, int(count * (1 - _HELD_OUT)), count]
    parts = []
    for first, last in pairwise(bounds):
        requests = np.arange(first, last)[useful[first:last]]
        index = [np.arange(starts[r], starts[r + 1]) for r in requests]
        take = np.concatenate(index) if index else np.empty(0, np.int64)
        sizes = np.array([len(one) for one in index], np.int64)
        parts.append(Part(rows.matrix[take], grades[take], np.concatenate([[0], np.cumsum(sizes)])))
    return parts[0], parts[1]


def fit(training: Part, names: tuple[str, ...], trees: int = _TREES) -> lightgbm.Booster:
    """A ranker trained on these requests; FormatError if LightGBM rejects them."""
    group = np.diff(training.starts)
    data = lightgbm.Dataset(training.matrix, training.grades, group=group, feature_name=list(names))
    try:
        return lightgbm.train(PARAMS, data, num_boost_round=trees)
    except lightgbm.basic.LightGBMError as error:
        raise FormatError(f"LightGBM rejected the training set: {error}") from error


def _describe(
    batch: Batch, tick: int, booster: lightgbm.Booster, trained_requests: int, held_out: Part
) -> tuple[Manifest, str]:
    """The manifest with the gate's verdict, and the model as text."""
    text = booster.model_to_string()
    scores = np.asarray(booster.predict(held_out.matrix), np.float64)
    popularity = held_out.matrix[:, batch.features.names.index("ping_points_7d")].astype(np.float64)
    live = models.live_ranker(batch)
    verdict = gate.judge(
        held_out.grades,
        held_out.starts,
        scores,
        popularity,
        live.predict(held_out.matrix) if isinstance(live, TreeRanker) else None,
        tolerance=batch.settings.gate_tolerance,
        seed=SEED,
    )
    split_on = dict(zip(booster.feature_name(), booster.feature_importance("split"), strict=True))
    manifest = Manifest(
        model_id=f"{tick}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}",
        digest=batch.features.digest,
        features=list(batch.features.names),
        created_ms=batch.clock(),
        cutoff_tick=tick,
        trained_requests=trained_requests,
        held_out_requests=len(held_out.starts) - 1,
        metrics=verdict.metrics | {"trees": float(booster.num_trees())},
        params={name: value for name, value in PARAMS.items() if isinstance(value, int | float | str)},
        score_std=_spread(scores, held_out.starts),
        learned_realtime=[feature.name for feature in REALTIME if split_on[feature.name] > 0],
        live=verdict.passed,
        gate=verdict.sentence,
    )
    return manifest, text


def _spread(scores: NDArray[np.float64], starts: NDArray[np.int64]) -> float:
    """Mean standard deviation of the scores within a request."""
    spreads = [scores[start:end].std() for start, end in pairwise(starts)]
    return ndcg.mean(spreads) if spreads else 1.0
