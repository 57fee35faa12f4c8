"""What a run keeps, stamps and counts: the ledger's rules, duplicates, crashes, amendments."""

from pathlib import Path
from typing import Any

import pytest

from batch.engine import sql_digest
from batch.features import collaborative
from batch.features.catalogue import ids_of
from batch.jobs.load_events import EventLoader
from batch.ticks import day_name
from pingfeed.core.features import SQL_DIGEST
from tests.unit.dying_lake import deaths
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, TICK_MS, LakeWorld, event_id, like, row


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    return LakeWorld(tmp_path)


def test_the_digest_that_the_feed_carries_is_that_of_the_sql() -> None:
    assert sql_digest() == SQL_DIGEST, "run `make digest`"


def test_events_are_stamped_with_the_tick_whose_run_first_lists_their_file(world: LakeWorld) -> None:
    world.land([like(FIRST + 1)])
    world.learn(FIRST + 3)
    world.learn(FIRST + 4)
    assert world.known() == [(event_id(0), FIRST + 3)]


def test_history_is_stamped_with_the_tick_after_its_arrival(world: LakeWorld) -> None:
    world.land([like(FIRST + 1), like(FIRST + 7, 1)], history=True)
    world.learn(FIRST + 50, everything=True)
    assert world.known() == sorted([(event_id(0), FIRST + 1), (event_id(1), FIRST + 7)])


def test_a_duplicate_is_dropped_within_seven_days_and_first_known_wins(world: LakeWorld) -> None:
    world.land([like(FIRST + 1), like(FIRST + 1)])
    world.learn(FIRST + 1)
    world.land([like(FIRST + 2)])
    world.learn(FIRST + 2)
    late = FIRST + 1 + 7 * DAY
    world.land([like(late)])
    world.learn(late)
    assert world.known() == [(event_id(0), FIRST + 1), (event_id(0), late)]


def test_the_same_event_id_of_two_users_is_two_events(world: LakeWorld) -> None:
    world.land([like(FIRST + 1), like(FIRST + 1, user="bob")])
    world.learn(FIRST + 1)
    assert len(world.known()) == 2


def test_a_tick_lists_two_days_and_the_nightly_job_finds_files_in_older_partitions(
    world: LakeWorld,
) -> None:
    world.learn(FIRST + 4 * DAY)
    world.land([like(FIRST + DAY)])
    world.learn(FIRST + 4 * DAY + 1)
    assert world.known() == []
    world.learn(FIRST + 4 * DAY + 2, everything=True)
    assert world.known() == [(event_id(0), FIRST + 4 * DAY + 2)]


def _everything(world: LakeWorld) -> dict[str, list[dict[str, Any]]]:
    """Every table that a run adds to, rows in a fixed order."""
    tables, days = world.batch.tables, (FIRST_DAY - 1, FIRST_DAY + 3)
    found = {name: tables.aggregate(name, *days) for name in ("ping_buckets", "user_buckets", "user_creator_buckets")}
    found |= {name: tables.catalogue(name) for name in ("versions", "facets", "numbers")}
    found["clean"] = tables.clean(*days, columns=["event_id", "known_tick"])
    return {name: sorted(table.to_pylist(), key=repr) for name, table in found.items()}


def _fill(world: LakeWorld) -> None:
    world.land(
        [row("ping_created", FIRST * TICK_MS, event_id=event_id("p"), ping_id="p1", creator_id="c", topics=["x"])]
    )
    world.land([like(FIRST + 1, 1), like(FIRST + 1, 2, user="bob")])


def test_a_run_killed_at_any_write_leaves_nothing_behind_for_the_next(tmp_path: Path) -> None:
    calm = LakeWorld(tmp_path / "calm")
    _fill(calm)
    calm.learn(FIRST + 1)
    expected = _everything(calm)
    for attempt in deaths(least=10, most=60):
        world = LakeWorld(tmp_path / f"died-{attempt.changes}")
        _fill(world)
        loader = EventLoader(world.batch)
        with attempt.in_lake(world.batch.tables):
            loader.run(FIRST + 1, 0)
        if attempt.died:
            world.learn(FIRST + 1)
        assert _everything(world) == expected, f"died at change {attempt.changes}"


def test_loading_again_changes_nothing(world: LakeWorld) -> None:
    _fill(world)
    world.learn(FIRST + 1, everything=True)
    before = _everything(world)
    world.learn(FIRST + 1, everything=True)
    assert world.learn(FIRST + 2).files == []
    assert _everything(world) == before


def test_what_lands_after_a_tick_has_run_counts_from_the_next(world: LakeWorld) -> None:
    """The tick's snapshot may be out: it must not change behind the feed's back."""
    world.learn(FIRST + 1)
    world.land([like(FIRST + 1)])
    world.learn(FIRST + 1, everything=True)
    assert world.known() == [(event_id(0), FIRST + 2)]


def test_numbers_are_never_reused_and_never_change(world: LakeWorld) -> None:
    _fill(world)
    world.learn(FIRST + 1)
    first = world.batch.tables.catalogue("numbers").to_pylist()
    world.land([row("ping_created", (FIRST + 2) * TICK_MS - 1, ping_id="p0", creator_id="a", topics=["x", "w"])])
    world.learn(FIRST + 2)
    both = world.batch.tables.catalogue("numbers").to_pylist()
    assert both[: len(first)] == first
    numbers = [(entry["kind"], entry["number"]) for entry in both]
    assert len(numbers) == len(set(numbers))


def test_older_history_makes_later_states_anew(world: LakeWorld) -> None:
    _fill(world)
    world.learn(FIRST + 1)
    world.learn(FIRST + DAY)
    before = world.batch.tables.state("lifetime", FIRST_DAY + 1).to_pylist()
    world.land([like(FIRST + 3, 9)], history=True)
    world.learn(FIRST + DAY + 1, everything=True)
    after = world.batch.tables.state("lifetime", FIRST_DAY + 1).to_pylist()
    assert [one["points"] for one in before] == [20_000]
    assert [one["points"] for one in after] == [30_000]


def test_compaction_keeps_every_row_and_survives_a_crash_between_write_and_cleanup(world: LakeWorld) -> None:
    _fill(world)
    world.learn(FIRST + 1)
    world.land([like(FIRST + 2, 5)])
    world.learn(FIRST + 2)
    before = _everything(world)
    tables, lake = world.batch.tables, world.batch.tables.lake
    runs = {path: lake.read(path) for path in lake.list("aggregates") if "/run-" in path}
    tables.compact_day(FIRST_DAY, (FIRST + 2) * 100)
    assert _everything(world) == before
    assert not [path for path in lake.list(f"clean/day={day_name(FIRST_DAY)}") if "/run-" in path]
    for path, data in runs.items():  # as if the process had died before it removed them
        lake.write(path, data)
    assert _everything(world) == before
    tables.compact_day(FIRST_DAY, (FIRST + 2) * 100)
    assert not [path for path in lake.list("aggregates") if "/run-" in path]
    world.learn(FIRST + 3)
    assert _everything(world) == before


def test_a_value_named_twice_and_two_versions_in_one_request_count_once(world: LakeWorld) -> None:
    made = {"ping_id": "p1", "creator_id": "c", "topics": ["x", "x"], "facets": {"topics": ["x"]}}
    world.land([row("ping_created", FIRST * TICK_MS, **made), row("ping_created", FIRST * TICK_MS, **made)])
    world.land([like(FIRST + 1)])
    world.learn(FIRST + 1)
    buckets = world.batch.tables.aggregate("facet_value_buckets", FIRST_DAY, FIRST_DAY).to_pylist()
    assert [bucket["points"] for bucket in buckets] == [10_000]


def test_a_block_outlasts_an_unfollow_and_a_follow(world: LakeWorld) -> None:
    about = {"user_id": "ada", "creator_id": "c"}
    kinds = ("follow", "block", "unfollow")
    world.land([row(kind, FIRST * TICK_MS + at, **about) for at, kind in enumerate(kinds)])
    world.learn(FIRST + 1)
    world.land([row("follow", (FIRST + 2) * TICK_MS - 1, **about)])
    world.learn(FIRST + 2)
    assert world.decided(FIRST + 2) == {("block", "c"): True, ("follow", "c"): True}


def test_history_drops_what_was_derived_without_it(world: LakeWorld) -> None:
    world.night(FIRST + 3 * DAY)
    assert len(collaborative.factors_of(world.batch, FIRST_DAY + 3).pings) == 0
    likes = [like(FIRST + 1, 50 + n, user=f"u{n % 9}", ping=f"p{n % 8}") for n in range(72)]
    world.land(likes, history=True)
    world.night(FIRST + 3 * DAY)
    assert len(collaborative.factors_of(world.batch, FIRST_DAY + 3).pings) == 8


def test_the_days_factors_know_nothing_of_the_day(world: LakeWorld) -> None:
    """A same-day collaborative score would have seen what it is to predict."""
    world.land([like(FIRST + 1, n, user=f"u{n % 9}", ping=f"p{n % 8}") for n in range(72)])
    world.learn(FIRST + 1)
    assert len(collaborative.factors_of(world.batch, FIRST_DAY).pings) == 0
    world.learn(FIRST + DAY)
    assert len(collaborative.factors_of(world.batch, FIRST_DAY + 1).pings) == 8


def test_facets_and_attributes_are_kept_with_their_version(world: LakeWorld) -> None:
    made = row("ping_created", FIRST * TICK_MS, ping_id="p1", creator_id="c", topics=["x", "y"])
    plain = row("ping_created", FIRST * TICK_MS, ping_id="p2", creator_id="c")
    world.land([plain, made | {"facets": {"tags": ["a"], "actors": ["b", "c"]}, "attributes": {"words": 12.5}}])
    world.learn(FIRST + 1)
    facets = world.batch.tables.catalogue("facets")
    values = ids_of(world.catalogue(), "value")
    assert set(facets["ping"].to_pylist()) == {world.number("ping", "p1")}
    names = [values[number] for number in facets["value"].to_pylist()]
    assert sorted(names) == ["actors=b", "actors=c", "tags=a", "topics=x", "topics=y"]
    assert world.batch.tables.catalogue("attributes").to_pylist()[0]["number"] == 12.5
