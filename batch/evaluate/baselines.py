"""Baselines from the log alone: random order, the order shown, votes, and the click rate so far."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from batch.evaluate.clicked import ClickedLists, described, in_time
from batch.importers.metarank import MetarankLog, Ranking

Float64 = NDArray[np.float64]
_PRIOR_IMPRESSIONS = 20.0
"""How many impressions at the log's average a film begins with."""


def scores(log: MetarankLog, clicked: ClickedLists, seed: int) -> dict[str, Float64]:
    """(n,) scores by ranker."""
    films = described(log)
    votes = {ping: item.attributes.get("vote_cnt", 0.0) for ping, item in films.items()}
    return {
        "random": np.random.default_rng(seed).random(len(clicked.grades)),
        "shown": -clicked.position.astype(np.float64),
        "votes": np.array([votes.get(ping, 0.0) for one in clicked.lists for ping in one.ping_ids], np.float64),
        "ctr": _click_rates(log, clicked),
    }


def _click_rates(log: MetarankLog, clicked: ClickedLists) -> Float64:
    """Clicks for each impression before the list, smoothed towards the average so far."""
    shown, clicks = Counter[str](), Counter[str]()
    rates: dict[str, list[float]] = {}
    for act in in_time(log):
        if isinstance(act, Ranking):
            average = clicks.total() / max(shown.total(), 1)
            rates[act.request_id] = [
                (clicks[ping] + _PRIOR_IMPRESSIONS * average) / (shown[ping] + _PRIOR_IMPRESSIONS)
                for ping in act.ping_ids
            ]
            shown.update(act.ping_ids)
        else:
            clicks[act.ping_id] += 1
    return np.array([rate for one in clicked.lists for rate in rates[one.request_id]], np.float64)
