"""The hot lists in memory, and the lift that they and a follow give."""

from pathlib import Path

import numpy as np
import pytest

from feed_api.metrics import FeedMetrics
from feed_api.trending_cache import FULL_HEAT, MIN_WEIGHT, TrendingCache, in_rows
from pingfeed.adapters.trending_snapshot import SnapshotTrending
from pingfeed.core.clock import HOUR_MS
from pingfeed.core.ranker import model_key
from pingfeed.core.signals import Engagement
from pingfeed.core.snapshot import Snapshot
from pingfeed.web.metrics import Metrics
from tests.unit.fakes import MemoryTrending
from tests.unit.feed_world import (
    NOW_MS,
    Time,
    World,
    catalogue,
    feed_world,
    packet_bytes,
    snapshot_bytes,
    until,
)
from tests.unit.small_model import manifest, train

SNAPSHOT = Snapshot(snapshot_bytes(catalogue(50)))


@pytest.fixture
def trending() -> MemoryTrending:
    return MemoryTrending()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def board(trending: MemoryTrending, time: Time) -> TrendingCache:
    return TrendingCache(trending, lambda: time.now_ms, FeedMetrics(Metrics()))


async def like(trending: MemoryTrending, ping_id: str, users: int, country: str | None = "DE") -> None:
    await trending.add([Engagement(f"u{i}", ping_id, "like", country, NOW_MS) for i in range(users)])


async def test_a_countrys_list_is_read_after_its_first_request(board: TrendingCache, trending: MemoryTrending) -> None:
    await like(trending, "p007", 20)
    assert board.hot("DE", SNAPSHOT, NOW_MS) is None
    assert board.wanted.is_set()
    await board.refresh()
    assert not board.wanted.is_set()
    hot = board.hot("DE", SNAPSHOT, NOW_MS)
    assert hot is not None
    assert hot.rows.tolist() == [7]


async def test_there_is_a_list_per_country_and_an_overall_one(board: TrendingCache, trending: MemoryTrending) -> None:
    await like(trending, "p001", 20, "DE")
    await like(trending, "p002", 30, "FR")
    for country in ("DE", "FR", None):
        board.hot(country, SNAPSHOT, NOW_MS)
    await board.refresh()
    rows = {c: hot.rows.tolist() for c in ("DE", "FR", None) if (hot := board.hot(c, SNAPSHOT, NOW_MS))}
    assert rows == {"DE": [1], "FR": [2], None: [2, 1]}


def test_shares_are_relative_to_the_hottest_and_zero_outside_the_list() -> None:
    hot = in_rows([("gone", 40.0), ("p003", 20.0), ("p001", 10.0), ("p002", MIN_WEIGHT / 2)], SNAPSHOT)
    shares = hot.shares(np.array([1, 2, 3, 4, 1]))
    np.testing.assert_array_equal(shares, np.array([10, MIN_WEIGHT / 2, 20, 0, 10], np.float32) / 40)
    assert hot.rows.tolist() == [3, 1]  # what hardly anybody liked is no candidate
    assert hot.heat == 1


def test_a_quiet_countrys_list_has_less_heat() -> None:
    assert in_rows([("p001", FULL_HEAT / 4)], SNAPSHOT).heat == 0.25
    empty = in_rows([], SNAPSHOT)
    assert empty.heat == 0
    assert empty.shares(np.array([0, 1])).tolist() == [0, 0]


async def test_a_list_follows_the_live_snapshots_rows(board: TrendingCache, trending: MemoryTrending) -> None:
    await like(trending, "p030", 20)
    board.hot("DE", SNAPSHOT, NOW_MS)
    await board.refresh()
    other = Snapshot(snapshot_bytes(catalogue(50)[20:]))
    for snapshot, row in ((SNAPSHOT, 30), (other, 10), (SNAPSHOT, 30)):
        hot = board.hot("DE", snapshot, NOW_MS)
        assert hot is not None
        assert hot.rows.tolist() == [row]


async def test_a_list_that_cannot_be_refreshed_becomes_stale(
    board: TrendingCache, trending: MemoryTrending, time: Time
) -> None:
    board.hot("DE", SNAPSHOT, NOW_MS)
    await board.refresh()
    trending.down = "out of order"
    known = []
    for _ in range(9):
        time.now_ms += 60_000
        await board.refresh()
        known.append(board.hot("DE", SNAPSHOT, time.now_ms) is not None)
    assert known == [True] * 5 + [False] * 4


async def test_a_store_without_counters_never_gives_a_list(time: Time) -> None:
    metrics = Metrics()
    board = TrendingCache(SnapshotTrending("snapshot://"), lambda: time.now_ms, FeedMetrics(metrics))
    for _ in range(3):
        assert board.hot("DE", SNAPSHOT, time.now_ms) is None
        await board.refresh()
        time.now_ms += 3_000
    assert not board.wanted.is_set()
    assert b"pingfeed_feed_trending_failures_total 0.0" in metrics.render()


async def test_an_idle_country_is_no_longer_refreshed(
    board: TrendingCache, trending: MemoryTrending, time: Time
) -> None:
    board.hot("DE", SNAPSHOT, NOW_MS)
    await board.refresh()
    time.now_ms += HOUR_MS
    await board.refresh()
    trending.asked.clear()
    await board.refresh()
    assert trending.asked == [None]


async def boosts_with(world: World, learned: list[str]) -> dict[str, float]:
    """The boosts of a just-followed creator's hot ping, under a model that learned these real-time features."""
    world.artifacts.data[model_key("m1", "model.txt")] = train().model_to_string().encode()
    world.artifacts.data[model_key("m1", "manifest.json")] = manifest(learned_realtime=learned, score_std=0.25)
    world.point("model", "m1")
    await world.act("follow", "c3")
    await world.likes("p003", users=20)
    found: dict[str, float] = {}

    async def hot() -> bool:
        feed = await world.feed(explain=True, limit=50)
        item = next(item for item in feed["items"] if item["ping_id"] == "p003")
        found.clear()
        found.update(item["explain"]["boosts"])
        return bool(feed["model_id"] == "m1" and item["explain"]["features"]["trending_now"] == 1)

    await until(hot)
    return found


async def test_boosts_are_in_units_of_the_models_score_deviation(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(60), packet=packet_bytes(range(60))) as world:
        assert await boosts_with(world, []) == {"trending_now": 2 * 0.25, "just_followed": 1.5 * 0.25}


@pytest.mark.parametrize("learned", ["trending_now", "just_followed"])
async def test_a_signal_that_the_model_learned_gets_no_second_boost(tmp_path: Path, learned: str) -> None:
    async with feed_world(tmp_path, catalogue(60), packet=packet_bytes(range(60))) as world:
        found = await boosts_with(world, [learned])
        assert learned not in found
        assert len(found) == 1
