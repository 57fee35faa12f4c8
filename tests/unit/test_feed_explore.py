"""Exploration: new pings take slots of the lower half, with the probability that is logged."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.feed_world import Ping, World, catalogue, feed_world, packet_bytes, ping_ids

KNOWN = 120
LISTS = {"fresh": range(KNOWN, KNOWN + 8)}


def with_new_pings(**same: Any) -> list[Ping]:
    """Pings 0 to 119 are well known, 120 to 127 are new and have no points."""
    new = {"points": 0, "impressions": 3} | same
    return [*catalogue(KNOWN), *(Ping(f"new{i}", creator=30 + i, **new) for i in range(8))]


async def explored(world: World, requests: int) -> Counter[tuple[str, int]]:
    """How often which ping was explored at which slot."""
    found: Counter[tuple[str, int]] = Counter()
    for _ in range(requests):
        for item in (await world.feed())["items"]:
            if item["reason"] == "exploration":
                found[item["ping_id"], item["position"]] += 1
    return found


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with feed_world(tmp_path, with_new_pings(), LISTS, EXPLORE_SHARE="1") as world:
        world.give("u", packet_bytes(range(100)))
        yield world


async def test_every_request_explores_with_a_share_of_one(world: World) -> None:
    feed = await world.feed(explain=True)
    (item,) = [item for item in feed["items"] if item["reason"] == "exploration"]
    assert item["ping_id"].startswith("new")
    assert item["position"] in range(5, 10)
    assert len(feed["items"]) == 10
    lower = 5
    row = await world.served_row(feed["request_id"])
    assert row["served_pings"] == ping_ids(feed)
    expected = [1.0] * 5 + [1 - 1 / lower] * 5
    expected[item["position"]] = 1 / lower / 8
    assert row["served_propensities"] == pytest.approx(expected)
    assert item["explain"]["propensity"] == pytest.approx(1 / lower / 8)
    assert item["explain"]["score"] is not None
    assert item["explain"]["sources"] == ["fresh"]


async def test_frequencies_match_the_logged_propensities(tmp_path: Path) -> None:
    """Request ids come from a fixed sequence, so this draws the same every time."""
    ids = iter(range(1, 10**6))
    fixed = {"make_id": lambda _now_ms: f"00000000-0000-7000-8000-{next(ids):012d}"}
    async with feed_world(tmp_path, with_new_pings(), LISTS, EXPLORE_SHARE="0.5", **fixed) as world:  # type: ignore[arg-type]  # one keyword of many
        world.give("u", packet_bytes(range(100)))
        requests = 800
        found = await explored(world, requests)
        assert sum(found.values()) / requests == pytest.approx(0.5, abs=0.06)
        slots = Counter[int]()
        pings = Counter[str]()
        for (ping_id, slot), count in found.items():
            slots[slot] += count
            pings[ping_id] += count
        assert set(slots) == set(range(5, 10))
        assert set(pings) == {f"new{i}" for i in range(8)}
        assert all(count / requests == pytest.approx(0.5 / 5, abs=0.04) for count in slots.values())
        assert all(count / requests == pytest.approx(0.5 / 8, abs=0.03) for count in pings.values())


async def test_a_request_id_replays_its_random_choices(tmp_path: Path) -> None:
    fixed = {"make_id": lambda _now_ms: "00000000-0000-7000-8000-000000000007"}
    shown = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        async with feed_world(tmp_path / folder, with_new_pings(), LISTS, EXPLORE_SHARE="0.5", **fixed) as world:  # type: ignore[arg-type]  # one keyword of many
            shown.append(ping_ids(await world.feed()))
    assert shown[0] == shown[1]


async def test_a_page_of_one_never_explores(world: World) -> None:
    feed = await world.feed(limit=1)
    assert feed["items"][0]["reason"] != "exploration"
    assert (await world.served_row(feed["request_id"]))["served_propensities"] == [1.0]


async def test_the_displaced_ping_comes_on_the_next_page(world: World) -> None:
    first = await world.feed()
    second = await world.feed(cursor=first["next_cursor"])
    shown = ping_ids(first) + ping_ids(second)
    assert len(set(shown)) == 20
    assert {f"p{i:03d}" for i in range(18)} <= set(shown)


async def test_excluded_pings_are_not_explored(world: World) -> None:
    await world.act("hide", *(f"new{i}" for i in range(4)))
    await world.act("block", "c34", "c35")
    await world.act("deleted", "new6", user_id="")
    found = await explored(world, 10)
    assert {ping_id for ping_id, _ in found} == {"new7"}


@pytest.mark.parametrize(
    ("pings", "share"),
    [
        pytest.param(with_new_pings(), "0", id="a share of zero"),
        pytest.param(catalogue(KNOWN), "1", id="no new pings"),
        pytest.param(with_new_pings(language="fr"), "1", id="new pings in a foreign language"),
        pytest.param(with_new_pings(impressions=1000), "1", id="pings with many impressions"),
    ],
)
async def test_without_eligible_pings_nothing_is_explored_and_propensities_are_one(
    tmp_path: Path, pings: list[Ping], share: str
) -> None:
    lists = LISTS if len(pings) > KNOWN else {}
    async with feed_world(tmp_path, pings, lists, EXPLORE_SHARE=share) as world:
        world.give("u", packet_bytes(range(100)))
        assert not await explored(world, 5)
        feed = await world.feed()
        assert (await world.served_row(feed["request_id"]))["served_propensities"] == [1.0] * 10
