"""Candidate sources: what each returns, what is excluded, and how they are merged."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse.linalg import ArpackError

from batch.features import collaborative
from batch.serving import sources
from batch.serving.sources import Pool, UserProfile, interleaved
from pingfeed.core.features import FACET_WIDTH, NO_VALUE, PING, SOURCES, PingBlock, retrieval_quantiles

N = 12


def _pool() -> Pool:
    """Twelve pings: creator i % 3, topic value 100 + i % 2, newer with i, better with i."""
    values = np.zeros((N, len(PING) + 1), np.float32)
    values[:, [f.name for f in PING].index("ping_points_7d")] = np.arange(N)
    facets = np.full((N, 1, FACET_WIDTH), NO_VALUE, np.uint32)
    facets[:, 0, 0] = 100 + np.arange(N) % 2
    none = np.zeros(N, np.uint32)
    pings = PingBlock(values, (np.arange(N) % 3).astype(np.uint32), facets, none, none)
    lists = {
        "fresh": np.arange(N)[::-1],
        "evergreen": np.array([2, 1]),
        "trending": np.array([5, 4]),
        "trending:US": np.array([7]),
    }
    return Pool(
        1, np.arange(10, 10 + N, dtype=np.uint32), pings, np.arange(N, dtype=np.int64), lists, {0: "c0", 1: "ada"}
    )


def _user() -> UserProfile:
    creators = np.array([0, 1, 2], np.uint32), np.array([0.1, -0.5, 0.9], np.float32)
    values = np.array([100, 101], np.uint32), np.array([-0.2, 0.3], np.float32)
    none = np.zeros(N, bool)
    return UserProfile("US", *creators, *values, followed=[0], engaged=np.array([3]), excluded=none, forbidden=none)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(sources.followed, [9, 6, 3, 0], id="the newest of followed creators"),
        pytest.param(sources.topic, [11, 9, 7, 5, 3, 1], id="the best of liked topics"),
        pytest.param(sources.trending, [7, 5, 4], id="the trending pings of the country first"),
        pytest.param(sources.evergreen, [2, 1], id="the evergreen list"),
        pytest.param(sources.fresh, list(range(N))[::-1], id="the fresh list"),
    ],
)
def test_a_source_returns(source: Callable[[Pool, UserProfile], Any], expected: list[int]) -> None:
    assert source(_pool(), _user()).tolist() == expected


def test_engaged_creator_alternates_between_liked_creators_and_leaves_out_disliked_ones() -> None:
    found = sources.engaged_creator(_pool(), _user())
    assert found.tolist()[:4] == [11, 9, 8, 6]
    assert 1 not in _pool().pings.creator[found]


def test_trending_without_a_country_is_the_overall_list() -> None:
    assert sources.trending(_pool(), replace(_user(), country=None)).tolist() == [5, 4]


def test_a_ping_of_several_sources_is_merged_once_with_all_their_bits() -> None:
    found = {"fresh": np.array([3, 2]), "trending": np.array([3])}
    rows, bits, keep = sources.merge(found, np.zeros(N, bool))
    assert rows.tolist() == [2, 3]
    assert bits[1] == 1 << SOURCES.index("fresh") | 1 << SOURCES.index("trending")
    assert keep.all()


def test_excluded_rows_are_never_candidates_and_do_not_use_up_a_quota() -> None:
    excluded = np.zeros(200, bool)
    excluded[:100] = True
    rows, _, _ = sources.merge({"fresh": np.arange(200)}, excluded)
    assert rows.tolist() == list(range(100, 100 + sources.QUOTAS["fresh"]))


def test_interleaved_takes_turns() -> None:
    groups = [np.array([1, 2, 3]), np.array([9])]
    assert interleaved(groups).tolist() == [1, 9, 2, 3]
    assert interleaved([]).tolist() == []


def test_collaborative_scores_follow_users_with_a_similar_history() -> None:
    """Two camps that never mix: a member's best unseen ping is their own camp's."""
    pairs = [(user, ping) for user in range(20) for ping in range(10) if ping // 5 == user % 2]
    pairs.remove((0, 4))
    factors = collaborative.fit(*(np.array(side) for side in zip(*pairs, strict=True)))
    scores, best = factors.scores(np.array([0, 1, 2, 3]))
    assert scores[4] > scores[5:].max() + 0.3 * scores.max()
    of_camp = retrieval_quantiles(scores, best)
    assert of_camp[4] == 254, "the best of those that the user has not engaged with"
    assert (of_camp[5:] < 254).all()


def test_many_unconnected_groups_of_users_get_factors_too() -> None:
    rng = np.random.default_rng(7)
    user = np.repeat(np.arange(2000), 2)
    ping = user % 300 * 7 + rng.integers(0, 7, len(user))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(collaborative, "svds", _failing)
        once, again = collaborative.fit(user, ping), collaborative.fit(user, ping)
    assert once.vectors.tobytes() == again.vectors.tobytes()
    vectors = once.vectors.astype(np.float64)
    assert vectors.shape == (len(np.unique(ping)), collaborative.FACTORS)
    assert np.allclose(vectors.T @ vectors, np.eye(collaborative.FACTORS), atol=1e-4)
    engaged = ping[user == 0]
    scores, _ = once.scores(engaged)
    group = once.pings // 7 == 0
    assert scores[group].max() >= scores[~group].max()


def _failing(*_: object, **__: object) -> None:
    raise ArpackError(3)


def test_collaborative_factors_survive_the_lake_and_are_the_same_every_time() -> None:
    rng = np.random.default_rng(1)
    user, ping = rng.integers(0, 40, 300), rng.integers(0, 30, 300)
    once, again = collaborative.fit(user, ping), collaborative.fit(user, ping)
    np.testing.assert_array_equal(once.vectors, again.vectors)
    read = collaborative.from_table(collaborative.to_table(once))
    np.testing.assert_array_equal(read.vectors, once.vectors)
    np.testing.assert_array_equal(read.degree, once.degree)


def test_too_few_users_have_no_factors() -> None:
    factors = collaborative.fit(np.array([0]), np.array([5]))
    assert np.isnan(factors.scores(np.array([0]))[0]).all()
    empty = collaborative.from_table(collaborative.to_table(collaborative.fit(np.empty(0, int), np.empty(0, int))))
    assert len(empty.pings) == 0
