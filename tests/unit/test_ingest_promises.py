"""What a 202 promises: durable and applied; duplicates, a full spool and stores that are down."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from ingest_api.dedupe import RecentEvents, key_of
from pingfeed.core.errors import Unavailable
from pingfeed.core.events import Row
from pingfeed.core.signals import seen_key
from tests.conformance.samples import eventually
from tests.unit.ingest_world import NOW_MS, World, ingest_world

LIKE = {"event_type": "like", "user_id": "u1", "ping_id": "p1", "country": "DE"}
FOLLOW = {"event_type": "follow", "user_id": "u1", "creator_id": "c1"}
HIDE = {"event_type": "hide", "user_id": "u1", "ping_id": "p9"}
ID = "0193f5a0-7b1c-7c1e-9d56-0f3f6a1b2c3d"
OTHER_ID = "0193f5a0-7b1c-7c1e-9d56-0f3f6a1b2c3e"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with ingest_world(tmp_path) as opened:
        yield opened


async def test_signals_are_applied_before_the_202_is_sent(world: World) -> None:
    await world.send(LIKE, FOLLOW, HIDE, {"event_type": "ping_deleted", "ping_id": "gone"})
    signals = await world.signals.read("u1", NOW_MS)
    assert signals.state.following() == {"c1"}
    assert signals.state.hides == {"p9"}
    assert set(signals.state.session.seen) == {seen_key("p1")}
    assert signals.deleted == {"gone"}
    assert [(e.ping_id, e.country, e.event_type) for e in world.trending.counted.values()] == [("p1", "DE", "like")]


async def test_events_without_signals_touch_no_store(world: World) -> None:
    world.signals.down = world.trending.down = "down"
    answer = await world.send({"event_type": "ping_created", "ping_id": "p", "creator_id": "c"})
    assert answer.status_code == 202
    assert await world.metric("pingfeed_signal_failures_total") == 0


async def test_a_duplicate_is_acknowledged_and_not_stored_again(world: World) -> None:
    assert (await world.send(LIKE | {"event_id": ID})).json()["accepted"] == 1
    again = await world.send(LIKE | {"event_id": ID.upper()})
    assert (again.status_code, again.json()) == (202, {"accepted": 0, "duplicates": 1, "rejected": []})
    beside = await world.send(LIKE | {"event_id": ID}, {"event_type": "like"})
    assert (beside.status_code, beside.json()["duplicates"], len(beside.json()["rejected"])) == (202, 1, 1)
    assert len(world.spooled()) == 1


@pytest.mark.parametrize(
    ("other", "accepted"),
    [({"event_id": ID}, 1), ({"event_id": OTHER_ID}, 2), ({"event_id": ID, "user_id": "u2"}, 2)],
    ids=["a repeat", "another id", "another user"],
)
async def test_events_of_a_request_are_distinct_by_user_and_id(
    world: World, other: dict[str, str], accepted: int
) -> None:
    answer = await world.send(LIKE | {"event_id": ID}, LIKE | other)
    assert answer.json() == {"accepted": accepted, "duplicates": 2 - accepted, "rejected": []}
    assert len(world.spooled()) == accepted


async def test_a_full_spool_is_a_503_and_the_retry_is_no_duplicate(tmp_path: Path) -> None:
    async with ingest_world(tmp_path, max_spool_bytes=2000, flush_seconds=0.01) as world:
        world.sink.down = "the sink is down"
        sent = 0
        while (answer := await world.send(LIKE)).status_code == 202:
            sent += 1
        assert 0 < sent < 50
        event = LIKE | {"event_id": ID}
        answer = await world.send(event)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert not any(row["event_id"] == ID for row in world.spooled())
        ready = await world.client.get("/readyz")
        assert "events" in ready.json()["degraded"]
        world.sink.down = ""
        await eventually(lambda: len(world.sink.rows) == sent)
        await eventually(lambda: not world.spooled())
        assert (await world.send(event)).json()["accepted"] == 1


async def test_rejected_events_of_a_request_that_was_not_stored_are_not_kept(tmp_path: Path) -> None:
    """The client sends the whole request again: they would count twice."""
    async with ingest_world(tmp_path, max_spool_bytes=10) as world:
        assert (await world.send(LIKE, {"event_type": "like"})).status_code == 503
        assert await world.metric('pingfeed_events_rejected_total{code="missing_field"}') == 0
    assert world.rejected_lines() == []


async def test_no_event_is_lost_while_signals_are_down_and_they_catch_up(tmp_path: Path) -> None:
    async with ingest_world(tmp_path, flush_seconds=0.01) as world:
        world.signals.down = "signals are down"
        assert (await world.send(FOLLOW)).status_code == 202
        ready = await world.client.get("/readyz")
        assert (ready.status_code, ready.json()["degraded"]) == (200, ["signals"])
        await eventually(lambda: len(world.sink.rows) == 1)
        assert len(world.spooled()) == 1, "delivered, but kept until its signals are applied"
        world.signals.down = ""
        await eventually(lambda: bool(world.signals.applied))
        await eventually(lambda: not world.spooled())
        assert await world.metric("pingfeed_signal_failures_total") >= 1


async def test_a_failed_trending_update_is_counted_and_fails_nothing(world: World) -> None:
    world.trending.down = "trending is down"
    assert (await world.send(LIKE)).status_code == 202
    assert [act.kind for act in world.signals.applied] == ["seen", "like"]
    assert await world.metric("pingfeed_trending_failures_total") == 1
    assert await world.metric("pingfeed_signal_failures_total") == 0
    assert (await world.client.get("/readyz")).json()["degraded"] == ["trending"]


async def test_spooled_signals_of_an_earlier_process_are_applied_before_serving(tmp_path: Path) -> None:
    async with ingest_world(tmp_path) as first:
        first.sink.down = "the sink is down"
        await first.send(FOLLOW)
        # The process "dies" here: the final flush finds no sink, the row stays in the spool.
    async with ingest_world(tmp_path) as second:
        assert (await second.signals.read("u1", NOW_MS)).state.following() == {"c1"}


def row(number: int) -> Row:
    return {"user_id": "u", "event_id": str(number)}


def fresh_among(recent: RecentEvents, numbers: Iterable[int]) -> list[str]:
    return [one["event_id"] for one in recent.new_of([row(n) for n in numbers])[0]]


def test_the_window_holds_its_limit_and_at_most_twice_that() -> None:
    recent = RecentEvents(limit=10)
    for n in range(1000):
        recent.remember([key_of(row(n))])
        assert fresh_among(recent, range(max(0, n - 9), n + 1)) == []
    assert len(fresh_among(recent, range(1000))) >= 980


def test_catalogue_events_without_a_user_have_a_key_too() -> None:
    assert key_of({"event_id": "x"}) == "x"


async def test_an_event_in_concurrent_requests_is_stored_once_and_one_without_an_id_each_time(world: World) -> None:
    event = LIKE | {"event_id": ID}
    answers = await asyncio.gather(*(world.send(event, LIKE) for _ in range(5)))
    counts = sorted((answer.json()["accepted"], answer.json()["duplicates"]) for answer in answers)
    assert counts == [(1, 1)] * 4 + [(2, 0)]
    assert [row["event_id"] for row in world.spooled()].count(ID) == 1
    assert len({row["event_id"] for row in world.spooled()}) == 6


async def test_a_duplicate_of_a_request_that_failed_is_accepted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    append, calls = world.spool.append, 0

    async def fails_once(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if calls == 1:
            raise Unavailable("not now")
        return await append(*arguments, **options)

    monkeypatch.setattr(world.spool, "append", fails_once)
    answers = await asyncio.gather(*(world.send(LIKE | {"event_id": ID}) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [202, 503]
    assert [row["event_id"] for row in world.spooled()] == [ID]
