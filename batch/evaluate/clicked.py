"""The clicked lists of a log in time order, and the baselines: chance, order shown, votes, click rate so far."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.importers.formats import Source
from batch.importers.metarank import Interaction, Item, Names, Ranking, Reader
from pingfeed.core.errors import InvalidInput

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
_PRIOR_IMPRESSIONS = 20.0
"""How many impressions at the log's average a film begins with."""
SHOWN_GRADE, CLICKED_GRADE = 2, 5
"""An impression's grade and a like's (batch/sql/labels.sql): what an import makes of a list and of a click."""


@dataclass(frozen=True)
class MetarankLog:
    """A whole log in memory: each list in the file's order."""

    items: list[Item]
    rankings: list[Ranking]
    interactions: list[Interaction]
    reader: Reader


def read_metarank(path: Path, names: Names | None = None) -> MetarankLog:
    """The whole log; NotFound if there is no such file, InvalidInput for broken gzip and a log without lists."""
    reader = Reader(names)
    log = MetarankLog([], [], [], reader)
    kinds: dict[type, list[Any]] = {Item: log.items, Ranking: log.rankings, Interaction: log.interactions}
    for entry in reader.entries(enumerate(Source(path).lines(), 1)):
        kinds[type(entry)].append(entry)
    if not log.rankings and not log.interactions:
        raise InvalidInput(f"{path} holds no list and no interaction of Metarank's format")
    return log


@dataclass(frozen=True)
class ClickedLists:
    """n rows, one for each film of each list, in the order shown; `starts` is where each list begins, and n."""

    lists: Sequence[Ranking]
    grades: Int64  # (n,)
    position: Int64  # (n,)
    starts: Int64  # (lists + 1,)

    def from_list(self, first: int) -> slice:
        """The rows of the lists from `first` on."""
        return slice(int(self.starts[first]), int(self.starts[-1]))


def clicked_lists(log: MetarankLog) -> ClickedLists:
    """The lists with at least one click, by time; lists of the same moment stay in the file's order."""
    clicks = clicks_of(log)
    lists = sorted((one for one in log.rankings if one.request_id in clicks), key=lambda one: one.at_ms)
    clicked = [ping in clicks[one.request_id] for one in lists for ping in one.ping_ids]
    sizes = [len(one.ping_ids) for one in lists]
    return ClickedLists(
        lists=lists,
        grades=np.where(clicked, CLICKED_GRADE, SHOWN_GRADE).astype(np.int64),
        position=np.array([place for size in sizes for place in range(size)], np.int64),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )


def clicks_of(log: MetarankLog) -> dict[str, set[str]]:
    """The films that were clicked, by list; clicks without a list belong to none."""
    found: dict[str, set[str]] = {}
    for act in log.interactions:
        if act.request_id is not None:
            found.setdefault(act.request_id, set()).add(act.ping_id)
    shown = {one.request_id: set(one.ping_ids) for one in log.rankings}
    return {request: films & shown.get(request, set()) for request, films in found.items() if films & shown[request]}


def in_time(log: MetarankLog) -> list[Ranking | Interaction]:
    """Lists and clicks as a server saw them; of one moment, lists come first."""
    acts: list[Ranking | Interaction] = [*log.rankings, *log.interactions]
    return sorted(acts, key=lambda act: (act.at_ms, isinstance(act, Interaction)))


def described(log: MetarankLog) -> dict[str, Item]:
    """What the log says of each film; its last word counts."""
    return {item.ping_id: item for item in log.items}


def baseline_scores(log: MetarankLog, clicked: ClickedLists, seed: int) -> dict[str, Float64]:
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
