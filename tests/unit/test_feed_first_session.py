"""The first session: what a user or the app says about country, language and interests holds from the next request."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.feed_world import Ping, World, feed_world, packet_bytes, ping_ids, user_part

LISTS = {"trending:BR": range(30, 50), "trending": range(10), "fresh": range(60, 120)}
LANGUAGES = ("de", "pt", None)


def in_turn(count: int = 120, languages: tuple[str | None, ...] = LANGUAGES) -> list[Ping]:
    """Pings p000 ... in these languages in turn, each of a creator of its own; every tenth is about topic 1."""
    return [
        Ping(f"p{i:03d}", i, (1,) if i % 10 == 0 else (i + 2,), language=languages[i % len(languages)], country="BR")
        for i in range(count)
    ]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with feed_world(tmp_path, in_turn(), LISTS) as world:
        yield world


def matches(feed: dict[str, Any], name: str) -> set[float | None]:
    return {item["explain"]["features"][name] for item in feed["items"]}


async def test_user_updated_holds_from_the_very_next_request(world: World) -> None:
    assert matches(await world.feed(explain=True), "country_match") == {None}
    await world.update(country="BR", language="pt-BR")
    feed = await world.feed(explain=True)
    assert matches(feed, "country_match") == {1}
    assert matches(feed, "language_match") <= {1, None}
    assert feed["items"][0]["reason"] == "trending"
    assert set(ping_ids(feed)) <= {f"p{i:03d}" for i in range(30, 50)}, "trending in the country"
    row = await world.served_row(feed["request_id"])
    assert (row["country"], row["language"]) == ("BR", "pt")


@pytest.mark.parametrize(
    ("hint", "code"), [({"country": "br", "language": "PT_br_#Latn"}, "BR"), ({"country": ""}, None)]
)
async def test_hints_serve_a_user_of_whom_nothing_is_known(world: World, hint: dict[str, str], code: str) -> None:
    feed = await world.feed(explain=True, **hint)
    assert matches(feed, "country_match") == {1 if code else None}
    assert (await world.served_row(feed["request_id"])).get("country") == code


async def test_the_profile_comes_before_the_packet_and_the_packet_before_hints(world: World) -> None:
    world.give("u", packet_bytes(range(100), user=user_part(country="FR", language="pt")))
    assert matches(await world.feed(explain=True, country="BR"), "country_match") == {0}
    await world.update(country="BR")
    assert matches(await world.feed(explain=True, country="FR"), "country_match") == {1}
    assert matches(await world.feed(explain=True, language="de"), "language_match") <= {1, None}, "still the packet's"


@pytest.mark.parametrize("name", ["country", "language"])
@pytest.mark.parametrize("value", ["1", "Germany!", "x" * 300, "de\n"])
async def test_a_hint_that_is_no_code_is_named(world: World, name: str, value: str) -> None:
    answer = await world.get(user_id="u", **{name: value})
    assert answer.status_code == 422
    assert answer.json()["error"].items() >= {"code": "invalid_value", "field": name}.items()


async def test_interests_bring_pings_of_their_topics_and_lift_them(world: World) -> None:
    assert "topic" not in {item["reason"] for item in (await world.feed())["items"]}
    await world.update(interests=["topic 1", "no such topic"])
    feed = await world.feed(explain=True, limit=5)
    assert [item["reason"] for item in feed["items"][:3]] == ["topic"] * 3
    assert set(ping_ids(feed)[:3]) <= {f"p{i:03d}" for i in (*range(0, 10, 10), *range(60, 120, 10))}
    assert feed["items"][0]["explain"]["boosts"]["interests"] > 0


async def test_interests_lift_nothing_once_the_user_has_topic_affinities(world: World) -> None:
    await world.update(interests=["topic 1"])
    for topics, lifted in (({}, True), ({7: 0.5}, False)):
        world.give("u", packet_bytes(range(100), user=user_part(topics=topics)))
        boosts = (await world.feed(explain=True))["items"][0]["explain"]["boosts"]
        assert ("interests" in boosts) is lifted


@pytest.mark.parametrize("source", ["refill", "trending", "exploration", "packet"])
async def test_other_languages_wait_while_readable_pings_are_left(tmp_path: Path, source: str) -> None:
    options: dict[str, Any] = {"EXPLORE_SHARE": "1"} if source == "exploration" else {}
    async with feed_world(tmp_path, in_turn(), {"fresh": range(120)}, **options) as world:
        if source == "packet":
            world.give("u", packet_bytes(range(100), user=user_part(language="pt")))
        if source == "trending":
            await world.likes("p000", users=30, country="BR")
            await world.feed_until(lambda feed: "p000" in ping_ids(feed), country="BR")
        query = {"country": "BR", "language": "pt", "limit": 20}
        chain = await world.pages(6, **query)
        shown = [int(ping[1:]) for page in chain for ping in ping_ids(page)]
        assert all(number % 3 for number in shown[:80]), "German ones are every third"
        assert sorted(shown) == list(range(120)), "and come once the others are used up"


@pytest.mark.parametrize(("source", "stays"), [("followed", True), ("engaged_creator", True), ("collaborative", False)])
async def test_a_foreign_candidate_of_the_packet_stays_if_its_creator_is_the_users_choice(
    world: World, source: str, stays: bool
) -> None:
    world.give("u", packet_bytes([0], source, user=user_part(language="pt")))
    feed = await world.feed(limit=50, explain=True)
    assert ("p000" in ping_ids(feed)) is stays
    assert ({"ping_id": "p000", "reason": "language"} in feed["removed"]) is not stays


async def test_seen_pings_come_again_in_readable_languages_first(tmp_path: Path) -> None:
    async with feed_world(tmp_path, in_turn(30)) as world:
        for i in range(30):
            await world.act("seen", f"p{i:03d}")
        assert ping_ids(await world.feed(language="pt")) == [f"p{i:03d}" for i in range(15) if i % 3]


async def test_a_user_of_unknown_language_gets_all_languages(world: World) -> None:
    chain = await world.pages(12)
    assert len({ping for page in chain for ping in ping_ids(page)}) == 120


@pytest.mark.parametrize("target", ["creator:c5", "topic:topic 7", "ping:p005"])
async def test_more_and_less_shift_scores_within_the_session(tmp_path: Path, target: str) -> None:
    pings = [Ping(f"p{i:03d}", i % 20, (i % 20 + 2,), points=1 - abs(i - 15) / 50) for i in range(50)]
    async with feed_world(tmp_path, pings, packet=packet_bytes(range(50))) as world:

        async def first() -> tuple[int, float]:
            feed = await world.feed("u", explain=True, limit=50)
            at = next(i for i, item in enumerate(feed["items"]) if item["creator_id"] == "c5")
            return at, feed["items"][at]["explain"]["boosts"].get("steered", 0)

        before, _ = await first()
        await world.act("more", target)
        more, up = await first()
        assert more < before
        assert up > 0
        await world.act("less", target)
        less, down = await first()
        assert less > before
        assert down == -up
        world.time.now_ms += 31 * 60_000
        assert (await first())[1] == 0, "the session is over"
