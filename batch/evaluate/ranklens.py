"""`pingfeed evaluate ranklens`: how well the features, the SQL and the training that serve rank real lists.

The log is imported into a lake of its own, stretched to two weeks from the log's own first date, so that ticks, windows
and label windows mean what they mean for a living feed. Each list's rows take their features at the list's own tick, as
`pingfeed train` would, and once more at the tick that began the list's day: what a feed without ticks would know. The
model is trained on the first clicked lists in time order and measured on the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from batch.evaluate import metarank50
from batch.evaluate.clicked import ClickedLists, Float64, MetarankLog, baseline_scores, clicked_lists, read_metarank
from batch.features import day_state
from batch.importers.formats import Source
from batch.importers.importer import Importer, Placing
from batch.importers.metarank import MetarankFormat, Names
from batch.jobs.load_events import EventLoader
from batch.training import ndcg, training_set
from batch.training.train import SEED, Part, fit
from batch.training.training_set import TrainingSet
from batch.wiring import Batch, build
from pingfeed import settings
from pingfeed.core.clock import DAY_MS, Clock, system_clock
from pingfeed.core.errors import InvalidInput
from pingfeed.core.features import Float32

STRETCH_DAYS: Final = 14
FACETS: Final = "topics,tags,actors,writer"
ATTRIBUTES: Final = "popularity,vote_avg,vote_cnt,budget,runtime,release_date"
_PAIRS: Final = [
    *(("model", "ctr"), ("model", "metarank50"), ("model", "votes"), ("model", "shown"), ("model", "random")),
    *(("metarank50", "ctr"), ("model", "model_nightly")),
]


@dataclass(frozen=True)
class Evaluation:
    """What is asked: train on the clicked lists before `test_from`, test on those from it on."""

    file: Path
    test_from: int
    quiet: bool = False

    def run(self, clock: Clock = system_clock) -> dict[str, Any]:
        """The report as the command prints it. InvalidInput if too few lists are left to train or to test on."""
        log = read_metarank(self.file)
        clicked = clicked_lists(log)
        if not 20 <= self.test_from < len(clicked.lists):
            raise InvalidInput(
                f"--test-from must be from 20 to {len(clicked.lists) - 1}: {self.file} holds {len(clicked.lists)} "
                "clicked lists",
                field="test_from",
            )
        with TemporaryDirectory(prefix="pingfeed-ranklens-") as home:
            batch = build(_settings(Path(home)), clock=clock, quiet=self.quiet)
            own, nightly = _vectors(batch, self.file, clicked)
            with batch.progress.step("training and ranking"):
                scores = self._scores(log, clicked, own, nightly, batch.features.names)
        test = clicked.from_list(self.test_from)
        starts = clicked.starts[self.test_from :] - test.start
        found = {name: ndcg.ndcg(clicked.grades[test], one[test], starts) for name, one in scores.items()}
        about = {"trained_lists": self.test_from, "stretched_to_days": STRETCH_DAYS}
        return report(found, _PAIRS, SEED) | {"about": about}

    def _scores(
        self, log: MetarankLog, clicked: ClickedLists, own: Float32, nightly: Float32, names: tuple[str, ...]
    ) -> Mapping[str, Float64]:
        return {
            "model": _model_scores(clicked, own, self.test_from, names),
            "model_nightly": _model_scores(clicked, nightly, self.test_from, names),
            "metarank50": metarank50.scores(log, clicked, self.test_from, SEED),
            **baseline_scores(log, clicked, SEED),
        }


def _settings(home: Path) -> settings.Settings:
    names = {"HOME": str(home), "FACETS": FACETS, "ATTRIBUTES": ATTRIBUTES}
    return settings.load({f"{settings.PREFIX}{name}": value for name, value in names.items()})


def _vectors(batch: Batch, file: Path, clicked: ClickedLists) -> tuple[Float32, Float32]:
    """(n, F) each, in the order of `clicked`: with features of each list's own tick, and of its day's first."""
    placing = Placing(keep_dates=True, stretch_ms=STRETCH_DAYS * DAY_MS)
    with batch.progress.step("importing the log"):
        log = Importer(batch, Source(file), MetarankFormat(Names())).run(placing)
    assert log.first_ms is not None
    assert log.last_ms is not None, "a log with clicked lists has events"
    until = batch.ticks.of(log.last_ms) + 2
    first = batch.ticks.of(log.first_ms)
    cutoff = until + training_set.label_ticks(batch)
    run = EventLoader(batch).run(cutoff, log.end_ms, everything=True).run
    day_state.ensure(batch, cutoff, run)
    with batch.progress.step("features of each list's own tick"):
        own = _aligned(training_set.build(batch, first, until, cutoff), clicked)
    with batch.progress.step("features of each list's day"):
        nightly = _aligned(training_set.build(batch, first, until, cutoff, as_of_day=True), clicked)
    return own, nightly


def _aligned(rows: TrainingSet, clicked: ClickedLists) -> Float32:
    """The rows' vectors in the order of the lists. A film twice in a list has one row."""
    requests, pings = (rows.table[name].to_pylist() for name in ("request_id", "ping_id"))
    place = {key: row for row, key in enumerate(zip(requests, pings, strict=True))}
    missing = np.full(rows.matrix.shape[1], np.nan, np.float32)
    found = [place.get((one.request_id, ping)) for one in clicked.lists for ping in one.ping_ids]
    return np.stack([missing if row is None else rows.matrix[row] for row in found])


def _model_scores(clicked: ClickedLists, matrix: Float32, train_lists: int, names: tuple[str, ...]) -> Float64:
    """(n,) scores of the ranker that `pingfeed train` makes of the first lists."""
    starts = clicked.starts[: train_lists + 1]
    booster = fit(Part(matrix[: starts[-1]], clicked.grades[: starts[-1]], starts), names)
    return np.asarray(booster.predict(matrix), np.float64)


def report(found: Mapping[str, Float64], pairs: list[tuple[str, str]], seed: int) -> dict[str, Any]:
    """`found` holds NDCG@10 of each list, (lists,), by ranker."""
    return {
        "lists": len(next(iter(found.values()))),
        "rankers": {
            name: {"ndcg_at_10": ndcg.mean(values), "ci": list(ndcg.interval(values, seed))}
            for name, values in found.items()
        },
        "paired": {f"{one}-{other}": _difference(found[one] - found[other], seed) for one, other in pairs},
    }


def _difference(values: Float64, seed: int) -> dict[str, Any]:
    return {"mean": ndcg.mean(values), "ci": list(ndcg.interval(values, seed))}
