"""Features as of a tick: what a snapshot holds, what training computes and what a recount finds are one value."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pingfeed.core.events import Row
from pingfeed.core.features import PING, USER
from tests.prove import rounds
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, TICK_MS, LakeWorld, event_id, row

PINGS = {"p1": ("c1", ["cats"]), "p2": ("c1", ["dogs", "cats"]), "p3": ("c2", [])}
USERS = ["ada", "bob"]
WINDOWS = {"1h": 4, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
# Ticks that sit on the borders of windows and of days, as well as between them.
TICKS = sorted({FIRST + at for at in (1, 2, 4, 5, 95, 96, 97, 100, 192, 672, 673, 768, 2880, 2881, 2976)})
POINTS = {"like": 10_000, "comment": 15_000, "share": 20_000, "hide": -20_000, "report": -30_000, "impression": 0}


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    """The pings were published before FIRST."""
    found = LakeWorld(tmp_path)
    found.land(_created())
    found.learn(FIRST)
    return found


@st.composite
def arrivals(draw: Callable[[Any], Any]) -> list[tuple[int, list[Row]]]:
    """Events by the tick whose run learns of them, some of them late by days, some sent twice."""
    ticks = draw(st.lists(st.sampled_from(TICKS), min_size=1, max_size=5, unique=True))
    out: list[tuple[int, list[Row]]] = []
    sent: list[Row] = []
    for tick in sorted(ticks):
        landed: list[Row] = []
        for index in range(draw(st.integers(1, 8))):
            if sent and draw(st.integers(0, 4)) == 0:
                again = dict(draw(st.sampled_from(sent)))
                landed.append(again | {"received_ms": tick * TICK_MS - 1})
                continue
            landed.append(_event(draw, tick, index))
        sent += landed
        out.append((tick, landed))
    return out


def _event(draw: Callable[[Any], Any], tick: int, index: int) -> Row:
    kind = draw(st.sampled_from(["impression", "view", "like", "comment", "share", "hide", "report", "follow"]))
    user, ping = draw(st.sampled_from(USERS)), draw(st.sampled_from(list(PINGS)))
    late_ms = draw(st.sampled_from([1, 5_000, 20 * 3_600_000]))
    return row(
        kind,
        tick * TICK_MS - late_ms,
        event_id=event_id(tick, index),
        user_id=user,
        ping_id=ping,
        creator_id=PINGS[ping][0] if kind == "follow" else None,
        watch_time_ratio=draw(st.sampled_from([0.0, 0.3333, 0.75, 1.0, 2.5])) if kind == "view" else None,
        country=draw(st.sampled_from([None, "US", "DE"])),
        language=draw(st.sampled_from([None, "en", "de-AT", "deu"])),
    )


class Recount:
    """The same features by brute force: every event, every time, no state."""

    def __init__(self, arrived: Sequence[tuple[int, Row]]) -> None:
        self.events: list[tuple[int, Row]] = []
        seen: dict[tuple[str, str], int] = {}
        for tick, event in sorted(arrived, key=lambda one: one[0]):
            key = (event.get("user_id", ""), event["event_id"])
            # Seven days from the one that was kept: a copy that was left out does not keep the next one out.
            if key not in seen or seen[key] <= tick - 7 * DAY:
                seen[key] = tick
                self.events.append((tick, event))

    def sums(self, tick: int, window: int, **match: str) -> dict[str, float]:
        out = dict.fromkeys(("impressions", "views", "watch", "likes", "shares", "hides", "follows", "points"), 0)
        for known, event in self.events:
            if tick - window < known <= tick and all(_matches(event, name, value) for name, value in match.items()):
                for name, value in _measures(event).items():
                    out[name] += value
        return {name: float(value) for name, value in out.items()} | {
            "points": out["points"] / 10_000.0,
            "watch": out["watch"] / 10_000.0,
        }

    def prior(self, tick: int) -> dict[str, float]:
        """Rates of the 30 days before the tick's own day."""
        day = tick // DAY
        total = self.sums((day * DAY) - 1, 30 * DAY, ping_id="any")
        shown, viewed = total["impressions"] + 100.0, total["views"] + 100.0
        return {
            "points": (total["points"] + 20.0) / shown,
            "watch": (total["watch"] + 50.0) / viewed,
            "likes": (total["likes"] + 2.0) / shown,
            "shares": (total["shares"] + 1.0) / shown,
            "hides": (total["hides"] + 0.5) / shown,
            "follows": (total["follows"] + 0.2) / shown,
        }

    def rate(self, measure: str, tick: int, window: str, **match: str) -> float:
        total = self.sums(tick, WINDOWS[window], **match)
        base, weight = ("views", 10.0) if measure == "watch" else ("impressions", 20.0)
        return (total[measure] + weight * self.prior(tick)[measure]) / (total[base] + weight)


def _matches(event: Row, name: str, value: str) -> bool:
    if value == "any":
        return name in event
    if name == "creator_id":
        made_by = event.get("creator_id") or PINGS.get(event.get("ping_id", ""), (None,))[0]
        return bool(made_by == value)
    return bool(event.get(name) == value)


def _measures(event: Row) -> dict[str, int]:
    kind = event["event_type"]
    watch = int(np.floor(event.get("watch_time_ratio", 0.0) * 10_000))
    points = {"view": min(watch, 10_000), "follow": 30_000} | POINTS
    return {
        "impressions": kind == "impression",
        "views": kind == "view",
        "watch": watch,
        "likes": kind == "like",
        "shares": kind in ("comment", "share"),
        "hides": kind in ("hide", "report"),
        "follows": kind == "follow",
        "points": points[kind],
    }


def _expected_ping(count: Recount, ping: str, tick: int) -> dict[str, float]:
    creator = PINGS[ping][0]
    return {
        **{f"ping_points_{w}": count.rate("points", tick, w, ping_id=ping) for w in WINDOWS},
        "ping_watch_1d": count.rate("watch", tick, "1d", ping_id=ping),
        "ping_watch_30d": count.rate("watch", tick, "30d", ping_id=ping),
        "ping_like_rate_7d": count.rate("likes", tick, "7d", ping_id=ping),
        "ping_share_rate_7d": count.rate("shares", tick, "7d", ping_id=ping),
        "ping_hide_rate_30d": count.rate("hides", tick, "30d", ping_id=ping),
        **{
            f"ping_impressions_{w}": count.sums(tick, WINDOWS[w], ping_id=ping)["impressions"]
            for w in ("1h", "1d", "30d")
        },
        "ping_age_hours": (tick - FIRST) / 4,
        "ping_duration_s": 30.0,
        "creator_points_7d": count.rate("points", tick, "7d", creator_id=creator),
        "creator_points_30d": count.rate("points", tick, "30d", creator_id=creator),
        "creator_watch_30d": count.rate("watch", tick, "30d", creator_id=creator),
        "creator_hide_rate_30d": count.rate("hides", tick, "30d", creator_id=creator),
        "creator_follow_rate_30d": count.rate("follows", tick, "30d", creator_id=creator),
        "creator_impressions_30d": count.sums(tick, WINDOWS["30d"], creator_id=creator)["impressions"],
    }


def _expected_user(count: Recount, user: str, tick: int) -> dict[str, float]:
    return {
        "user_points_30d": count.rate("points", tick, "30d", user_id=user),
        "user_watch_30d": count.rate("watch", tick, "30d", user_id=user),
        "user_like_rate_30d": count.rate("likes", tick, "30d", user_id=user),
        "user_hide_rate_30d": count.rate("hides", tick, "30d", user_id=user),
        "user_impressions_1d": count.sums(tick, DAY, user_id=user)["impressions"],
        "user_impressions_30d": count.sums(tick, 30 * DAY, user_id=user)["impressions"],
    }


def _sent(tick: int) -> Row:
    return row("like", tick * TICK_MS - 1, event_id=event_id(1, 1), user_id="ada", ping_id="p1")


def _created() -> list[Row]:
    return [
        row("ping_created", FIRST * TICK_MS - 1, ping_id=ping, creator_id=creator, topics=topics, duration_ms=30_000)
        for ping, (creator, topics) in PINGS.items()
    ]


# Sent, sent again within seven days of that, and again within seven days of the copy but not of the first.
@example([(FIRST + 1, [_sent(FIRST + 1)]), (FIRST + 192, [_sent(FIRST + 192)]), (FIRST + 768, [_sent(FIRST + 768)])])
@given(arrivals())
@settings(max_examples=rounds(2, 8))
def test_snapshot_value_equals_training_value_equals_a_recount(arrived: list[tuple[int, list[Row]]]) -> None:
    with TemporaryDirectory() as folder:
        world = LakeWorld(Path(folder))
        world.land(_created())
        world.learn(FIRST)
        at_the_time: dict[int, tuple[Any, Any]] = {}
        asked = sorted({tick for tick, _ in arrived} | {tick + 4 for tick, _ in arrived})
        by_tick = dict(arrived)
        for tick in asked:
            world.land(by_tick.get(tick, []))
            world.learn(tick)
            source = world.features(tick, tick)
            at_the_time[tick] = _probe(world, source, [tick])
        later = _probe(world, world.features(asked[0], asked[-1]), asked)
        count = Recount([(tick, event) for tick, landed in arrived for event in landed])
        for index, tick in enumerate(asked):
            _assert_same_blocks(at_the_time[tick], later, index)
            _assert_recount(world, count, at_the_time[tick], tick)


def _probe(world: LakeWorld, source: Any, ticks: list[int]) -> tuple[Any, Any]:
    numbers = [world.number("ping", ping) for ping in PINGS]
    at = np.repeat(np.array(ticks, np.int64), len(PINGS))
    pings = source.pings(np.tile(np.array(numbers, np.int64), len(ticks)), at)
    users = source.users(pa.array(USERS * len(ticks)), np.repeat(np.array(ticks, np.int64), len(USERS)))
    return pings, users


def _assert_same_blocks(then: tuple[Any, Any], later: tuple[Any, Any], index: int) -> None:
    """What was computed at the tick is what the whole range computes afterwards, bit for bit."""
    span = slice(index * len(PINGS), (index + 1) * len(PINGS))
    np.testing.assert_array_equal(then[0].block.values, later[0].block.values[span])
    np.testing.assert_array_equal(then[0].block.facets, later[0].block.facets[span])
    for which in range(len(USERS)):
        mine, theirs = then[1].row[which], later[1].row[index * len(USERS) + which]
        for name in ("values", "country", "language"):
            np.testing.assert_array_equal(getattr(then[1], name)[mine], getattr(later[1], name)[theirs])
        assert _affinities(then[1], int(mine)) == _affinities(later[1], int(theirs))


def _affinities(users: Any, at: int) -> list[list[tuple[int, float]]]:
    """The user's creator affinities, then their facet values'."""
    out = []
    for keys, values in ((users.creator_keys, users.creator_values), (users.facet_keys, users.facet_values)):
        mine = (keys >> np.uint64(32)) == at
        out.append(list(zip((keys[mine] & np.uint64(0xFFFFFFFF)).tolist(), values[mine].tolist(), strict=True)))
    return out


def _assert_recount(world: LakeWorld, count: Recount, then: tuple[Any, Any], tick: int) -> None:
    names = [feature.name for feature in PING]
    for index, ping in enumerate(PINGS):
        found = dict(zip(names, then[0].block.values[index].tolist(), strict=False))
        for name, value in _expected_ping(count, ping, tick).items():
            assert found[name] == np.float32(value), f"{name} of {ping} at {tick - FIRST}"
    for index, user in enumerate(USERS):
        found = dict(zip([f.name for f in USER], then[1].values[then[1].row[index]].tolist(), strict=True))
        for name, value in _expected_user(count, user, tick).items():
            assert found[name] == np.float16(np.float32(value)), f"{name} of {user} at {tick - FIRST}"
        of_creators = dict(_affinities(then[1], int(then[1].row[index]))[0])
        assert of_creators == _expected_affinity(count, world, user, tick)


def _creators(world: LakeWorld) -> dict[int, str]:
    return {world.number("creator", name): name for name in ("c1", "c2")}


def _expected_affinity(count: Recount, world: LakeWorld, user: str, tick: int) -> dict[int, float]:
    out = {}
    for number, creator in _creators(world).items():
        known = [e for k, e in count.events if tick - 30 * DAY < k <= tick and e["user_id"] == user]
        if any(_matches(event, "creator_id", creator) for event in known):
            total = count.sums(tick, 30 * DAY, user_id=user, creator_id=creator)
            strength = (total["points"] - total["impressions"] * count.prior(tick)["points"]) / (
                total["impressions"] + 5.0
            )
            out[number] = float(np.float16(np.float32(strength)))
    return out


def test_an_event_at_a_tick_boundary_counts_from_the_run_that_loaded_it(world: LakeWorld) -> None:
    world.land([row("impression", (FIRST + 2) * TICK_MS, user_id="ada", ping_id="p1")])
    world.learn(FIRST + 2)  # it arrived in the tick's first millisecond and had landed when the run listed the files
    world.learn(FIRST + 3)
    shown = [f.name for f in PING].index("ping_impressions_1d")
    number = np.array([world.number("ping", "p1")], np.int64)
    values = [
        world.features(tick, tick).pings(number, np.array([tick])).block.values[0, shown]
        for tick in (FIRST + 1, FIRST + 2, FIRST + 2 + DAY - 1, FIRST + 2 + DAY)
    ]
    assert values == [0, 1, 1, 0]


def test_a_planted_leak_of_the_tick_itself_is_visible(world: LakeWorld) -> None:
    """A feature at tick b must not move with what b + 1 learns: the request's own outcome is there."""
    number = np.array([world.number("ping", "p1")], np.int64)
    before = world.features(FIRST + 5, FIRST + 5).pings(number, np.array([FIRST + 5])).block.values
    liked = row("like", (FIRST + 5) * TICK_MS + 3, user_id="ada", ping_id="p1", request_id="r1")
    world.land([liked])
    world.learn(FIRST + 6)
    source = world.features(FIRST + 5, FIRST + 6)
    np.testing.assert_array_equal(source.pings(number, np.array([FIRST + 5])).block.values, before)
    assert (source.pings(number, np.array([FIRST + 6])).block.values != before).any(), "the next tick must see it"


def test_smoothing_leans_on_earlier_days_only(world: LakeWorld) -> None:
    """A same-day prior would be a leak: what the whole day holds is not known in its morning."""
    number = np.array([world.number("ping", "p3")], np.int64)
    probe = np.array([FIRST + DAY + 50])
    before = world.features(FIRST + DAY, FIRST + DAY + 50).pings(number, probe).block.values
    world.land([row("like", (FIRST + DAY + 10) * TICK_MS, user_id="bob", ping_id="p1") for _ in range(50)])
    world.learn(FIRST + DAY + 11)
    np.testing.assert_array_equal(
        world.features(FIRST + DAY, FIRST + DAY + 50).pings(number, probe).block.values, before
    )
    tomorrow = np.array([FIRST + 2 * DAY])
    assert (world.features(FIRST + 2 * DAY, FIRST + 2 * DAY).pings(number, tomorrow).block.values != before).any()


def test_an_edit_counts_from_its_tick_and_the_first_arrival_stays_the_age(world: LakeWorld) -> None:
    edit = row(
        "ping_created", (FIRST + 8) * TICK_MS, ping_id="p1", creator_id="c1", topics=["birds"], duration_ms=5_000
    )
    world.land([edit])
    world.learn(FIRST + 9)
    source = world.features(FIRST + 8, FIRST + 9)
    number = world.number("ping", "p1")
    found = source.pings(np.array([number, number], np.int64), np.array([FIRST + 8, FIRST + 9]))
    columns = {f.name: i for i, f in enumerate(PING)}
    assert found.block.values[:, columns["ping_duration_s"]].tolist() == [30, 5]
    assert found.block.values[:, columns["ping_age_hours"]].tolist() == [2, 2.25]
    assert found.block.facets[0, 0, 0] == world.number("value", "topics=cats")
    assert found.block.facets[1, 0, 0] == world.number("value", "topics=birds")


def test_an_edit_that_names_another_creator_changes_nothing(world: LakeWorld) -> None:
    """A user's token may publish under any ping's id, and only as that user."""
    world.land([row("ping_created", (FIRST + 8) * TICK_MS, ping_id="p1", creator_id="eve", topics=["spam"])])
    world.learn(FIRST + 9)
    found = world.features(FIRST + 8, FIRST + 9).pings(
        np.array([world.number("ping", "p1")] * 2, np.int64), np.array([FIRST + 8, FIRST + 9])
    )
    assert found.block.facets[1, 0, 0] == world.number("value", "topics=cats")
    assert found.block.values[1, [f.name for f in PING].index("ping_duration_s")] == 30


def test_an_affinity_beyond_the_packets_strongest_is_unknown(tmp_path: Path) -> None:
    world = LakeWorld(tmp_path)
    made = [
        row("ping_created", FIRST * TICK_MS - 1, ping_id=f"p{i}", creator_id=f"c{i}", topics=[f"t{i}"])
        for i in range(20)
    ]
    world.land(made)
    world.learn(FIRST)
    likes = [
        row("like", (FIRST + 1) * TICK_MS - 1, user_id="ada", ping_id=f"p{i}") for i in range(20) for _ in range(i + 1)
    ]
    world.land(likes)
    world.learn(FIRST + 1)
    users = world.features(FIRST + 1, FIRST + 1).users(pa.array(["ada"]), np.array([FIRST + 1]))
    kept = {int(key) & 0xFFFFFFFF for key in users.creator_keys}
    assert kept == {world.number("creator", f"c{i}") for i in range(4, 20)}


def test_evergreen_is_the_top_tenth_of_the_days_before(tmp_path: Path) -> None:
    world = LakeWorld(tmp_path)
    world.land([row("ping_created", FIRST * TICK_MS - 1, ping_id=f"p{i}", creator_id="c") for i in range(20)])
    world.learn(FIRST)
    likes = [
        row("like", (FIRST + 1) * TICK_MS, user_id=f"u{n}", ping_id=f"p{i}") for i in range(20) for n in range(i + 1)
    ]
    world.land(likes)
    world.learn(FIRST + 2)
    world.learn(FIRST + DAY)
    source = world.features(FIRST, FIRST + DAY)
    best = {world.number("ping", "p18"), world.number("ping", "p19")}
    assert set(source.evergreen(FIRST_DAY + 1).tolist()) == best
    assert source.evergreen(FIRST_DAY).tolist() == []
