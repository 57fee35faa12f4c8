"""Behaviour follows true affinity, from the top of the list, with noise."""

import numpy as np
import pytest

from pingfeed.core.events import to_rows
from simulator.behave import KINDS, UNKNOWN_PING, Reactions, events_of, numbers_of, react
from simulator.world import TICK_MS, Spec, World, ping_id

UNTIL_MS = 1_800_000_000_000 // TICK_MS * TICK_MS
LISTS = 3000


@pytest.fixture(scope="module")
def world() -> World:
    return World.build(Spec(users=200, pings=300, days=2, until_ms=UNTIL_MS))


def play(world: World, seed: int = 1, *, follows: bool = False) -> tuple[np.ndarray, np.ndarray, Reactions]:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 200, LISTS)
    pings = rng.integers(0, 300, (LISTS, 10))
    return user, pings, react(world, user, pings, np.full(LISTS, UNTIL_MS), np.full((LISTS, 10), follows), rng)


def done(reactions: Reactions, kind: str) -> np.ndarray:
    return np.asarray(reactions.done[KINDS.index(kind)])


def test_the_same_seed_gives_the_same_behaviour(world: World) -> None:
    first, second, other = (play(world, seed)[2] for seed in (1, 1, 2))
    assert np.array_equal(first.done, second.done)
    assert np.array_equal(first.watch, second.watch)
    assert not np.array_equal(first.done, other.done)


def test_watch_time_follows_true_affinity(world: World) -> None:
    user, pings, reactions = play(world)
    truth = world.true_affinity(user[:, None], pings, UNTIL_MS)
    viewed = done(reactions, "view")
    assert np.corrcoef(truth[viewed], reactions.watch[viewed])[0, 1] > 0.6
    assert truth[done(reactions, "like")].mean() > truth[viewed].mean() > truth.mean()
    assert truth[done(reactions, "hide")].mean() < truth.mean()


def test_lower_slots_get_fewer_impressions_and_views(world: World) -> None:
    reactions = play(world)[2]
    seen = done(reactions, "impression").mean(axis=0)
    assert seen[0] == 1
    assert (np.diff(seen) < 0).all()
    assert seen[9] < 0.8
    seen_at, viewed_at = done(reactions, "impression").sum(axis=0), done(reactions, "view").sum(axis=0)
    attention = viewed_at / seen_at
    assert attention[:3].mean() > 1.15 * attention[-3:].mean()


def test_users_act_only_on_pings_they_saw(world: World) -> None:
    reactions = play(world)[2]
    seen = done(reactions, "impression")
    for kind in KINDS[1:]:
        assert not (done(reactions, kind) & ~seen).any()
    for kind in ("like", "comment", "share", "follow"):
        assert not (done(reactions, kind) & ~done(reactions, "view")).any()
    assert ((reactions.watch > 0) == done(reactions, "view")).all()


def test_hides_are_rare_and_reports_rarer(world: World) -> None:
    reactions = play(world)[2]
    seen = done(reactions, "impression").sum()
    hides, reports = done(reactions, "hide").sum() / seen, done(reactions, "report").sum() / seen
    assert 0.002 < hides < 0.03
    assert 0 < reports < hides / 3


def test_a_creator_is_not_followed_twice(world: World) -> None:
    assert not done(play(world, follows=True)[2], "follow").any()


def test_a_ping_of_another_world_gets_only_an_impression(world: World) -> None:
    rng = np.random.default_rng(1)
    foreign, user = np.full((500, 3), UNKNOWN_PING), rng.integers(0, 200, 500)
    reactions = react(world, user, foreign, np.full(500, UNTIL_MS), np.zeros((500, 3), np.bool_), rng)
    assert done(reactions, "impression")[:, 0].all()
    assert not reactions.done[1:].any()


def test_reactions_follow_the_order_of_the_list(world: World) -> None:
    reactions = play(world)[2]
    assert (np.diff(reactions.after_ms, axis=1) >= 0).all()
    assert (reactions.after_ms >= 0).all()
    assert (reactions.spent_ms >= 0).all()


def test_a_view_event_has_its_ratio_and_a_follow_event_its_creator(world: World) -> None:
    items = [ping_id(5), "foreign", ping_id(7)]
    pings = numbers_of(world, items)
    assert pings.tolist() == [5, UNKNOWN_PING, 7]
    acts = np.zeros((len(KINDS), 3), np.bool_)
    acts[0] = True
    acts[KINDS.index("view"), 0] = acts[KINDS.index("follow"), 2] = True
    events = events_of(world, 3, items, pings, "r-1", acts, np.array([0.75, 0, 0]))
    assert [(e["event_type"], e["ping_id"]) for e in events] == [
        ("impression", items[0]),
        ("view", items[0]),
        ("impression", items[1]),
        ("impression", items[2]),
        ("follow", items[2]),
    ]
    assert events[1]["watch_time_ratio"] == 0.75
    assert events[4]["creator_id"].startswith("creator-")
    assert [e.get("position") for e in events] == [0, 0, 1, 2, None]
    rows, refusals = to_rows(events, UNTIL_MS, lambda now_ms: "0" * 8 + "-0000-0000-0000-" + "0" * 12)
    assert not refusals
    assert all(row["request_id"] == "r-1" for row in rows)
