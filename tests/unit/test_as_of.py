"""Features as of a tick: what a snapshot holds, what training computes and what a recount finds are one value."""

import re
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
from pingfeed.core.features import PING, USER, Feature, PingBlock
from tests.prove import rounds
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, TICK_MS, LakeWorld, event_id, row

PINGS = {"p1": ("c1", ["cats"]), "p2": ("c1", ["dogs", "cats"]), "p3": ("c2", [])}
USERS = ["ada", "bob"]
COLUMNS = [feature.name for feature in PING]
WINDOWS = {"1h": 4, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
# Ticks that sit on the borders of windows and of days, as well as between them.
TICKS = sorted({FIRST + at for at in (1, 2, 4, 5, 95, 96, 97, 100, 192, 672, 673, 768, 2880, 2881, 2976)})
POINTS = {"like": 10_000, "comment": 15_000, "share": 20_000, "hide": -20_000, "report": -30_000, "impression": 0}


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    return _publish(LakeWorld(tmp_path))


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
        lean = {"points": 20.0, "watch": 50.0, "likes": 2.0, "shares": 1.0, "hides": 0.5, "follows": 0.2}
        return {name: (total[name] + by) / (viewed if name == "watch" else shown) for name, by in lean.items()}

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


MEASURES = {"like_rate": "likes", "share_rate": "shares", "hide_rate": "hides", "follow_rate": "follows"}


def _expected(count: Recount, tick: int, features: Sequence[Feature], **about: str) -> dict[str, float]:
    """What features over a window are, by their names: `creator_hide_rate_30d`, say, of the creator in `about`."""
    out = {}
    for feature in features:
        if found := re.fullmatch(r"(ping|creator|user)_(\w+)_(1h|1d|7d|30d)", feature.name):
            kind, named, window = found.groups()
            match = {f"{kind}_id": about[kind]}
            shown = count.sums(tick, WINDOWS[window], **match)["impressions"]
            rated = named != "impressions"
            out[feature.name] = count.rate(MEASURES.get(named, named), tick, window, **match) if rated else shown
    return out


def _sent(tick: int) -> Row:
    return row("like", tick * TICK_MS - 1, event_id=event_id(1, 1), user_id="ada", ping_id="p1")


def _publish(world: LakeWorld, pings: dict[str, tuple[str, list[str]]] = PINGS) -> LakeWorld:
    """These pings were published before FIRST."""
    for ping, (by, topics) in pings.items():
        made = row("ping_created", FIRST * TICK_MS - 1, ping_id=ping, creator_id=by, topics=topics, duration_ms=30_000)
        world.land([made])
    world.learn(FIRST)
    return world


# Sent, sent again within seven days of that, and again within seven days of the copy but not of the first.
@example([(FIRST + 1, [_sent(FIRST + 1)]), (FIRST + 192, [_sent(FIRST + 192)]), (FIRST + 768, [_sent(FIRST + 768)])])
@given(arrivals())
@settings(max_examples=rounds(2, 8))
def test_snapshot_value_equals_training_value_equals_a_recount(arrived: list[tuple[int, list[Row]]]) -> None:
    with TemporaryDirectory() as folder:
        world = _publish(LakeWorld(Path(folder)))
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
    for index, ping in enumerate(PINGS):
        found = dict(zip(COLUMNS, then[0].block.values[index].tolist(), strict=False))
        ages = {"ping_age_hours": (tick - FIRST) / 4, "ping_duration_s": 30.0}
        for name, value in (ages | _expected(count, tick, PING, ping=ping, creator=PINGS[ping][0])).items():
            assert found[name] == np.float32(value), f"{name} of {ping} at {tick - FIRST}"
    for index, user in enumerate(USERS):
        found = dict(zip([f.name for f in USER], then[1].values[then[1].row[index]].tolist(), strict=True))
        for name, value in _expected(count, tick, USER, user=user).items():
            assert found[name] == np.float16(np.float32(value)), f"{name} of {user} at {tick - FIRST}"
        of_creators = dict(_affinities(then[1], int(then[1].row[index]))[0])
        assert of_creators == _expected_affinity(count, world, user, tick)


def _expected_affinity(count: Recount, world: LakeWorld, user: str, tick: int) -> dict[int, float]:
    out = {}
    for creator in ("c1", "c2"):
        known = [e for k, e in count.events if tick - 30 * DAY < k <= tick and e["user_id"] == user]
        if any(_matches(event, "creator_id", creator) for event in known):
            total = count.sums(tick, 30 * DAY, user_id=user, creator_id=creator)
            strength = (total["points"] - total["impressions"] * count.prior(tick)["points"]) / (
                total["impressions"] + 5.0
            )
            out[world.number("creator", creator)] = float(np.float16(np.float32(strength)))
    return out


def _block(world: LakeWorld, ping: str, *ticks: int) -> PingBlock:
    """The features of one ping as of these ticks."""
    numbers = np.full(len(ticks), world.number("ping", ping), np.int64)
    return world.features(ticks[0], ticks[-1]).pings(numbers, np.array(ticks)).block


def test_an_event_at_a_tick_boundary_counts_from_the_run_that_loaded_it(world: LakeWorld) -> None:
    world.land([row("impression", (FIRST + 2) * TICK_MS, user_id="ada", ping_id="p1")])
    world.learn(FIRST + 2)  # it arrived in the tick's first millisecond and had landed when the run listed the files
    world.learn(FIRST + 3)
    ticks = (FIRST + 1, FIRST + 2, FIRST + 2 + DAY - 1, FIRST + 2 + DAY)
    shown = COLUMNS.index("ping_impressions_1d")
    assert [_block(world, "p1", tick).values[0, shown] for tick in ticks] == [0, 1, 1, 0]


def test_a_planted_leak_of_the_tick_itself_is_visible(world: LakeWorld) -> None:
    """A feature at tick b must not move with what b + 1 learns: the request's own outcome is there."""
    before = _block(world, "p1", FIRST + 5).values
    world.land([row("like", (FIRST + 5) * TICK_MS + 3, user_id="ada", ping_id="p1", request_id="r1")])
    world.learn(FIRST + 6)
    after = _block(world, "p1", FIRST + 5, FIRST + 6).values
    np.testing.assert_array_equal(after[:1], before)
    assert (after[1:] != before).any(), "the next tick must see it"


def test_smoothing_leans_on_earlier_days_only(world: LakeWorld) -> None:
    """A same-day prior would be a leak: what the whole day holds is not known in its morning."""
    before = _block(world, "p3", FIRST + DAY, FIRST + DAY + 50).values
    world.land([row("like", (FIRST + DAY + 10) * TICK_MS, user_id="bob", ping_id="p1") for _ in range(50)])
    world.learn(FIRST + DAY + 11)
    np.testing.assert_array_equal(_block(world, "p3", FIRST + DAY, FIRST + DAY + 50).values, before)
    assert (_block(world, "p3", FIRST + 2 * DAY).values != before[1:]).any()


def _edited(world: LakeWorld, **values: Any) -> PingBlock:
    """`p1` before and after an edit."""
    world.land([row("ping_created", (FIRST + 8) * TICK_MS, ping_id="p1", duration_ms=5_000, **values)])
    world.learn(FIRST + 9)
    return _block(world, "p1", FIRST + 8, FIRST + 9)


def test_an_edit_counts_from_its_tick_and_the_first_arrival_stays_the_age(world: LakeWorld) -> None:
    found = _edited(world, creator_id="c1", topics=["birds"])
    assert found.values[:, COLUMNS.index("ping_duration_s")].tolist() == [30, 5]
    assert found.values[:, COLUMNS.index("ping_age_hours")].tolist() == [2, 2.25]
    assert found.facets[:, 0, 0].tolist() == [world.number("value", f"topics={topic}") for topic in ("cats", "birds")]


def test_an_edit_that_names_another_creator_changes_nothing(world: LakeWorld) -> None:
    """A user's token may publish under any ping's id, and only as that user."""
    found = _edited(world, creator_id="eve", topics=["spam"])
    assert found.facets[1, 0, 0] == world.number("value", "topics=cats")
    assert found.values[1, COLUMNS.index("ping_duration_s")] == 30


def _likes(tick: int) -> list[Row]:
    """`p0` is liked by one user, `p1` by two, and so on."""
    return [row("like", tick * TICK_MS - 1, user_id=f"u{n}", ping_id=f"p{i}") for i in range(20) for n in range(i + 1)]


def test_an_affinity_beyond_the_packets_strongest_is_unknown(tmp_path: Path) -> None:
    world = _publish(LakeWorld(tmp_path), {f"p{i}": (f"c{i}", [f"t{i}"]) for i in range(20)})
    world.land(like | {"user_id": "ada"} for like in _likes(FIRST + 1))
    world.learn(FIRST + 1)
    users = world.features(FIRST + 1, FIRST + 1).users(pa.array(["ada"]), np.array([FIRST + 1]))
    kept = {int(key) & 0xFFFFFFFF for key in users.creator_keys}
    assert kept == {world.number("creator", f"c{i}") for i in range(4, 20)}


def test_evergreen_is_the_top_tenth_of_the_days_before(tmp_path: Path) -> None:
    world = _publish(LakeWorld(tmp_path), {f"p{i}": ("c", []) for i in range(20)})
    world.land(_likes(FIRST + 2))
    world.learn(FIRST + 2)
    world.learn(FIRST + DAY)
    source = world.features(FIRST, FIRST + DAY)
    best = {world.number("ping", "p18"), world.number("ping", "p19")}
    assert set(source.evergreen(FIRST_DAY + 1).tolist()) == best
    assert source.evergreen(FIRST_DAY).tolist() == []
