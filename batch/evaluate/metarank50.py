"""A peer: LambdaMART with the features that Metarank's documentation configures for RankLens, and 50 trees.

The features are those of the RankLens example in Metarank's documentation (its `config.yml`), computed as a server
would have known them when it made the list: popularity, votes, budget, release date, runtime, words of the title, the
first genre; click rate and click count of the film; how many clicks the session had; and how much of what the session
clicked (its last ten) shares genres, actors, tags and the director. Its windows of 7 and 30 days hold the whole log,
which was made within minutes. Trees, leaves and learning rate are the defaults of Metarank's LightGBM backend.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from batch.evaluate.clicked import CLICKED_GRADE, ClickedLists, MetarankLog, described, in_time
from batch.importers.metarank import Item, Ranking

_NUMBERS: Final = ("popularity", "vote_avg", "vote_cnt", "budget", "release_date", "runtime")
_GENRES: Final = (
    *("drama", "comedy", "thriller", "action", "adventure", "romance", "crime", "science fiction", "fantasy"),
    *("family", "horror", "mystery", "animation", "history", "music"),
)
_SHARED: Final = ("genres", "actors", "tags", "director")
_LAST_CLICKS: Final = 10
_TREES: Final = 50
_PARAMS: Final[dict[str, Any]] = {
    "objective": "lambdarank",
    "lambdarank_truncation_level": 10,
    "learning_rate": 0.1,
    "num_leaves": 16,
    "max_depth": 8,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 2,
    "verbosity": -1,
}


def scores(log: MetarankLog, clicked: ClickedLists, train_lists: int, seed: int) -> NDArray[np.float64]:
    """(n,) scores of a ranker trained on the first `train_lists` lists."""
    matrix, end = features(log, clicked), int(clicked.starts[train_lists])
    labels = (clicked.grades[:end] == CLICKED_GRADE).astype(np.int64)
    sizes = np.diff(clicked.starts[: train_lists + 1])
    data = lightgbm.Dataset(matrix[:end], labels, group=sizes)
    booster = lightgbm.train({**_PARAMS, "seed": seed}, data, num_boost_round=_TREES)
    return np.asarray(booster.predict(matrix), np.float64)


def features(log: MetarankLog, clicked: ClickedLists) -> NDArray[np.float32]:
    """(n, features), each list's rows as known before it was shown."""
    films = described(log)
    shown, clicks = Counter[str](), Counter[str]()
    sessions: dict[str, list[str]] = defaultdict(list)
    rows: dict[str, list[list[float]]] = {}
    for act in in_time(log):
        if isinstance(act, Ranking):
            liked = _shares(films, sessions[act.user_id][-_LAST_CLICKS:])
            visits = float(len(sessions[act.user_id]))
            rows[act.request_id] = [
                [*_own(films.get(ping)), *_of_clicks(ping, shown, clicks), *_liked(films.get(ping), liked), visits]
                for ping in act.ping_ids
            ]
            shown.update(act.ping_ids)
        else:
            clicks[act.ping_id] += 1
            sessions[act.user_id].append(act.ping_id)
    return np.array([row for one in clicked.lists for row in rows[one.request_id]], np.float32)


def _own(film: Item | None) -> list[float]:
    if film is None:
        return [np.nan] * (len(_NUMBERS) + 1) + [-1.0]
    title = " ".join(film.facets.get("title", []))
    genre = film.topics[0] if film.topics else ""
    place = _GENRES.index(genre) if genre in _GENRES else -1
    return [*(film.attributes.get(name, np.nan) for name in _NUMBERS), float(len(title.split())), float(place)]


def _of_clicks(ping: str, shown: Counter[str], clicks: Counter[str]) -> list[float]:
    rate = clicks[ping] / shown[ping] if shown[ping] else np.nan
    return [rate, float(clicks[ping])]


def _words(film: Item | None, field: str) -> list[str]:
    if film is None:
        return []
    known = {"genres": film.topics, "director": [film.creator_id]}
    return known[field] if field in known else film.facets.get(field, [])


def _shares(films: Mapping[str, Item], clicked: list[str]) -> dict[str, dict[str, float]]:
    """Of all words of the clicked films, by field, the share that each word has."""
    shares = {}
    for field in _SHARED:
        words = Counter(word for ping in clicked for word in _words(films.get(ping), field))
        shares[field] = {word: count / words.total() for word, count in words.items()}
    return shares


def _liked(film: Item | None, shares: Mapping[str, Mapping[str, float]]) -> list[float]:
    return [sum(shares[field].get(word, 0.0) for word in _words(film, field)) for field in _SHARED]
