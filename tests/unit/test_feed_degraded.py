"""What is served while a part is down, late, damaged or missing: always a 200, and `degraded` says what it lacks."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from pingfeed.core.errors import FormatError
from pingfeed.core.features import Float32
from pingfeed.core.packet import decode
from pingfeed.core.ranker import FallbackRanker, Float64
from tests.prove import rounds
from tests.unit.feed_world import (
    FEATURES,
    FULL_PACKET,
    LISTS,
    World,
    catalogue,
    feed_world,
    packet_bytes,
    ping_ids,
    shuffled,
    until,
)

FALLBACK = [f"p{i:03d}" for i in range(60, 70)]
"""The feed of an unknown user in refill order: the overall trending list comes first."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with feed_world(tmp_path, catalogue(200), LISTS, packet=FULL_PACKET) as world:
        yield world


@pytest.mark.parametrize("fault", [{"down": "out of order"}, {"hangs": True}])
@pytest.mark.parametrize("part", ["signals", "candidates"])
async def test_a_store_that_is_down_or_late_degrades_the_feed_and_is_counted(
    tmp_path: Path, part: str, fault: dict[str, Any]
) -> None:
    async with feed_world(tmp_path, catalogue(200), LISTS, FEED_BUDGET_MS="50", packet=FULL_PACKET) as world:
        vars(getattr(world, part)).update(fault)
        feed = await world.feed(explain=True)
        assert feed["degraded"] == [part, "model"]
        assert len(feed["items"]) == 10
        assert await world.metric(f'pingfeed_feed_degraded_total{{part="{part}"}}') == 1


async def test_signals_that_take_no_writes_degrade_feeds_and_readyz_until_they_do(world: World) -> None:
    await world.act("hide", "p000")
    world.signals.read_only = "is a replica"
    for limit in (10, 11):
        feed = await world.feed(limit=limit)
        assert feed["degraded"] == ["signals", "model"]
        assert "p000" not in ping_ids(feed)
    world.time.waited_s = 1.2
    assert (await world.feed())["degraded"] == ["signals", "model", "overload"]
    assert "signals" in (await world.client.get("/readyz")).json()["degraded"]
    world.signals.read_only, world.time.waited_s = "", None
    assert (await world.feed())["degraded"] == ["model"]
    assert "signals" not in (await world.client.get("/readyz")).json()["degraded"]


async def test_a_late_read_is_cancelled(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(200), LISTS, FEED_BUDGET_MS="50") as world:
        world.candidates.hangs = True
        await world.feed()

        async def cancelled() -> bool:
            return world.candidates.cancelled == 1

        await until(cancelled)


async def test_without_signals_their_real_time_features_are_unknown(world: World) -> None:
    await world.act("follow", "c1")
    world.signals.down = "out of order"
    features = (await world.feed(explain=True))["items"][0]["explain"]["features"]
    assert [features[name] for name in ("just_followed", "session_creator", "session_topic")] == [None] * 3


async def test_without_signals_later_pages_do_not_repeat(tmp_path: Path) -> None:
    """Without signals the pings served before are unknown, so that many top ranks are skipped."""
    async with feed_world(tmp_path, catalogue(300, creators=300), LISTS, packet=FULL_PACKET) as world:
        world.signals.down = "out of order"
        shown = [ping for page in await world.pages(10) for ping in ping_ids(page)]
        assert len(shown) == len(set(shown)) == 100


async def test_without_candidates_the_user_is_served_like_an_unknown_user(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(200, creators=200), LISTS, packet=FULL_PACKET) as world:
        world.candidates.down = "out of order"
        assert set(ping_ids(await world.feed())) == set(ping_ids(await world.feed("unknown")))


@pytest.mark.parametrize("packet", [b"", b"garbage", FULL_PACKET[:-1]])
async def test_an_unreadable_packet_counts_as_missing(world: World, packet: bytes) -> None:
    world.give("u", packet)
    feed = await world.feed()
    assert feed["degraded"] == ["candidates", "model"]
    assert len(feed["items"]) == 10


async def test_a_packet_of_another_digest_keeps_its_candidates_but_not_its_user_part(world: World) -> None:
    world.give("u", packet_bytes(range(100), digest="ff66554433221100"))
    feed = await world.feed(explain=True)
    assert feed["degraded"] == ["candidates", "model"]
    assert {item["reason"] for item in feed["items"]} == {"similar"}
    assert feed["items"][0]["explain"]["features"]["user_points_30d"] is None
    assert feed["items"][0]["explain"]["features"]["retrieval_score"] is not None
    assert (await world.served_row(feed["request_id"])).get("packet_tick") is None


async def test_an_expired_packet_counts_as_an_unknown_user(world: World) -> None:
    world.candidates.packets["u"] = FULL_PACKET, world.time.now_ms
    feed = await world.feed()
    assert feed["degraded"] == ["model"]
    assert "similar" not in {item["reason"] for item in feed["items"]}


async def test_without_a_snapshot_the_feed_is_empty(tmp_path: Path) -> None:
    async with feed_world(tmp_path, packet=FULL_PACKET) as world:
        for user_id in ("u", "unknown"):
            feed = await world.feed(user_id, explain=True)
            expected = {"items": [], "degraded": ["snapshot", "model"], "tick_ms": None, "next_cursor": None}
            assert feed.items() >= expected.items()
        assert world.spooled() == []


async def test_past_the_deadline_the_feed_is_in_packet_order_without_hidden_pings(world: World) -> None:
    order = shuffled(100)
    world.give("u", packet_bytes(order))
    await world.act("hide", f"p{order[0]:03d}")

    def pass_time() -> None:
        world.time.seconds += 5

    world.candidates.before = pass_time
    feed = await world.feed(explain=True)
    assert feed["degraded"] == ["model", "deadline"]
    assert ping_ids(feed) == [f"p{i:03d}" for i in order[1:11]]
    assert feed["items"][0]["explain"]["score"] is None
    assert feed["items"][0]["explain"]["features"] == {}
    row = await world.served_row(feed["request_id"])
    assert set(row["served_realtime"]) == {None}
    assert row["served_pings"] == ping_ids(feed)


BROKEN = FormatError("the model is broken")


@pytest.mark.parametrize(
    ("function", "result"),
    [
        ("pingfeed.core.ranker.FallbackRanker.predict", BROKEN),
        ("pingfeed.core.ranker.FallbackRanker.predict", np.nan),
        ("pingfeed.core.ranker.FallbackRanker.predict", np.inf),
        ("feed_api.stages.featurize.assemble", ValueError("could not broadcast input array")),
    ],
)
async def test_a_failing_ranker_or_feature_leaves_packet_order(
    world: World, monkeypatch: pytest.MonkeyPatch, function: str, result: float | Exception
) -> None:
    def fail(_self: object, rows: Float32, *_: object) -> Float64:
        if isinstance(result, Exception):
            raise result
        return np.full(len(rows), result)

    monkeypatch.setattr(function, fail)
    order = shuffled(100)
    world.give("u", packet_bytes(order))
    feed = await world.feed(explain=True)
    assert feed["degraded"] == ["model"]
    assert ping_ids(feed) == [f"p{i:03d}" for i in order[:10]]
    assert all(item["explain"]["score"] is None and not item["explain"]["boosts"] for item in feed["items"])


async def test_without_packet_and_ranker_trending_comes_first_then_evergreen_then_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FallbackRanker, "predict", Mock(side_effect=BROKEN))
    lists = {"trending": range(60, 65), "evergreen": range(100, 103), "fresh": range(140, 180)}
    async with feed_world(tmp_path, catalogue(200), lists) as world:
        assert ping_ids(await world.feed()) == [f"p{i:03d}" for i in (*range(60, 65), *range(100, 103), 140, 141)]


async def test_with_every_store_down_a_feed_is_served(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(200, creators=200), LISTS, packet=FULL_PACKET) as world:
        world.signals.down = world.candidates.down = world.trending.down = world.artifacts.down = "out of order"
        feed = await world.feed()
        assert feed["degraded"] == ["signals", "candidates", "model"]
        assert ping_ids(feed) == FALLBACK


async def test_failing_trending_leaves_the_snapshots_list(world: World) -> None:
    world.trending.down = "out of order"
    feed = await world.feed("unknown", explain=True)
    assert feed["degraded"] == ["model"]
    assert feed["items"][0]["reason"] == "trending"
    await until(lambda: world.metric("pingfeed_feed_trending_failures_total"))


HARMS: list[Callable[[random.Random, bytes], bytes]] = [
    lambda rng, _: rng.randbytes(rng.randrange(2000)),
    lambda rng, good: good[: rng.randrange(len(good))],
    lambda rng, good: good + rng.randbytes(rng.randrange(1, 50)),
    lambda rng, good: bytes(byte ^ (rng.random() < 0.01) << rng.randrange(8) for byte in good),
    lambda rng, good: good[:4] + rng.randbytes(len(good) - 4),
    lambda rng, good: good[:26] + rng.randbytes(len(good) - 26),
    lambda rng, good: good[:26] + b"\xff" * (len(good) - 26),
]


async def test_any_bytes_in_the_candidate_store_are_a_200_and_unreadable_ones_degrade(world: World) -> None:
    rng, good, degraded = random.Random(5), FULL_PACKET, Counter[bool]()
    for number in range(rounds(140, 5000)):
        data = HARMS[number % len(HARMS)](rng, good)
        world.candidates.packets["u"] = data, 1 << 50
        feed = await world.feed(explain=number % 3 == 0)
        assert len(feed["items"]) == 10, data.hex()
        try:
            decode(data, FEATURES.digest)
        except FormatError:
            assert "candidates" in feed["degraded"], data.hex()
        degraded["candidates" in feed["degraded"]] += 1
    assert min(degraded.values()) >= number // 10
