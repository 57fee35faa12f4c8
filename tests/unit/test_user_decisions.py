"""The batch side obeys what users decide: the greatest order key wins, and what is taken back comes back."""

import asyncio
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.engine import Engine
from batch.features.catalogue import ids_of
from batch.jobs import tick
from batch.jobs.nightly import etl
from batch.ops.decisions import relations_of_lake
from batch.ops.forget import forget_users
from batch.ticks import Ticks, day_name
from pingfeed.core.arrow import table_of_rows
from pingfeed.core.events import Row, order_key, to_rows
from pingfeed.core.packet import decode
from tests.prove import rounds
from tests.unit.import_world import NOW_MS, ImportWorld, csv_log
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, TICK_MS, LakeWorld, row

PINGS: Final = {f"p{i}": (f"c{i % 4}", f"t{i % 3}") for i in range(12)}
DECISIONS: Final = {
    "follows": ("follow", "unfollow", "c1", set[str]()),
    "hides": ("hide", "unhide", "p1", {"p1"}),
    "reports": ("report", "unhide", "p1", {"p1"}),
    "blocks": ("block", "unblock", "c1", {"p1", "p5", "p9"}),
    "mutes": ("mute", "unmute", "c1", {"p1", "p5", "p9"}),
    "mutes-a-topic": ("mute", "unmute", "t1", {"p1", "p4", "p7", "p10"}),
}
"""User -> what they do, what takes it back, the target, and the pings that must go."""


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    world = LakeWorld(tmp_path)
    world.land(catalogue(FIRST * TICK_MS - 1))
    world.learn(FIRST)
    return world


def catalogue(received_ms: int) -> list[Row]:
    pings = PINGS.items()
    return [row("ping_created", received_ms, ping_id=p, creator_id=c, topics=[t]) for p, (c, t) in pings]


def act(kind: str, target: str, user: str = "ada", **more: Any) -> dict[str, Any]:
    field = {"p": "ping_id", "c": "creator_id", "t": "topic"}[target[0]]
    return {"event_type": kind, "user_id": user, field: target} | more


def request(tick_after: int, *events: dict[str, Any], ago_ms: int = 0) -> list[Row]:
    """The rows of a request that arrived a second before a tick; its events happened `ago_ms` before."""
    received_ms = tick_after * TICK_MS - 1000
    rows, rejected = to_rows(events, received_ms, lambda _ms: str(row("x", 0)["event_id"]))
    assert not rejected
    return [one | {"timestamp_ms": received_ms - ago_ms} for one in rows]


def run(world: LakeWorld, at: int, *rows: Row) -> None:
    """A whole tick that reads these rows."""
    world.land(rows)
    world.at(at)
    tick.run(world.batch, at, everyone=True)


def candidates(world: LakeWorld, user: str) -> set[str]:
    """The pings in the user's packet."""

    async def read() -> bytes | None:
        store = world.batch.open_candidates()
        try:
            return await store.get(user, world.time.now_ms)
        finally:
            await store.close()

    data = asyncio.run(read())
    assert data is not None, f"{user} has no packet"
    numbers = decode(data, world.batch.features.digest).numbers.tolist()
    names = ids_of(world.catalogue(), "ping")
    return {names[number] for number in numbers}


def test_what_is_forbidden_is_no_candidate_and_comes_back_at_the_tick_after_it_is_taken_back(world: LakeWorld) -> None:
    for at, which in ((FIRST + 1, 0), (FIRST + 2, 1), (FIRST + 3, 0)):
        acts = [act(said[:2][which], said[2], user) for user, said in DECISIONS.items()]
        run(world, at, *request(at, *acts))
        found = {user: candidates(world, user) for user in DECISIONS}
        assert found == {user: PINGS.keys() - (said[3] if which == 0 else set()) for user, said in DECISIONS.items()}


def test_what_is_forbidden_stays_so_after_any_time(world: LakeWorld) -> None:
    world.land(request(FIRST + 1, *(act(said[0], said[2], user) for user, said in DECISIONS.items())))
    world.learn(FIRST + 1)
    world.learn(FIRST + 40 * DAY)
    for user in DECISIONS:
        assert list(world.decided(FIRST + 40 * DAY, user).values()) == [True], user


@pytest.mark.parametrize("days_later", [0, 2])
@pytest.mark.parametrize("takes_back_last", [True, False])
def test_the_later_time_wins_whatever_arrives_last(world: LakeWorld, days_later: int, takes_back_last: bool) -> None:
    """An act that waited on a phone undoes nothing that happened after it."""
    first, second = FIRST + 1, FIRST + 1 + days_later * DAY
    newer = [act(said[:2][takes_back_last], said[2], user) for user, said in DECISIONS.items()]
    older = [act(said[:2][not takes_back_last], said[2], user) for user, said in DECISIONS.items()]
    world.land(request(first, *newer, ago_ms=60_000))
    if days_later:
        world.learn(first)
    late = request(second, *older, ago_ms=3_600_000 + days_later * DAY * TICK_MS)
    world.land(one | {"received_ms": one["received_ms"] + 1} for one in late)
    world.learn(second)
    for user in DECISIONS:
        assert list(world.decided(second, user).values()) == [not takes_back_last], user


def test_of_one_request_the_last_act_wins(world: LakeWorld) -> None:
    events: list[dict[str, Any]] = []
    for user, (does, undoes, target, _) in DECISIONS.items():
        events.append(act(does, target, user, event_id="ffffffff-ffff-4fff-8fff-ffffffffffff"))
        events.append(act(undoes, target, user, event_id="00000000-0000-4000-8000-000000000000"))
    edits = [act("ping_created", "p0", creator_id="c0", topics=[topic]) for topic in ("old", "new")]
    ids = ("ffffffff-ffff-4fff-8fff-fffffffffffe", "00000000-0000-4000-8000-000000000001")
    edits = [one | {"event_id": event_id} for one, event_id in zip(edits, ids, strict=True)]
    world.land(request(FIRST + 1, *events, *edits))
    world.learn(FIRST + 1)
    for user in DECISIONS:
        assert list(world.decided(FIRST + 1, user).values()) == [False], user
    p0 = np.array([world.number("ping", "p0")]), np.array([FIRST + 1])
    assert world.features(FIRST + 1, FIRST + 1).pings(*p0).block.facets[0, 0, 0] == world.number("value", "topics=new")


ACTS: Final = st.fixed_dictionaries(
    {
        "event_type": st.sampled_from([kind for said in DECISIONS.values() for kind in said[:2]]),
        "timestamp_ms": st.integers(1, 4),
        "received_ms": st.integers(1, 4),
        "seq": st.sampled_from([None, 0, 1]),
        "event_id": st.sampled_from("abc"),
        "known_tick": st.integers(0, 5),
    }
)


@cache
def _engine() -> Engine:
    return Engine(1)


@given(st.lists(ACTS, max_size=12, unique_by=order_key), st.integers(0, 5))
@settings(max_examples=rounds(15, 200))
def test_the_greatest_key_counts_however_acts_and_days_fall(acts: list[Row], day: int) -> None:
    """State at the start of a day plus the buckets since: what a model of three lines says."""
    targets = {"ping_id": "p1", "creator_id": "c1"}
    about = {kind: "ping_id" if said[2][0] == "p" else "creator_id" for said in DECISIONS.values() for kind in said[:2]}
    rows = [act | {"user_id": "ada", about[act["event_type"]]: targets[about[act["event_type"]]]} for act in acts]
    numbers = {"kind": ["ping", "creator"], "id": ["p1", "c1"], "number": [1, 2]}
    pings = pa.table({name: pa.array([], pa.int64()) for name in ("ping", "creator", "created_tick")})
    engine, params = _engine(), Ticks(TICK_MS).params()
    events = table_of_rows(rows).append_column("known_tick", pa.array([act["known_tick"] for act in acts], pa.int64()))
    found = engine.run("acts", params, events=events, numbers=pa.table(numbers), pings=pings)
    buckets = engine.run("user_relation_buckets", params, acts=found)
    state = buckets.slice(0, 0)
    for part in (buckets.filter(pc.field("tick") < day), buckets.filter(pc.field("tick") >= day)):
        state = engine.run("user_relations", params, state=state, user_relation_buckets=part)
    expected: dict[str, bool] = {}
    for one in sorted(rows, key=order_key):
        does = one["event_type"].replace("report", "hide")
        expected[does.removeprefix("un")] = not does.startswith("un")
    assert {one["kind"]: bool(one["active"]) for one in state.to_pylist()} == expected


def test_an_act_that_is_known_later_changes_no_earlier_state(world: LakeWorld) -> None:
    world.land(request(FIRST + 1, act("block", "c1")))
    world.learn(FIRST + 1)
    world.land(request(FIRST + 2, act("unblock", "c1")))
    world.learn(FIRST + 2)
    assert world.decided(FIRST + 1) == {("block", "c1"): True}
    assert world.decided(FIRST + 2) == {("block", "c1"): False}


def test_more_and_less_teach_the_affinities_and_count_nowhere_else(world: LakeWorld) -> None:
    targets = ("c1", "t1", "p3")
    world.land(request(FIRST + 1, *(act(kind, one, kind) for kind in ("more", "less") for one in targets)))
    world.learn(FIRST + 1)
    users = world.features(FIRST + 1, FIRST + 1).users(pa.array(["more", "less"]), np.full(2, FIRST + 1))
    creators = {world.number("creator", name) for name in ("c1", PINGS["p3"][0])}
    topics = {world.number("value", f"topics={name}") for name in ("t1", PINGS["p3"][1])}
    for keys, values, expected in (
        (users.creator_keys, users.creator_values, creators),
        (users.facet_keys, users.facet_values, topics),
    ):
        for place, sign in zip(users.row.tolist(), (1, -1), strict=True):
            mine = (keys >> np.uint64(32)) == place
            assert set((keys[mine] & np.uint64(0xFFFFFFFF)).tolist()) == expected
            assert (np.sign(values[mine]) == sign).all()
    for name in ("ping_buckets", "creator_buckets", "facet_value_buckets", "user_ping_buckets"):
        assert world.batch.tables.aggregate(name, FIRST_DAY, FIRST_DAY).num_rows == 0, name


def test_an_import_of_history_ends_in_the_exclusions(tmp_path: Path) -> None:
    world = ImportWorld(tmp_path)
    world.time.now_ms = NOW_MS
    now = world.batch.ticks.of(NOW_MS)
    world.land(catalogue((now - 5 * DAY) * TICK_MS))
    at = NOW_MS // 1000 - 50 * 86_400
    lines = [f"ann,{ping},,{kind},{at}" for ping, kind in (("p1", "hide"), ("p2", "report"), ("p5", "hide"))]
    lines += [f"ann,,c0,block,{at}", f"ann,p5,,unhide,{at}", f"ann,p3,,impression,{NOW_MS // 1000 - 86_400}"]
    form = csv_log("user_id=user,ping_id=item,creator_id=creator,event_type=action,timestamp=at")
    assert world.csv(lines, form, "user,item,creator,action,at").rejected.count == 0
    etl(world.batch, now)
    tick.run(world.batch, now, everyone=True)
    assert candidates(world, "ann") == PINGS.keys() - {"p1", "p2", "p3", "p0", "p4", "p8"}


def folded(rows: Iterable[Row]) -> dict[tuple[str, str, str], Any]:
    """The last act on every target and the last value of every field, with their keys."""
    out: dict[tuple[str, str, str], Any] = {}
    for one in sorted(rows, key=order_key):
        does = one["event_type"].replace("report", "hide")
        target = one.get("creator_id") or one.get("topic") or one.get("ping_id")
        user = one.get("user_id", "")
        told = [(name, "", one[name]) for name in ("country", "interests") if name in one]
        acts = told or ([(does.removeprefix("un"), target, does)] if target else [])
        out |= {(user, kind, about): (what, order_key(one)) for kind, about, what in acts}
    return out


def test_the_lake_knows_what_a_lost_store_of_signals_held(world: LakeWorld) -> None:
    """With whole keys, from a day's state, buckets and unread files, without users who were deleted."""
    profile = {"event_type": "user_updated", "user_id": "ada", "country": "DE", "interests": ["t1", "t2"]}
    before = [act(said[0], said[2], user) for user, said in DECISIONS.items()]
    after = [act(said[1], said[2], user) for user, said in DECISIONS.items() if user != "blocks"]
    early = request(FIRST + 1, profile, *before, act("block", "c1", "zoe"))
    late = request(FIRST + DAY + 1, *after, {"event_type": "user_updated", "user_id": "ada", "country": "FR"})
    unread = request(FIRST + DAY + 2, act("unmute", "t2"), act("ping_deleted", "p7"), act("like", "p1"))
    for at, rows in ((FIRST + 1, early), (FIRST + DAY + 1, late[1:])):
        world.land(rows)
        world.learn(at)
    forget_users(world.batch, ["zoe"])
    world.land([late[0], *unread])
    expected = [one for one in [*early, *late, *unread[:2]] if one["user_id"] != "zoe"]
    assert folded(relations_of_lake(world.batch)) == folded(expected)


def test_relations_of_an_earlier_version_are_made_anew(world: LakeWorld) -> None:
    """Its tables have no order keys; its clean events have."""
    world.land(request(FIRST + 1, act("unfollow", "c1"), act("block", "c2"), act("hide", "p1")))
    world.learn(FIRST + 1)
    lake = world.batch.tables.lake
    for path in [path for path in lake.list("aggregates") if "/user_relation" in path]:
        lake.write(path.replace("/user_relation_buckets/", "/relation_buckets/"), lake.read(path))
        lake.delete(path)
    lake.write(f"aggregates/day={day_name(FIRST_DAY)}/blocked/whole-1.parquet", b"what it said")
    world.learn(FIRST + DAY + 1)
    expected = {("follow", "c1"): False, ("block", "c2"): True, ("hide", "p1"): True}
    assert world.decided(FIRST + DAY + 1) == expected
    assert not [path for path in lake.list("aggregates") if "/relation_buckets/" in path or "/blocked/" in path]
