"""What every UserSignals promises (`ports.UserSignals`). A new adapter is one entry of ADAPTERS."""

import asyncio
from collections.abc import Callable

import pytest

from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals
from pingfeed.adapters.user_signals_redis import RedisUserSignals
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.signals import DELETED_TTL_MS, MAX_DELETED, STATE_TTL_MS, Act, UserState
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
]


async def _state(store: UserSignals, user_id: str, now_ms: int = NOON_MS + 10) -> UserState:
    return (await store.read(user_id, now_ms)).state


async def test_acts_become_the_state(store: UserSignals) -> None:
    await store.apply(ACTS)
    state = await _state(store, "ann")
    assert state.following() == {"creator-2"}
    assert state.blocks.keys() == {"creator-3"}
    assert state.hides.keys() == {"ping-1"}
    assert state.seen.keys() == {"ping-2"}
    assert state.session(NOON_MS + 10) == ["ping-2"]
    assert [served.pings for served in state.served] == [["ping-2", "ping-3"], ["ping-4"]]
    assert (await _state(store, "bob")).seen.keys() == {"ping-9"}


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
        assert f"p{number}" in read.state.seen
        assert f"d{number}" in read.deleted


async def test_concurrent_applies_from_two_instances_lose_nothing(store: UserSignals, other: UserSignals) -> None:
    acts = [Act(f"user-{n % 3}", "seen", f"p{n}", NOON_MS + n) for n in range(120)]
    await asyncio.gather(*((store, other)[n % 2].apply([act]) for n, act in enumerate(acts)))
    for user in range(3):
        seen = (await _state(store, f"user-{user}")).seen
        assert seen.keys() == {f"p{n}" for n in range(120) if n % 3 == user}


async def test_a_state_expires_after_its_last_act(store: UserSignals) -> None:
    await store.apply([Act("ann", "seen", "p1", NOON_MS), Act("ann", "seen", "p2", NOON_MS + 1000)])
    end_ms = NOON_MS + 1000 + STATE_TTL_MS
    assert (await _state(store, "ann", end_ms - 1)).seen.keys() == {"p1", "p2"}
    assert await _state(store, "ann", end_ms) == UserState()


async def test_an_act_after_expiry_starts_a_new_state(store: UserSignals) -> None:
    await store.apply([Act("ann", "hide", "p1", NOON_MS)])
    back_ms = NOON_MS + STATE_TTL_MS
    await store.apply([Act("ann", "seen", "p2", back_ms)])
    state = await _state(store, "ann", back_ms)
    assert state.hides == {}
    assert state.seen.keys() == {"p2"}


async def test_a_late_act_does_not_shorten_the_ttl(store: UserSignals) -> None:
    await store.apply([Act("ann", "seen", "p1", NOON_MS)])
    await store.apply([Act("ann", "seen", "p0", NOON_MS - 5000)])
    assert (await _state(store, "ann", NOON_MS + STATE_TTL_MS - 1)).seen.keys() == {"p0", "p1"}


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


async def test_forgetting_affects_one_user_and_can_be_repeated(store: UserSignals) -> None:
    await store.apply([*ACTS, Act("", "deleted", "p1", NOON_MS)])
    await store.forget("ann")
    await store.forget("ann")
    assert await _state(store, "ann") == UserState()
    read = await store.read("bob", NOON_MS)
    assert read.state.seen.keys() == {"ping-9"}
    assert read.deleted == {"p1"}


async def test_applied_acts_outlive_the_instance(store: UserSignals, open_store: Callable[[], UserSignals]) -> None:
    await store.apply(ACTS)
    before = await _state(store, "ann")
    await store.close()
    again = open_store()
    assert await _state(again, "ann") == before
    await again.close()


async def test_changing_a_read_state_changes_nothing_stored(store: UserSignals) -> None:
    await store.apply(ACTS)
    (await _state(store, "ann")).hides.clear()
    assert (await _state(store, "ann")).hides.keys() == {"ping-1"}


async def test_a_ready_store_passes_its_check(store: UserSignals) -> None:
    await store.check()
