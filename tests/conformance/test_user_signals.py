"""What every UserSignals promises (`ports.UserSignals`). A new adapter is one entry of ADAPTERS."""

import asyncio
from collections.abc import Callable

import pytest

from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals
from pingfeed.adapters.user_signals_redis import RedisUserSignals
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import Rebuilding
from pingfeed.core.signals import (
    DELETED_TTL_MS,
    LIMITS,
    MAX_DELETED,
    STATE_TTL_MS,
    Act,
    ActKind,
    Profile,
    Session,
    UserState,
    beyond_limit,
    seen_key,
)
from pingfeed.ports import UserSignals
from tests.conformance.place import Place
from tests.conformance.samples import NOON_MS

pytestmark = pytest.mark.conformance
ADAPTERS: dict[str, Callable[[Place], UserSignals]] = {
    "sqlite": lambda place: SqliteUserSignals(f"sqlite://{place.folder}/signals.sqlite"),
    "redis": lambda place: RedisUserSignals(place.redis_url),
    "redis+cluster": lambda place: RedisUserSignals(place.redis_cluster_url),
    "dynamodb": lambda place: DynamodbUserSignals(f"dynamodb://{place.table}"),
}
ACTS = [
    Act("ann", "follow", "creator-1", NOON_MS),
    Act("ann", "follow", "creator-2", NOON_MS + 1),
    Act("ann", "unfollow", "creator-1", NOON_MS + 2),
    Act("ann", "block", "creator-3", NOON_MS + 3),
    Act("ann", "hide", "ping-1", NOON_MS + 4),
    Act("ann", "seen", "ping-2", NOON_MS + 5),
    Act("ann", "engaged", "ping-2", NOON_MS + 6),
    Act("ann", "served", "request-1", NOON_MS + 7, ("ping-2", "ping-3")),
    Act("ann", "served", "request-2", NOON_MS + 8, ("ping-4",)),
    Act("bob", "seen", "ping-9", NOON_MS + 9),
    Act("ann", "mute", 'topic:an, "old" one\n', NOON_MS + 9),
    Act("ann", "more", "creator:c", NOON_MS + 9),
    Act("ann", "profile", "", NOON_MS + 9, profile=Profile({"country": (NOON_MS, "DE"), "interests": (1, ["art"])})),
]


def keys(*pings: str) -> set[int]:
    """What `Session.seen` holds of these pings."""
    return set(map(seen_key, pings))


def seen(state: UserState) -> set[int]:
    return set(state.session.seen)


async def _state(store: UserSignals, user_id: str, now_ms: int = NOON_MS + 10) -> UserState:
    return (await store.read(user_id, now_ms)).state


async def test_acts_become_the_state(store: UserSignals) -> None:
    await store.apply(ACTS)
    state = await _state(store, "ann")
    assert state.following() == {"creator-2"}
    assert (state.blocks, state.hides) == ({"creator-3"}, {"ping-1"})
    assert state.mutes == {'topic:an, "old" one\n'}
    assert seen(state) == keys("ping-2")
    assert state.session.interactions(NOON_MS + 10) == ["ping-2"]
    assert state.session.steering(NOON_MS + 10) == {"creator:c": True}
    assert [served.pings for served in state.session.served] == [["ping-2", "ping-3"], ["ping-4"]]
    assert (state.profile.get("country"), state.profile.interests) == ("DE", ["art"])
    assert seen(await _state(store, "bob")) == keys("ping-9")


async def test_an_unknown_user_has_an_empty_state(store: UserSignals) -> None:
    await store.apply(ACTS)
    read = await store.read("unknown", NOON_MS)
    assert read.state == UserState()
    assert read.deleted == frozenset()


async def test_applying_no_acts_is_fine(store: UserSignals) -> None:
    await store.apply([])
    assert await _state(store, "ann") == UserState()


async def test_applying_twice_equals_once(store: UserSignals) -> None:
    await store.apply(ACTS)
    once = await _state(store, "ann")
    await store.apply(ACTS)
    for act in ACTS:
        await store.apply([act])
    assert await _state(store, "ann") == once


async def test_late_acts_leave_the_same_state(store: UserSignals) -> None:
    await store.apply(ACTS)
    in_order = await _state(store, "ann")
    await store.forget("ann")
    for act in reversed(ACTS):
        await store.apply([act])
    backwards = await _state(store, "ann")
    assert backwards == in_order


async def test_another_instance_sees_every_apply_at_once(store: UserSignals, other: UserSignals) -> None:
    for number in range(5):
        writer, reader = (store, other) if number % 2 else (other, store)
        await writer.apply([Act("ann", "seen", f"p{number}", NOON_MS), Act("", "deleted", f"d{number}", NOON_MS)])
        read = await reader.read("ann", NOON_MS)
        assert read.state.session.has_seen(f"p{number}", NOON_MS)
        assert f"d{number}" in read.deleted


async def test_concurrent_applies_from_two_instances_lose_nothing(store: UserSignals, other: UserSignals) -> None:
    acts = [Act(f"user-{n % 3}", "seen", f"p{n}", NOON_MS + n) for n in range(120)]
    await asyncio.gather(*((store, other)[n % 2].apply([act]) for n, act in enumerate(acts)))
    for user in range(3):
        state = await _state(store, f"user-{user}")
        assert seen(state) == keys(*(f"p{n}" for n in range(120) if n % 3 == user))


async def test_a_session_expires_after_the_last_act(store: UserSignals) -> None:
    await store.apply([Act("ann", "seen", "p1", NOON_MS), Act("ann", "seen", "p2", NOON_MS + 1000)])
    end_ms = NOON_MS + 1000 + STATE_TTL_MS
    assert seen(await _state(store, "ann", end_ms - 1)) == keys("p1", "p2")
    assert await _state(store, "ann", end_ms) == UserState()


async def test_relations_and_the_profile_never_expire(store: UserSignals, other: UserSignals) -> None:
    await store.apply(ACTS)
    back_ms = NOON_MS + 400 * DAY_MS
    for one in (store, other):
        state = await _state(one, "ann", back_ms)
        assert (state.blocks, state.hides, len(state.mutes)) == ({"creator-3"}, {"ping-1"}, 1)
        assert state.following() == {"creator-2"}
        assert state.profile.get("country") == "DE"
        assert state.session == Session()
    await store.apply([Act("ann", "seen", "p2", back_ms)])
    state = await _state(other, "ann", back_ms)
    assert (state.blocks, seen(state), state.profile.interests) == ({"creator-3"}, keys("p2"), ["art"])


async def test_a_late_act_does_not_shorten_the_ttl(store: UserSignals) -> None:
    await store.apply([Act("ann", "seen", "p1", NOON_MS)])
    await store.apply([Act("ann", "seen", "p0", NOON_MS - 5000)])
    assert seen(await _state(store, "ann", NOON_MS + STATE_TTL_MS - 1)) == keys("p0", "p1")


UNDO: dict[ActKind, ActKind] = {"follow": "unfollow", "block": "unblock", "hide": "unhide", "mute": "unmute"}


def held(state: UserState, kind: str) -> bool:
    """Whether the relation to `t` holds."""
    parts = {"follow": state.following(), "block": state.blocks, "hide": state.hides, "mute": state.mutes}
    return "t" in parts[kind]


@pytest.mark.parametrize("kind", UNDO)
async def test_the_greatest_order_key_decides_whatever_arrives_last(
    kind: ActKind, store: UserSignals, other: UserSignals
) -> None:
    done = Act("ann", kind, "t", NOON_MS + 50, timestamp_ms=NOON_MS + 10)
    undone = Act("ann", UNDO[kind], "t", NOON_MS + 40, timestamp_ms=NOON_MS + 20)
    for acts in ([done, undone], [undone, done]):
        for one, act in zip((store, other), acts, strict=True):
            await one.apply([act])
        for one in (store, other):
            state = await _state(one, "ann")
            assert not held(state, kind)
            assert kind == "follow" or f"{kind}:t" in state.freed
        await store.forget("ann")
    ahead = Act("ann", kind, "t", NOON_MS + 60, timestamp_ms=NOON_MS + 9000)  # Counts as received, not later.
    await store.apply([undone, ahead])
    assert held(await _state(other, "ann"), kind)
    assert (await _state(other, "ann")).freed == set()
    await other.apply([Act("ann", UNDO[kind], "t", NOON_MS + 61)])
    assert not held(await _state(store, "ann"), kind)


async def test_the_place_in_the_request_then_the_event_id_decide_a_tie(store: UserSignals) -> None:
    first, second = Act("ann", "follow", "t", NOON_MS, seq=1), Act("ann", "unfollow", "t", NOON_MS, seq=2)
    third = Act("ann", "follow", "t", NOON_MS, seq=2, event_id="a")
    for acts, follows in (([second, first], False), ([third, second], True), ([first, third, second], True)):
        for act in acts:
            await store.apply([act])
        assert held(await _state(store, "ann"), "follow") == follows
        await store.forget("ann")


async def test_beyond_its_limit_a_new_relation_is_counted_and_all_others_hold(
    store: UserSignals, other: UserSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "block", 16)
    monkeypatch.setitem(beyond_limit, "block", 0)
    await store.apply([Act("ann", "block", f"c{n}", NOON_MS + n) for n in range(16)])
    await other.apply([Act("ann", "block", "more", NOON_MS + 20)])
    assert (await _state(store, "ann")).blocks == {f"c{n}" for n in range(16)}
    assert beyond_limit["block"] == 1
    await store.apply([Act("ann", "unblock", f"c{n}", NOON_MS + 30) for n in range(3)])
    await other.apply([Act("ann", "block", "more", NOON_MS + 40), Act("ann", "block", "c0", NOON_MS + 41)])
    for one in (store, other):
        assert (await _state(one, "ann")).blocks == {"c0", "more", *(f"c{n}" for n in range(3, 16))}
    assert beyond_limit["block"] == 1


async def test_a_store_is_complete_once_it_is_marked(store: UserSignals, other: UserSignals) -> None:
    for one in (store, other):
        assert not await one.is_complete()
        assert not (await one.read("ann", NOON_MS)).complete
        with pytest.raises(Rebuilding):
            await one.check()
    await store.mark_complete()
    for one in (store, other):
        assert await one.is_complete()
        assert (await one.read("ann", NOON_MS)).complete


async def test_a_deletion_counts_for_every_user_until_it_expires(store: UserSignals) -> None:
    await store.apply([Act("", "deleted", "p1", NOON_MS), Act("", "deleted", "p2", NOON_MS + 1)])
    end_ms = NOON_MS + DELETED_TTL_MS
    assert (await store.read("ann", NOON_MS)).deleted == {"p1", "p2"}
    assert (await store.read("bob", end_ms - 1)).deleted == {"p1", "p2"}
    assert (await store.read("bob", end_ms)).deleted == {"p2"}
    assert (await store.read("bob", NOON_MS)).deleted == {"p1", "p2"}
    assert (await store.read("bob", end_ms + 1)).deleted == frozenset()


async def test_deletions_are_bounded_the_newest_stay(store: UserSignals, other: UserSignals) -> None:
    await other.read("ann", NOON_MS)
    acts = [Act("", "deleted", f"p{n}", NOON_MS + n) for n in range(MAX_DELETED + 7)]
    for start in range(0, len(acts), 2000):
        await store.apply(acts[start : start + 2000])
        await other.read("ann", NOON_MS)
    expected = {act.target for act in acts[7:]}
    assert (await store.read("ann", NOON_MS)).deleted == expected
    assert (await other.read("ann", NOON_MS)).deleted == expected


async def test_forgetting_affects_one_user_in_every_process(store: UserSignals, other: UserSignals) -> None:
    await store.apply([*ACTS, Act("", "deleted", "p1", NOON_MS)])
    assert await _state(other, "ann") != UserState()
    for _ in range(2):
        await store.forget("ann")
    for each in (store, other):
        assert await _state(each, "ann") == UserState()
        read = await each.read("bob", NOON_MS)
        assert seen(read.state) == keys("ping-9")
        assert read.deleted == {"p1"}
    await other.apply([Act("ann", "seen", "p3", NOON_MS)])
    for each in (store, other):
        assert await _state(each, "ann") == UserState(session=Session(seen={seen_key("p3"): NOON_MS}))


async def test_applied_acts_outlive_the_instance(store: UserSignals, open_store: Callable[[], UserSignals]) -> None:
    await store.apply(ACTS)
    before = await _state(store, "ann")
    await store.close()
    again = open_store()
    assert await _state(again, "ann") == before
    await again.close()


async def test_a_ready_store_passes_its_check(store: UserSignals) -> None:
    await store.mark_complete()
    await store.check()
