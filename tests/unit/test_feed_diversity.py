"""`explain` tells what diversity did to an item, on the page and across the user's last requests."""

from pathlib import Path
from typing import Any

import pytest

from feed_api.stages.diversify import RECENT_CREATOR, RECENT_TOPIC, SAME_CREATOR, SAME_TOPIC
from pingfeed.core.ranker import FallbackRanker
from tests.unit.feed_world import Ping, creator_id, feed_world, packet_bytes

PINGS = [Ping(f"p{n:03}", creator=n % 5, topics=(n % 3,), points=1 - n / 300) for n in range(200)]
PACKET = packet_bytes(range(100))


def place_of(item: dict[str, Any]) -> float:
    """What decides an item's place, as `explain` tells it."""
    why = item["explain"]
    return float(why["score"] + sum(why["boosts"].values()) + sum(why["diversity"].values()))


async def test_score_boosts_and_diversity_add_up_to_the_order_of_the_page(tmp_path: Path) -> None:
    async with feed_world(tmp_path, PINGS, packet=PACKET, EXPLORE_SHARE="0") as world:
        for _ in range(4):
            items = (await world.feed(explain=True, limit=20))["items"]
            places = [place_of(item) for item in items]
            assert places == sorted(places, reverse=True)
            assert len({item["creator_id"] for item in items[:5]}) > 2


async def test_the_page_term_counts_what_is_higher_on_it(tmp_path: Path) -> None:
    async with feed_world(tmp_path, PINGS, packet=PACKET, EXPLORE_SHARE="0") as world:
        first, *others = (await world.feed(explain=True))["items"]
        assert first["explain"]["diversity"] == {"page": 0.0, "recent_feeds": 0.0}
        unit = -others[0]["explain"]["diversity"]["page"]
        numbers = [int(item["ping_id"][1:]) for item in (first, others[0])]
        shared = [SAME_CREATOR * (numbers[0] % 5 == numbers[1] % 5), SAME_TOPIC * (numbers[0] % 3 == numbers[1] % 3)]
        assert unit == pytest.approx(sum(shared) * FallbackRanker.score_std)


async def test_the_term_of_recent_feeds_is_zero_at_first_and_tells_rotation_apart(tmp_path: Path) -> None:
    async with feed_world(tmp_path, PINGS, packet=PACKET, EXPLORE_SHARE="0") as world:
        before = (await world.feed(explain=True))["items"]
        after = (await world.feed(explain=True))["items"]
        assert all(item["explain"]["diversity"]["recent_feeds"] == 0 for item in before)
        served = [int(item["ping_id"][1:]) for item in before]
        for item in after:
            number = int(item["ping_id"][1:])
            creators = sum(number % 5 == other % 5 for other in served)
            topics = sum(number % 3 == other % 3 for other in served) / len(served)
            expected = -(RECENT_CREATOR * creators + RECENT_TOPIC * topics) * FallbackRanker.score_std
            assert item["explain"]["diversity"]["recent_feeds"] == pytest.approx(expected)


async def test_a_pinned_ping_has_no_diversity_term(tmp_path: Path) -> None:
    pings = [*PINGS[:190], *(Ping(f"new{n}", creator=99, points=-9) for n in range(10))]
    async with feed_world(tmp_path, pings, packet=PACKET, EXPLORE_SHARE="0") as world:
        await world.act("follow", creator_id(99))
        items = (await world.feed(explain=True))["items"]
        pinned = next(item for item in items if item["creator_id"] == creator_id(99))
        assert pinned["explain"]["diversity"] == {}
