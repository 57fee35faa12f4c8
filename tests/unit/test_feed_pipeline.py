"""What a feed shows: every rule of the pipeline, over HTTP, with the stores in memory."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed_api.stages.featurize import overlap
from pingfeed.core.clock import HOUR_MS
from pingfeed.core.features import NO_VALUE, SOURCES, UInt32
from pingfeed.core.signals import MAX_SERVED, SERVED_MS, ActKind
from tests.unit.feed_world import (
    FEATURES,
    FULL_PACKET,
    LISTS,
    NOW_MS,
    TICK,
    TICK_MS,
    Ping,
    World,
    catalogue,
    creator_id,
    feed_world,
    packet_bytes,
    ping_ids,
    shuffled,
    snapshot_bytes,
    user_part,
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with feed_world(tmp_path, catalogue(400), LISTS, packet=FULL_PACKET) as world:
        yield world


async def test_an_unknown_user_gets_a_feed_that_is_not_degraded(world: World) -> None:
    feed = await world.feed("never-seen-before")
    expected = {"degraded": ["model"], "user_id": "never-seen-before", "tick_ms": TICK * TICK_MS, "model_id": None}
    assert feed.items() >= expected.items()
    assert [item["position"] for item in feed["items"]] == list(range(10))
    assert {item["reason"] for item in feed["items"]} <= {"trending", "evergreen", "new"}


async def test_candidates_are_ranked_not_shown_in_packet_order(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(200, creators=200), LISTS, packet=packet_bytes(shuffled(100))) as world:
        assert ping_ids(await world.feed()) == [f"p{i:03d}" for i in range(10)]


@pytest.mark.parametrize(("kind", "reason"), [("hide", "hidden"), ("seen", "seen")])
async def test_hidden_and_seen_pings_are_gone_in_the_very_next_feed(world: World, kind: ActKind, reason: str) -> None:
    first = ping_ids(await world.feed())[:3]
    await world.act(kind, *first)
    after = await world.feed(explain=True)
    assert not set(first) & set(ping_ids(after))
    assert [r["ping_id"] for r in after["removed"] if r["reason"] == reason] == first


async def test_a_blocked_creator_is_gone_in_the_very_next_feed(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(200, creators=4), LISTS, packet=FULL_PACKET) as world:
        assert creator_id(1) in {item["creator_id"] for item in (await world.feed())["items"]}
        await world.act("block", creator_id(1))
        after = await world.feed(limit=50, explain=True)
        assert creator_id(1) not in {item["creator_id"] for item in after["items"]}
        assert {r["reason"] for r in after["removed"]} == {"blocked"}


async def test_a_deleted_ping_is_gone_for_all_users_in_the_very_next_feed(world: World) -> None:
    first = ping_ids(await world.feed())
    await world.act("deleted", first[0], user_id="")
    after = await world.feed(explain=True)
    assert {"ping_id": first[0], "reason": "deleted"} in after["removed"]
    assert first[0] not in ping_ids(after) + ping_ids(await world.feed("unknown"))


async def test_users_do_not_get_their_own_pings(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(200, creators=2), LISTS) as world:
        world.give(creator_id(0), packet_bytes(range(100)))
        feed = await world.feed(creator_id(0), limit=50, explain=True)
        assert {item["creator_id"] for item in feed["items"]} == {creator_id(1)}
        assert {r["reason"] for r in feed["removed"]} == {"own"}


async def test_a_follow_boosts_the_creators_fresh_pings_in_the_very_next_feed(tmp_path: Path) -> None:
    pings = [*catalogue(190), *(Ping(f"new{i}", creator=99, points=1.0) for i in range(10))]
    async with feed_world(tmp_path, pings, LISTS, packet=FULL_PACKET) as world:
        assert creator_id(99) not in {item["creator_id"] for item in (await world.feed())["items"]}
        await world.act("follow", creator_id(99))
        first = (await world.feed(explain=True))["items"][0]
        assert (first["ping_id"], first["reason"]) == ("new9", "followed_creator"), "the newest of theirs"
        assert first["explain"]["features"]["just_followed"] == 1
        assert first["explain"]["boosts"]["just_followed"] > 0
        await world.act("unfollow", creator_id(99))
        assert creator_id(99) not in {item["creator_id"] for item in (await world.feed(limit=50))["items"]}


async def test_many_likes_bring_a_ping_into_feeds_of_its_country_without_a_batch_run(world: World) -> None:
    world.give("v", packet_bytes(range(100), user=user_part(country="FR")))
    assert "p300" not in ping_ids(await world.feed())
    await world.likes("p300", users=30, country="DE")
    feed = await world.feed_until(lambda feed: "p300" in ping_ids(feed), explain=True)
    item = feed["items"][ping_ids(feed).index("p300")]
    assert item["reason"] == "trending"
    assert item["explain"]["features"]["trending_now"] == 1
    assert item["explain"]["sources"] == ["trending"]
    assert "p300" not in ping_ids(await world.feed("v"))


async def test_one_user_alone_does_not_make_a_ping_trend(world: World) -> None:
    await world.likes("p300", users=1)
    await world.feed_until(
        lambda feed: feed["items"][0]["explain"]["features"]["trending_now"] is not None, explain=True
    )
    assert "p300" not in ping_ids(await world.feed(limit=50))


async def test_engagements_of_this_session_are_features(tmp_path: Path) -> None:
    pings = [Ping(f"p{i:03d}", creator=i % 50, topics=(i % 7,), points=1 - i / 1000) for i in range(200)]
    async with feed_world(tmp_path, pings, LISTS, packet=FULL_PACKET) as world:

        async def of_session(ping_id: str) -> tuple[int, int]:
            feed = await world.feed(explain=True, limit=50)
            features = feed["items"][ping_ids(feed).index(ping_id)]["explain"]["features"]
            return features["session_creator"], features["session_topic"]

        await world.act("engaged", "p150", "p157")  # creators 0 and 7, topic 3 both
        assert await of_session("p000") == (1, 0)
        assert await of_session("p003") == (0, 2)
        world.time.now_ms += HOUR_MS
        assert await of_session("p003") == (0, 0)


@pytest.mark.parametrize(
    ("count", "lists", "packet", "seen", "sizes"),
    [
        pytest.param(300, LISTS, range(100), 0, [10] * 10, id="a full packet"),
        pytest.param(1000, LISTS, range(100), 100, [10] * 10, id="an exhausted packet"),
        pytest.param(1000, LISTS, range(100), 100, [50] * 10, id="an exhausted packet, long pages"),
        pytest.param(200, LISTS, range(5000, 5100), 0, [10] * 10, id="a packet of vanished pings"),
        pytest.param(100, {}, range(0), 0, [10] * 10, id="a catalogue without lists"),
        pytest.param(13, {"fresh": range(13)}, range(0), 0, [10, 3], id="a small catalogue"),
    ],
)
async def test_pages_are_full_and_never_repeat_a_ping_until_the_catalogue_ends(
    tmp_path: Path, count: int, lists: dict[str, range], packet: range, seen: int, sizes: list[int]
) -> None:
    async with feed_world(tmp_path, catalogue(count), lists, packet=packet_bytes(packet)) as world:
        await world.act("seen", *(f"p{i:03d}" for i in range(seen)))
        chain = await world.pages(len(sizes), limit=sizes[0])
        assert [len(page["items"]) for page in chain] == sizes
        assert [item["position"] for page in chain for item in page["items"]] == list(range(sum(sizes)))
        shown = {ping for page in chain for ping in ping_ids(page)}
        assert len(shown - {f"p{i:03d}" for i in range(seen)}) == sum(sizes)
        assert (chain[-1]["next_cursor"] is None) == (sum(sizes) == count)
        assert chain[0]["degraded"] == ["model"]


async def test_a_new_chain_may_repeat_served_but_unseen_pings(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(40), {"fresh": range(40)}) as world:
        await world.pages(4)
        again = await world.pages(4)
        assert len({ping for page in again for ping in ping_ids(page)}) == 40


async def test_a_chain_longer_than_the_remembered_pages_continues(world: World) -> None:
    chain = await world.pages(MAX_SERVED + 3)
    assert all(len(ping_ids(page)) == 10 for page in chain)
    near = [ping for page in chain[-MAX_SERVED:] for ping in ping_ids(page)]
    assert len(near) == len(set(near))


async def test_an_old_cursor_still_gets_a_page(world: World) -> None:
    cursor = (await world.feed())["next_cursor"]
    world.time.now_ms += 2 * SERVED_MS
    page = await world.feed(cursor=cursor)
    assert len(ping_ids(page)) == 10
    assert page["items"][0]["position"] == 10


async def test_refill_proposes_followed_and_strongest_creators_first(tmp_path: Path) -> None:
    pings = [*catalogue(180), *(Ping(f"by{c}-{i}", creator=c, points=0.99) for c in (90, 91) for i in range(3))]
    packet = packet_bytes([0], user=user_part(creators={90: 0.9, 91: 0.1, 92: -0.5}))
    async with feed_world(tmp_path, pings, LISTS, packet=packet) as world:
        await world.act("follow", creator_id(91))
        feed = await world.feed(limit=50, explain=True)
        sources = {item["ping_id"]: item["explain"]["sources"] for item in feed["items"]}
        assert sources["by91-2"] == ["followed"]
        assert sources["by90-2"] == ["engaged_creator"]


async def test_refill_passes_the_same_filters(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(200, creators=4), LISTS) as world:
        await world.act("hide", *(f"p{i:03d}" for i in range(20, 40)))
        await world.act("block", creator_id(2))
        chain = await world.pages(20)
        shown = [i for page in chain for i in page["items"]]
        assert not {f"p{i:03d}" for i in range(20, 40)} & {i["ping_id"] for i in shown}
        assert creator_id(2) not in {i["creator_id"] for i in shown}


@pytest.mark.parametrize(
    ("best", "others"),
    [
        pytest.param({"creator": 1}, {"points": 0.95}, id="creators"),
        pytest.param({"topics": (1, 2)}, {"topics": (3,), "points": 0.97}, id="topics"),
    ],
)
async def test_a_page_is_diverse(tmp_path: Path, best: dict[str, Any], others: dict[str, Any]) -> None:
    pings = [Ping(f"a{i:02d}", **{"creator": 100 + i, "points": 1.0} | best) for i in range(30)]
    pings += [Ping(f"b{i:02d}", creator=200 + i, **others) for i in range(30)]
    async with feed_world(tmp_path, pings, {"fresh": range(60)}) as world:
        shown = ping_ids(await world.feed())
        assert shown[0].startswith("a")
        assert sum(ping.startswith("b") for ping in shown) >= (7 if "creator" in best else 3)


async def test_later_requests_avoid_recently_served_creators(tmp_path: Path) -> None:
    pings = [Ping(f"a{i:02d}", creator=i % 5, points=1.0) for i in range(20)]
    pings += [Ping(f"b{i:02d}", creator=50 + i, points=0.95) for i in range(50)]
    async with feed_world(tmp_path, pings, {"fresh": range(70)}) as world:
        first = ping_ids(await world.feed(limit=5))
        assert all(ping.startswith("a") for ping in first)
        for _ in range(3):
            latest = ping_ids(await world.feed(limit=5))
        assert any(ping.startswith("b") for ping in latest)


async def test_the_reason_is_the_most_personal_source(tmp_path: Path) -> None:
    renamed = {"followed": "followed_creator", "collaborative": "similar", "fresh": "new"}
    async with feed_world(tmp_path, catalogue(120, creators=120)) as world:
        for source in SOURCES:
            world.give("u", packet_bytes(range(100), source))
            assert {item["reason"] for item in (await world.feed())["items"]} == {renamed.get(source, source)}


async def test_explain_gives_scores_features_and_sources(world: World) -> None:
    plain = await world.feed()
    assert "removed" not in plain
    assert all("explain" not in item for item in plain["items"])
    explained = await world.feed(explain=True)
    why = explained["items"][0]["explain"]
    assert list(why["features"]) == list(FEATURES.names)
    assert why["score"] == pytest.approx(why["features"]["ping_points_7d"])
    boosts = {"trending_now": 0, "just_followed": 0}
    assert why.items() >= {"sources": ["collaborative"], "boosts": boosts, "propensity": 1}.items()
    assert why["features"]["ping_points_1h"] is None
    assert explained["removed"] == []


async def test_hour_is_that_of_the_request_and_country_and_language_are_those_of_the_packet(world: World) -> None:
    world.time.now_ms = NOW_MS + 7 * HOUR_MS
    world.give("u", packet_bytes(range(100), user=user_part(country="BR", language="de-AT")))
    features = (await world.feed(explain=True))["items"][0]["explain"]["features"]
    expected = {"context_hour": (12 + 7) % 24, "country_match": 0, "language_match": 1}
    assert features.items() >= expected.items()


async def test_an_old_packet_reads_with_a_new_snapshot(world: World) -> None:
    """Ping numbers outlive snapshots: pings that left are skipped, those that stayed keep their number."""
    assert len(ping_ids(await world.feed())) == 10
    world.publish_snapshot(snapshot_bytes(catalogue(50), tick=TICK + 1), TICK + 1)
    await world.feed_until(lambda feed: feed["tick_ms"] == (TICK + 1) * TICK_MS)
    assert set(ping_ids(await world.feed(limit=50))) == {f"p{i:03d}" for i in range(50)}


async def test_a_follow_is_pinned_on_the_next_page_whatever_its_score(tmp_path: Path) -> None:
    """The newest ping of each creator is the worst of theirs by its points."""
    pings = [Ping(f"p{i:03d}", creator=i % 40, points=1 - i / 200) for i in range(200)]
    async with feed_world(tmp_path, pings, packet=FULL_PACKET) as world:
        assert "p165" not in ping_ids(await world.feed(limit=50))
        await world.act("follow", "c5")
        await world.act("follow", "c6")
        page = await world.feed()
        assert ping_ids(page)[2:4] == ["p166", "p165"], "the latest follow foremost"
        assert len(page["items"]) == 10
        assert [item["reason"] for item in page["items"][2:4]] == ["followed_creator"] * 2
        more = ping_ids(await world.feed(cursor=page["next_cursor"]))
        assert not set(more) & set(ping_ids(page))

        await world.act("seen", "p166")
        assert ping_ids(await world.feed())[2:4] == ["p126", "p165"], "then the creator's next"
        await world.act("unfollow", "c6")
        assert not {"p126", "p166"} & set(ping_ids(await world.feed()))


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_pings_overlap_if_they_share_a_facet_value(n: int, m: int, distinct: int, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def facets(count: int) -> UInt32:
        values = rng.integers(0, distinct, (count, 8))
        return np.where(rng.random(values.shape) < 0.7, NO_VALUE, values).astype(np.uint32)

    left, right = facets(n), facets(m)
    found = overlap(left, right)
    assert found.shape == (n, m)
    for i in range(n):
        for j in range(m):
            assert found[i, j] == bool((set(left[i].tolist()) & set(right[j].tolist())) - {NO_VALUE})
