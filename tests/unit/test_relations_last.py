"""What a user decided holds: over time, in any order of arrival, and until the user takes it back. Over HTTP."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.clock import HOUR_MS, to_iso
from pingfeed.core.errors import Unavailable
from pingfeed.core.signals import Act
from tests.unit.loop_world import Loop, loop_world

CREATORS = ("c0", "c1", "c2")


def created(number: int) -> dict[str, Any]:
    """A ping of one of the creators, about one of two topics."""
    topics = [("art", "chess", "art")[number % 3]]
    return {
        "event_type": "ping_created",
        "ping_id": f"p{number:03}",
        "creator_id": CREATORS[number % 3],
        "topics": topics,
    }


@pytest.fixture
async def loop(tmp_path: Path) -> AsyncIterator[Loop]:
    async with loop_world(tmp_path / "home") as opened:
        await opened.send(*(created(n) for n in range(60)))
        await opened.tick()
        yield opened


def act(kind: str, **about: Any) -> dict[str, Any]:
    return {"event_type": kind, "user_id": "ann", **about}


def creators(items: list[dict[str, Any]]) -> set[str]:
    return {item["creator_id"] for item in items}


def pings(items: list[dict[str, Any]]) -> set[str]:
    return {item["ping_id"] for item in items}


def missing(feed: dict[str, Any]) -> set[str]:
    """What a feed lacks; none of these has a model."""
    return set(feed["degraded"]) - {"model"}


async def test_a_block_holds_after_36_days_without_an_act_and_after_a_new_one(loop: Loop) -> None:
    await loop.send(act("block", creator_id="c0"), act("hide", ping_id="p001"))
    loop.later(36)
    await loop.send(*(created(n) for n in range(60, 120)))
    await loop.tick()
    for _ in range(2):
        items = await loop.pages("ann")
        assert "c0" not in creators(items)
        assert "p001" not in pings(items)
        assert len(items) > 30
        await loop.send(act("impression", ping_id=items[0]["ping_id"]))
        await loop.tick()


@pytest.mark.parametrize(
    ("done", "undone", "gone"),
    [
        (act("block", creator_id="c0"), act("unblock", creator_id="c0"), {"p000", "p057"}),
        (act("hide", ping_id="p000"), act("unhide", ping_id="p000"), {"p000"}),
        (act("mute", creator_id="c0"), act("unmute", creator_id="c0"), {"p000", "p057"}),
        (act("mute", topic="chess"), act("unmute", topic="chess"), {"p001", "p058"}),
    ],
)
async def test_what_is_taken_back_comes_again_in_the_next_feed_and_the_next_packet(
    loop: Loop, done: dict[str, Any], undone: dict[str, Any], gone: set[str]
) -> None:
    for _ in range(2):
        await loop.send(done)
        assert not gone & pings(await loop.pages("ann"))
        await loop.tick()
        assert not gone & pings(await loop.pages("ann"))
        await loop.send(undone)
        assert gone <= pings(await loop.pages("ann"))
        await loop.tick()


async def test_an_unlike_is_accepted_and_ends_the_likes_part_in_the_session(loop: Loop) -> None:
    await loop.send(act("like", ping_id="p000"))
    assert (await loop.feed_signals("ann")).session.interactions(loop.now_ms) == ["p000"]
    await loop.send(act("unlike", ping_id="p000"))
    assert (await loop.feed_signals("ann")).session.interactions(loop.now_ms) == []


async def test_the_later_corrected_time_wins_whatever_arrives_last(loop: Loop) -> None:
    """A queued follow of an hour ago arrives after an unfollow of a minute ago."""

    def at(seconds_ago: int) -> dict[str, Any]:
        return {"timestamp": to_iso(loop.now_ms - seconds_ago * 1000), "sent_at": to_iso(loop.now_ms)}

    await loop.send(act("unfollow", creator_id="c0", **at(60)))
    await loop.send(act("follow", creator_id="c0", **at(3600)))
    assert (await loop.feed_signals("ann")).following() == set()
    await loop.tick()
    assert "followed_creator" not in {item["reason"] for item in await loop.pages("ann")}


async def test_within_a_request_the_last_event_wins_on_both_sides(loop: Loop) -> None:
    ids = "ffffffff-ffff-4fff-8fff-ffffffffffff", "00000000-0000-4000-8000-000000000000"
    await loop.send(act("follow", creator_id="c0", event_id=ids[0]), act("unfollow", creator_id="c0", event_id=ids[1]))
    await loop.send(act("block", creator_id="c1", event_id=ids[1]), act("unblock", creator_id="c1", event_id=ids[0]))
    assert (await loop.feed_signals("ann")).following() == set()
    await loop.tick()
    items = await loop.pages("ann")
    assert "followed_creator" not in {item["reason"] for item in items}
    assert "c1" in creators(items)


async def test_a_store_that_began_anew_says_so_until_it_is_rebuilt_from_the_lake(loop: Loop) -> None:
    await loop.send(act("block", creator_id="c0"), act("mute", topic="chess"))
    await loop.tick()
    await loop.send(act("hide", ping_id="p000"))
    await loop.landed()
    await loop.lose_signals()
    degraded = await loop.feed("ann", limit=50)
    assert missing(degraded) == {"signals"}
    assert creators(degraded["items"]) <= {"c2"}, "the packet leaves out what the last tick knew"
    await loop.rebuild()
    found = await loop.feed("ann", limit=50)
    assert missing(found) == set()
    assert creators(await loop.pages("ann")) <= {"c2"}
    state = await loop.feed_signals("ann")
    assert (state.blocks, state.mutes, state.hides) == ({"c0"}, {"topic:chess"}, {"p000"})


async def test_a_store_that_began_anew_is_rebuilt_by_the_next_tick(loop: Loop) -> None:
    await loop.send(act("block", creator_id="c0"))
    await loop.tick()
    await loop.lose_signals()
    assert missing(await loop.feed("ann")) == {"signals"}
    await loop.tick()
    assert missing(await loop.feed("ann")) == set()
    assert (await loop.feed_signals("ann")).blocks == {"c0"}


async def test_a_user_whose_signals_cannot_be_written_stops_no_rebuild(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = act("block", creator_id="c0")
    await loop.send(block, {**block, "user_id": "bob"})
    await loop.landed()
    await loop.lose_signals()
    apply = SqliteUserSignals.apply

    async def without_ann(store: SqliteUserSignals, acts: Sequence[Act]) -> None:
        if any(one.user_id == "ann" for one in acts):
            raise Unavailable("ann's key holds something else")
        await apply(store, acts)

    with monkeypatch.context() as patched:
        patched.setattr(SqliteUserSignals, "apply", without_ann)
        await loop.rebuild()
    assert missing(await loop.feed("bob")) == set()
    assert [(await loop.feed_signals(user)).blocks for user in ("ann", "bob")] == [set(), {"c0"}]


async def test_a_late_act_of_an_hour_ago_does_not_undo_a_newer_one_after_rebuilding(loop: Loop) -> None:
    await loop.send(act("unblock", creator_id="c0", timestamp=to_iso(loop.now_ms - 60_000)))
    await loop.send(act("block", creator_id="c0", timestamp=to_iso(loop.now_ms - HOUR_MS)))
    await loop.tick()
    await loop.rebuild()
    assert (await loop.feed_signals("ann")).blocks == set()
    assert "c0" in creators(await loop.pages("ann"))
