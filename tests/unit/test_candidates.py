"""Sources, merging and packets: what each offers, what is never offered, how the best hundred are chosen."""

from dataclasses import replace

import numpy as np

from batch.serving import collaborative
from batch.serving.sources import (
    QUOTAS,
    Pool,
    UserProfile,
    engaged_creator,
    evergreen,
    followed,
    fresh,
    interleaved,
    merge,
    topic,
    trending,
)
from pingfeed.core.features import FACET_WIDTH, NO_VALUE, PING, SOURCES, PingBlock

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


def _taste() -> UserProfile:
    creators = np.array([0, 1, 2], np.uint32), np.array([0.1, -0.5, 0.9], np.float32)
    values = np.array([100, 101], np.uint32), np.array([-0.2, 0.3], np.float32)
    return UserProfile("US", *creators, *values, followed=[0], liked=np.array([3]), excluded=np.zeros(N, bool))


def test_followed_offers_the_newest_of_followed_creators() -> None:
    assert followed(_pool(), _taste()).tolist() == [9, 6, 3, 0]


def test_engaged_creator_goes_round_the_favoured_creators_and_leaves_out_the_disliked() -> None:
    assert engaged_creator(_pool(), _taste()).tolist()[:4] == [11, 9, 8, 6]
    assert 1 not in _pool().pings.creator[engaged_creator(_pool(), _taste())]


def test_topic_offers_the_best_of_favoured_topics() -> None:
    assert topic(_pool(), _taste()).tolist() == [11, 9, 7, 5, 3, 1]


def test_trending_offers_the_country_first() -> None:
    assert trending(_pool(), _taste()).tolist() == [7, 5, 4]
    assert trending(_pool(), replace(_taste(), country=None)).tolist() == [5, 4]


def test_evergreen_and_fresh_are_the_snapshots_lists() -> None:
    assert evergreen(_pool(), _taste()).tolist() == [2, 1]
    assert fresh(_pool(), _taste()).tolist()[0] == N - 1


def test_a_ping_of_several_sources_is_merged_once_with_all_their_bits() -> None:
    offers = {"fresh": np.array([3, 2]), "trending": np.array([3])}
    rows, bits, keep = merge(offers, np.zeros(N, bool))
    assert rows.tolist() == [2, 3]
    assert bits[1] == 1 << SOURCES.index("fresh") | 1 << SOURCES.index("trending")
    assert keep.all()


def test_excluded_rows_are_never_candidates_and_do_not_use_up_a_quota() -> None:
    excluded = np.zeros(200, bool)
    excluded[:100] = True
    rows, _, _ = merge({"fresh": np.arange(200)}, excluded)
    assert rows.tolist() == list(range(100, 100 + QUOTAS["fresh"]))


def test_interleaved_takes_turns() -> None:
    groups = [np.array([1, 2, 3]), np.array([9])]
    assert interleaved(groups).tolist() == [1, 9, 2, 3]
    assert interleaved([]).tolist() == []


def test_collaborative_scores_follow_people_with_a_like_history() -> None:
    """Two camps that never mix: a member's best unseen ping is their own camp's."""
    pairs = [(user, ping) for user in range(20) for ping in range(10) if ping // 5 == user % 2]
    pairs.remove((0, 4))
    factors = collaborative.fit(*(np.array(side) for side in zip(*pairs, strict=True)))
    scores = factors.scores(np.array([0, 1, 2, 3]))
    assert scores[4] > scores[5:].max() + 0.3
    assert scores.max() == 1


def test_collaborative_factors_survive_the_lake_and_are_the_same_every_time() -> None:
    rng = np.random.default_rng(1)
    user, ping = rng.integers(0, 40, 300), rng.integers(0, 30, 300)
    once, again = collaborative.fit(user, ping), collaborative.fit(user, ping)
    np.testing.assert_array_equal(once.vectors, again.vectors)
    read = collaborative.from_table(collaborative.to_table(once))
    np.testing.assert_array_equal(read.vectors, once.vectors)
    np.testing.assert_array_equal(read.degree, once.degree)


def test_too_few_people_have_no_factors() -> None:
    factors = collaborative.fit(np.array([0]), np.array([5]))
    assert np.isnan(factors.scores(np.array([0]))).all()
    empty = collaborative.from_table(collaborative.to_table(collaborative.fit(np.empty(0, int), np.empty(0, int))))
    assert len(empty.pings) == 0
