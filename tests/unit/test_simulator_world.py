"""The world: reproducible, and true affinity depends on what it should depend on."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from pingfeed.core.clock import DAY_MS, HOUR_MS
from pingfeed.core.errors import FormatError, InvalidInput, NotFound
from simulator.catalogue import LIVE_EVERY_MS
from simulator.people import PLACES, activity_at
from simulator.world import TICK_MS, Spec, World, encode, load, ping_id, ping_number

UNTIL_MS = 1_800_000_000_000 // TICK_MS * TICK_MS


def small(seed: int = 7, **options: int) -> World:
    return World.build(Spec(seed=seed, users=60, pings=200, days=2, until_ms=UNTIL_MS, **options))


def same(left: object, right: object) -> bool:
    return all(np.array_equal(getattr(left, f.name), getattr(right, f.name)) for f in fields(left))  # type: ignore[arg-type]


def test_a_seed_determines_the_world() -> None:
    one, again, other = small(), small(), small(seed=8)
    for part in ("users", "creators", "pings"):
        assert same(getattr(one, part), getattr(again, part))
        assert not same(getattr(one, part), getattr(other, part))


def test_pings_are_numbered_by_creation_and_many_precede_the_first_day() -> None:
    world = small()
    created = world.pings.created_ms
    assert (np.diff(created) >= 0).all()
    assert created[-1] < world.spec.until_ms
    assert 0.3 < (created < world.spec.start_ms).mean() < 0.5


def test_every_ping_has_one_to_three_topics() -> None:
    counts = (small().pings.topics > 0).sum(axis=1)
    assert set(counts.tolist()) == {1, 2, 3}


def test_live_pings_do_not_depend_on_when_they_are_drawn() -> None:
    world = small()
    soon, late = world.at(UNTIL_MS + 3 * LIVE_EVERY_MS), world.at(UNTIL_MS + 3 * DAY_MS)
    assert len(soon.pings) == 203
    assert same(soon.pings, late.pings.rows(slice(0, 203)))
    assert same(world.pings, world.at(UNTIL_MS - 1).pings)
    assert soon.at(UNTIL_MS + 3 * DAY_MS).next_ping_ms == UNTIL_MS + 3 * DAY_MS + LIVE_EVERY_MS


def test_affinity_is_between_0_and_1_and_broadcasts() -> None:
    world = small()
    affinity = world.true_affinity(3, np.arange(200), UNTIL_MS)
    assert affinity.shape == (200,)
    assert ((affinity > 0) & (affinity < 1)).all()
    assert world.true_affinity(3, 17, UNTIL_MS) == affinity[17]


def test_preference_outweighs_quality() -> None:
    """Otherwise one list would be best for every user, and there would be nothing to personalise."""
    world = small()
    affinity = np.stack([world.true_affinity(u, np.arange(200), UNTIL_MS) for u in range(60)])
    own = np.sort(affinity, axis=1)[:, -10:].mean()
    shared = np.sort(affinity.mean(axis=0))[-10:].mean()
    assert own > shared + 0.2


def test_topics_explain_part_of_affinity() -> None:
    world = small()
    appeal = np.stack([world.appeal(np.array(u), np.arange(200), np.array(UNTIL_MS)) for u in range(60)])
    interest = world.users.interest @ world.pings.topics.T
    personal = appeal - appeal.mean(axis=0)
    explained = np.corrcoef(personal.ravel(), (interest - interest.mean(axis=0)).ravel())[0, 1] ** 2
    assert 0.15 < explained < 0.6


def test_pings_lose_appeal_unless_evergreen() -> None:
    world = small()
    everything = np.arange(200)
    fresh = world.true_affinity(0, everything, world.pings.created_ms)
    old = world.true_affinity(0, everything, world.pings.created_ms + 20 * DAY_MS)
    evergreen = world.pings.evergreen > 0
    assert 0 < evergreen.sum() < 60
    assert (fresh[evergreen] == old[evergreen]).all()
    assert (fresh[~evergreen] > old[~evergreen]).all()


def test_each_place_has_its_own_daily_rhythm() -> None:
    day = UNTIL_MS // DAY_MS * DAY_MS + np.arange(24) * HOUR_MS
    busy = activity_at(day)
    assert busy.shape == (24, len(PLACES))
    assert busy.mean(axis=0) == pytest.approx(np.ones(len(PLACES)))
    quietest = dict(zip([p.country for p in PLACES], busy.argmin(axis=0).tolist(), strict=True))
    assert quietest["GB"] == 3
    assert quietest["US"] == 9


def test_ids_map_to_numbers_and_foreign_ids_to_none() -> None:
    assert ping_number(ping_id(42)) == 42
    assert [ping_number(text) for text in ("cat", "ping-", "ping-x", "pong-1", "ping-²")] == [None] * 5


def test_parameters_survive_a_file(tmp_path: Path) -> None:
    spec = small().spec
    (tmp_path / "world.json").write_bytes(encode(spec))
    assert load(tmp_path) == spec


def test_a_missing_or_invalid_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no .*world\.json"):
        load(tmp_path)
    (tmp_path / "world.json").write_text("[]")
    with pytest.raises(FormatError, match="does not describe a world"):
        load(tmp_path)


@pytest.mark.parametrize("wrong", [{"users": 0}, {"pings": 3}, {"days": 0}, {"seed": -1}, {"until_ms": 5}])
def test_an_impossible_world_is_rejected(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        Spec(**{"until_ms": UNTIL_MS, **wrong})
