"""What a user forbade comes from no source and on no page; what was seen comes again when all else is gone."""

from pathlib import Path
from typing import Any

import pytest

from pingfeed.core.clock import DAY_MS
from pingfeed.core.signals import MAX_SERVED, SEEN_MS, ActKind
from tests.unit.feed_world import (
    FULL_PACKET,
    LISTS,
    Ping,
    World,
    catalogue,
    creator_id,
    feed_world,
    packet_bytes,
    ping_ids,
)

SOURCES = [*("packet", "followed", "trending", "refill", "exploration", "again")]


def by_topic(count: int, **same: Any) -> list[Ping]:
    """Pings p000 ... of creators c0 to c9 in turn; every fourth is about topic 1 beside its own topic."""
    own = ((i % 50 + 2, 1) if i % 4 == 0 else (i % 50 + 2,) for i in range(count))
    return [
        Ping(f"p{i:03d}", creator=i % 10, topics=topics, points=1 - i / 999, **same) for i, topics in enumerate(own)
    ]


async def shown(world: World, **query: Any) -> list[dict[str, Any]]:
    """The items of a whole chain, which ends."""
    pages = await world.pages(100, limit=50, **query)
    assert pages[-1]["next_cursor"] is None
    return [item for page in pages for item in page["items"]]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("kind", "target", "reason"),
    [
        ("deleted", "p008", "deleted"),
        ("hide", "p008", "hidden"),
        ("block", "c8", "blocked"),
        ("mute", "creator:c8", "muted"),
        ("mute", "topic:topic 1", "muted"),
    ],
)
async def test_what_is_forbidden_comes_from_no_source(
    tmp_path: Path, source: str, kind: ActKind, target: str, reason: str
) -> None:
    pings = by_topic(60, impressions=3 if source == "exploration" else 1000)
    lists = {} if source in ("refill", "again") else {"fresh": [8]}
    packet = packet_bytes(range(60)) if source == "packet" else None
    async with feed_world(tmp_path, pings, lists, packet=packet, EXPLORE_SHARE="1") as world:
        if source == "followed":
            await world.act("follow", "c8")
        if source == "trending":
            await world.likes("p008", users=30)
            await world.feed_until(lambda feed: "p008" in ping_ids(feed), country="DE")
        if source == "again":
            await world.act("seen", *(ping.ping_id for ping in pings))
        await world.act(kind, target, user_id="" if kind == "deleted" else "u")
        items = await shown(world, country="DE", explain=True)
        assert "p008" not in {item["ping_id"] for item in items}
        gone = {"c8": 6, "topic:topic 1": 15, "creator:c8": 6}.get(target, 1)
        assert len({item["ping_id"] for item in items}) == 60 - gone
        removed = (await world.feed(country="DE", explain=True))["removed"]
        assert {"ping_id": "p008", "reason": reason} in removed


@pytest.mark.parametrize(
    ("kind", "back", "target"),
    [
        ("hide", "unhide", "p000"),
        ("block", "unblock", "c0"),
        ("mute", "unmute", "creator:c0"),
        ("mute", "unmute", "topic:topic 1"),
    ],
)
async def test_what_is_taken_back_may_be_shown_again(tmp_path: Path, kind: ActKind, back: ActKind, target: str) -> None:
    async with feed_world(tmp_path, by_topic(200), LISTS, packet=FULL_PACKET) as world:
        await world.act(kind, target)
        assert "p000" not in ping_ids(await world.feed())
        await world.act(back, target)
        assert "p000" in ping_ids(await world.feed())


@pytest.mark.parametrize("kind", ["hide", "block", "mute"])
async def test_what_is_forbidden_stays_so_after_four_hundred_days_away(tmp_path: Path, kind: ActKind) -> None:
    target = {"hide": "p000", "block": "c0", "mute": "topic:topic 1"}[kind]
    async with feed_world(tmp_path, by_topic(60), packet=FULL_PACKET) as world:
        await world.act(kind, target)
        world.time.now_ms += 400 * DAY_MS
        assert "p000" not in {item["ping_id"] for item in await shown(world)}


async def test_thousands_of_seen_pings_stay_away_for_thirty_days(tmp_path: Path) -> None:
    pings = [Ping(f"p{i:04d}", creator=i) for i in range(1100)]
    async with feed_world(tmp_path, pings, packet=FULL_PACKET) as world:
        await world.act("seen", *(ping.ping_id for ping in pings[:1050]))
        assert {ping.ping_id for ping in pings[1050:]} == set(ping_ids(await world.feed(limit=50)))
        world.time.now_ms += SEEN_MS
        assert set(ping_ids(await world.feed())) & {ping.ping_id for ping in pings[:1050]}


async def seen_all(world: World, count: int) -> list[str]:
    """The user has seen them in an order that is not theirs, one each minute; the ids in that order."""
    order = [f"p{i * 7 % count:03d}" for i in range(count)]
    for ping_id in order:
        world.time.now_ms += 60_000
        await world.act("seen", ping_id)
    return order


async def test_when_all_is_seen_the_oldest_seen_come_again(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(60), packet=FULL_PACKET) as world:
        order = await seen_all(world, 60)
        feed = await world.feed(explain=True)
        assert ping_ids(feed) == order[:10]
        assert {item["reason"] for item in feed["items"]} == {"again"}
        assert feed["items"][0]["explain"]["sources"] == []
        assert not set(ping_ids(feed)) & {r["ping_id"] for r in feed["removed"]}
        chain = await world.pages(7)
        assert [ping for page in chain for ping in ping_ids(page)] == order, "each page goes on where the last ended"
        assert chain[-1]["next_cursor"] is None


async def test_seen_pings_fill_only_what_the_unseen_leave_of_a_page(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(60)) as world:
        await world.act("seen", *(f"p{i:03d}" for i in range(47)))
        first, second = await world.pages(2)
        assert {item["reason"] for item in first["items"]} == {"new"}
        assert [item["reason"] for item in second["items"][3:]] == ["again"] * 7
        assert len(set(ping_ids(first) + ping_ids(second))) == 20


async def test_a_chain_of_pings_shown_again_ends_when_its_first_pages_are_forgotten(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(300), LISTS) as world:
        await world.act("seen", *(f"p{i:03d}" for i in range(300)))
        chain = await world.pages(100)
        assert len(chain) == MAX_SERVED + 1
        pings = [ping for page in chain for ping in ping_ids(page)]
        assert len(pings) == len(set(pings)) == 10 * len(chain)


@pytest.mark.parametrize(("sources", "stays"), [(["followed"], False), (["followed", "topic"], True)])
async def test_an_unfollow_shows_at_once_in_the_packets_candidates(
    tmp_path: Path, sources: list[str], stays: bool
) -> None:
    pings = [*catalogue(110), Ping("theirs", creator=99, points=2)]
    async with feed_world(tmp_path, pings, packet=packet_bytes([*range(100), 110], *sources)) as world:
        item = (await world.feed())["items"][0]
        assert (item["ping_id"], item["reason"]) == ("theirs", "followed_creator")
        await world.act("follow", creator_id(99))
        await world.act("unfollow", creator_id(99))
        after = {item["ping_id"]: item["reason"] for item in (await world.feed())["items"]}
        assert after.get("theirs") == ("topic" if stays else None)


@pytest.mark.parametrize("lost", ["down", "incomplete"])
async def test_without_all_signals_only_the_packets_candidates_are_served(tmp_path: Path, lost: str) -> None:
    """What the user forbade may be among the rest; the batch side left it out of the packet."""
    async with feed_world(tmp_path, catalogue(300), LISTS, packet=packet_bytes(range(30)), EXPLORE_SHARE="1") as world:
        await world.likes("p200", users=30)
        await world.feed_until(lambda feed: "p200" in ping_ids(feed))
        world.signals.down, world.signals.complete = ("out of order", True) if lost == "down" else ("", False)
        feed = await world.feed(limit=50)
        assert feed["degraded"] == ["signals", "model"]
        assert sorted(ping_ids(feed)) == [f"p{i:03d}" for i in range(30)]
        unknown = await world.feed("unknown", limit=50)
        assert unknown["degraded"] == ["signals", "model"]
        assert len(unknown["items"]) == 50, "without a packet either, refill serves"


async def test_a_ping_that_was_deleted_stays_away_while_signals_are_down(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(200), LISTS, packet=FULL_PACKET) as world:
        await world.act("deleted", "p008", user_id="")
        await world.feed("another")
        world.signals.down = "out of order"
        assert set(ping_ids(await world.feed(limit=50))) >= {"p007", "p009"}
        assert "p008" not in ping_ids(await world.feed(limit=50))


async def test_incomplete_signals_still_exclude_what_they_know(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(300), LISTS, packet=packet_bytes(range(30))) as world:
        world.signals.complete = False
        await world.act("hide", "p000")
        assert sorted(ping_ids(await world.feed(limit=50))) == [f"p{i:03d}" for i in range(1, 30)]
