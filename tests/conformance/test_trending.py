"""What every Trending promises (`ports.Trending`). A new adapter is one entry of ADAPTERS."""

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pingfeed.adapters.trending_redis import RedisTrending
from pingfeed.adapters.trending_snapshot import SnapshotTrending
from pingfeed.adapters.trending_sqlite import SqliteTrending
from pingfeed.core.clock import DAY_MS, HOUR_MS
from pingfeed.core.trending import MAX_LANDMARK_AGE_MS, TRENDING_WEIGHTS, Engagement, decay_between
from pingfeed.ports import Trending
from tests.conformance.place import Place
from tests.conformance.samples import NOON_MS

pytestmark = pytest.mark.conformance


class Counters(Trending, Protocol):
    """A Trending that counts."""

    async def top(self, country: str | None, limit: int, now_ms: int) -> list[tuple[str, float]]: ...


Open = Callable[[Place], Counters]
COUNTERS: dict[str, Open] = {
    "sqlite": lambda place: SqliteTrending(f"sqlite://{place.folder}/trending.sqlite"),
    "redis": lambda place: RedisTrending(place.redis_url),
    "redis+cluster": lambda place: RedisTrending(place.redis_cluster_url),
}
ADAPTERS: dict[str, Callable[[Place], Trending]] = {**COUNTERS, "snapshot": lambda _: SnapshotTrending("snapshot://")}


def _like(user: str, ping: str, at_ms: int = NOON_MS, country: str | None = "DE") -> Engagement:
    return Engagement(user, ping, "like", country, at_ms)


MIDNIGHT = NOON_MS - NOON_MS % DAY_MS + DAY_MS
LATE_MS = NOON_MS + 2 * MAX_LANDMARK_AGE_MS


async def _counted(*stores: Counters) -> None:
    """What was added by a store's object is counted once that object was asked."""
    for each in stores:
        await each.top(None, 1, NOON_MS)


async def _names(store: Counters, country: str | None, limit: int = 10) -> list[str]:
    return [ping_id for ping_id, _ in await store.top(country, limit, NOON_MS)]


async def test_hottest_first_by_country_and_overall(store: Counters) -> None:
    await store.add([_like("ann", "p1"), _like("bob", "p1"), _like("cem", "p2"), _like("dan", "p3", country="FR")])
    await store.add([_like("eve", "p3", country=None), _like("fay", "p3", country="FR")])
    assert await _names(store, "DE") == ["p1", "p2"]
    assert dict(await store.top("DE", 10, NOON_MS)) == {"p1": pytest.approx(6), "p2": pytest.approx(3)}
    assert dict(await store.top("FR", 10, NOON_MS)) == {"p3": pytest.approx(6)}
    assert await _names(store, None) == ["p3", "p1", "p2"]
    assert await _names(store, None, 2) == ["p3", "p1"]


async def test_a_country_without_engagements_has_no_top(store: Counters) -> None:
    await store.add([])
    assert await store.top(None, 10, NOON_MS) == []
    await store.add([_like("ann", "p1")])
    assert await store.top("US", 10, NOON_MS) == []


async def test_one_engagement_counts_per_user_ping_and_type_a_day(store: Counters, other: Counters) -> None:
    for each in (store, other, store):
        await each.add([_like("ann", "p1"), _like("ann", "p1", NOON_MS + 1)])
        await _counted(each)
    await store.add([Engagement("ann", "p1", "share", "DE", NOON_MS), _like("ann", "p2")])
    hot = dict(await store.top("DE", 10, NOON_MS))
    assert hot == {"p1": pytest.approx(3 + 5), "p2": pytest.approx(3)}


async def test_weights_halve_every_hour(store: Counters) -> None:
    await store.add([_like("ann", "p1")])
    for hours in (0, 1, 5, 400):
        ((_, weight),) = await store.top("DE", 1, NOON_MS + hours * HOUR_MS)
        assert weight == pytest.approx(3 * 0.5**hours)


async def test_the_same_instance_sees_it_at_once(store: Counters) -> None:
    for number in range(3):
        await store.add([_like("ann", f"p{number}")])
        assert len(await store.top("DE", 10, NOON_MS)) == number + 1


async def test_another_instance_sees_it_soon(store: Counters, other: Counters) -> None:
    for number in range(2):
        await store.add([_like("ann", f"p{number}")])
        end = time.monotonic() + 30  # Within a second, on a machine that does nothing else.
        while len(await other.top("DE", 10, NOON_MS)) < number + 1:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)


async def test_what_was_added_before_closing_is_counted(adapter: Open, place: Place, store: Counters) -> None:
    closed = adapter(place)
    await closed.add([_like("ann", "p1")])
    await closed.close()
    assert await _names(store, "DE") == ["p1"]


async def test_concurrent_adds_from_two_instances_lose_nothing(store: Counters, other: Counters) -> None:
    adds = [((store, other)[n % 2], _like(f"user-{n}", f"p{n % 2}")) for n in range(60)]
    await asyncio.gather(*(each.add([engagement]) for each, engagement in adds))
    await _counted(store, other)
    assert dict(await store.top("DE", 10, NOON_MS)) == {"p0": pytest.approx(90), "p1": pytest.approx(90)}


async def test_a_moved_landmark_keeps_order_and_values(store: Counters, other: Counters) -> None:
    """Hour by hour past the landmark's age: at every step the weights are those of the plain formula."""
    end_ms = NOON_MS + MAX_LANDMARK_AGE_MS + 6 * HOUR_MS
    late = range(end_ms - 12 * HOUR_MS, end_ms, HOUR_MS)
    await store.add([_like("first", "p-first")])
    added: list[Engagement] = []
    for number, at_ms in enumerate(late):
        new = [_like(f"{number}-{n}", f"p{n}", at_ms) for n in range(number % 4 + 1)]
        added += new
        await (store, other)[number % 2].add(new)
        await _counted(store, other)
        expected = _brute_force(added, at_ms)
        top = dict(await store.top(None, 100, at_ms))
        top.pop("p-first", None)
        assert top == pytest.approx(expected)


async def test_only_the_hottest_pings_of_a_country_are_kept(store: Counters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[type(store).__module__], "MAX_PINGS", 16)
    for number in range(100):
        await store.add([_like(f"u{k}", f"p{number}") for k in range(1 + number % 50)])
        await _counted(store)
    top = await _names(store, "DE", 100)
    assert len(top) <= 16 + 16 // 8 + 1
    assert set(top[:10]) == {f"p{n}" for k in (49, 48, 47, 46, 45) for n in (k, k + 50)}


def _brute_force(engagements: Sequence[Engagement], now_ms: int) -> dict[str, float]:
    """Weights at `now_ms` by the definition: the first of each (user, ping, type) a day, decayed by its age."""
    first = {(e.user_id, e.ping_id, e.event_type, e.at_ms // DAY_MS): e for e in reversed(engagements)}
    weights: dict[str, float] = {}
    for e in first.values():
        weight = TRENDING_WEIGHTS[e.event_type] * decay_between(e.at_ms, now_ms)
        weights[e.ping_id] = weights.get(e.ping_id, 0) + weight
    return weights


_engagements = st.lists(
    st.builds(
        Engagement,
        st.sampled_from(["ann", "bob", "cem"]),
        st.sampled_from(["p1", "p2", "p3", "p4"]),
        st.sampled_from(sorted(TRENDING_WEIGHTS)),
        st.sampled_from(["DE", "FR", None]),
        st.integers(NOON_MS, NOON_MS + 20 * HOUR_MS) | st.integers(NOON_MS, NOON_MS + 2 * MAX_LANDMARK_AGE_MS),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])  # each has a fresh place
@example(
    engagements=[_like("ann", "p", MIDNIGHT - 1), _like("ann", "p", MIDNIGHT)], calls=1
)  # The next day counts again.
@example(
    engagements=[_like("ann", "old"), _like("cem", "late", LATE_MS - HOUR_MS), _like("bob", "new", LATE_MS)], calls=2
)
@given(engagements=_engagements, calls=st.integers(1, 5))
def test_the_stored_order_is_that_of_brute_force_decay(
    adapter: Open, place: Place, engagements: list[Engagement], calls: int
) -> None:
    """In any order of arrival, over any number of calls, past any number of moved landmarks."""
    batches = [engagements[call::calls] for call in range(calls)]
    engagements = [e for batch in batches for e in batch]
    now_ms = max(e.at_ms for e in engagements)
    top = asyncio.run(_top_after(adapter, place.another(), batches, now_ms))
    expected = _brute_force(engagements, now_ms)
    # What is two days old may be left out: it weighs 2 ** -48 of what is fresh.
    for ping_id, weight in expected.items():
        assert dict(top).get(ping_id, 0.0) == pytest.approx(weight, rel=1e-9, abs=1e-12)
    order = [expected[ping_id] for ping_id, _ in top]
    assert all(a >= b * (1 - 1e-9) - 1e-12 for a, b in itertools.pairwise(order))


async def _top_after(
    adapter: Open, place: Place, batches: Sequence[Sequence[Engagement]], now_ms: int
) -> list[tuple[str, float]]:
    store = adapter(place)
    for batch in batches:
        await store.add(batch)
    top = await store.top(None, 10, now_ms)
    await store.close()
    return top


async def test_a_store_without_counters_returns_none(place: Place) -> None:
    store = ADAPTERS["snapshot"](place)
    await store.check()
    await store.add([_like(f"user-{n}", "p1") for n in range(20)])
    assert [await store.top(country, 10, NOON_MS) for country in (None, "DE")] == [None, None]
    await store.close()


async def test_a_ready_store_passes_its_check(store: Counters) -> None:
    await store.add([])
    await store.check()
