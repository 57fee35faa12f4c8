"""The hot lists in memory, and the lift that they and a follow give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feed_api.metrics import FeedMetrics
from feed_api.trending_cache import FULL_HEAT, MIN_WEIGHT, TrendingCache, in_rows
from pingfeed.adapters.trending_snapshot import SnapshotTrending
from pingfeed.core.clock import HOUR_MS
from pingfeed.core.ranker import model_key
from pingfeed.core.snapshot import Snapshot
from pingfeed.core.trending import Engagement
from pingfeed.web.metrics import Metrics
from tests.unit.fakes import MemoryTrending
from tests.unit.feed_world import NOW_MS, Time, World, catalogue, feed_world, packet_bytes, ping_ids, snapshot_bytes
from tests.unit.small_model import manifest, train

SNAPSHOT = Snapshot(snapshot_bytes(catalogue(50)))


class Board(TrendingCache):
    """The cache over counters in memory, at a time that a test moves."""

    def __init__(self) -> None:
        self.counters, self.now_ms = MemoryTrending(), NOW_MS
        super().__init__(self.counters, lambda: self.now_ms, FeedMetrics(Metrics()))

    async def like(self, ping_id: str, users: int, country: str = "DE") -> None:
        await self.counters.add([Engagement(f"u{i}", ping_id, "like", country, NOW_MS) for i in range(users)])

    def rows(self, country: str | None = "DE", snapshot: Snapshot = SNAPSHOT) -> list[int] | None:
        """The list of a country, if there is one."""
        hot = self.hot(country, snapshot, self.now_ms)
        return None if hot is None else hot.rows.tolist()


@pytest.fixture
def board() -> Board:
    return Board()


async def test_a_countrys_list_is_read_after_its_first_request(board: Board) -> None:
    await board.like("p007", 20)
    assert board.rows() is None
    assert board.wanted.is_set()
    await board.refresh()
    assert not board.wanted.is_set()
    assert board.rows() == [7]


async def test_there_is_a_list_per_country_and_an_overall_one(board: Board) -> None:
    await board.like("p001", 20, "DE")
    await board.like("p002", 30, "FR")
    for country in ("DE", "FR", None):
        board.rows(country)
    await board.refresh()
    assert [board.rows(country) for country in ("DE", "FR", None)] == [[1], [2], [2, 1]]


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


async def test_a_list_follows_the_live_snapshots_rows(board: Board) -> None:
    await board.like("p030", 20)
    board.rows()
    await board.refresh()
    other = Snapshot(snapshot_bytes(catalogue(50)[20:]))
    assert [board.rows("DE", snapshot) for snapshot in (SNAPSHOT, other, SNAPSHOT)] == [[30], [10], [30]]


async def test_a_list_that_cannot_be_refreshed_becomes_stale(board: Board) -> None:
    board.rows()
    await board.refresh()
    board.counters.down = "out of order"
    known = []
    for _ in range(9):
        board.now_ms += 60_000
        await board.refresh()
        known.append(board.rows() is not None)
    assert known == [True] * 5 + [False] * 4


async def test_a_store_without_counters_never_gives_a_list() -> None:
    metrics, time = Metrics(), Time()
    board = TrendingCache(SnapshotTrending("snapshot://"), lambda: time.now_ms, FeedMetrics(metrics))
    for _ in range(3):
        assert board.hot("DE", SNAPSHOT, time.now_ms) is None
        await board.refresh()
        time.now_ms += 3_000
    assert not board.wanted.is_set()
    assert b"pingfeed_feed_trending_failures_total 0.0" in metrics.render()


async def test_an_idle_country_is_no_longer_refreshed(board: Board) -> None:
    board.rows()
    await board.refresh()
    board.now_ms += HOUR_MS
    await board.refresh()
    board.counters.asked.clear()
    await board.refresh()
    assert board.counters.asked == [None]


async def boosts_with(world: World, learned: list[str]) -> dict[str, float]:
    """The boosts of a just-followed creator's hot ping, under a model that learned these real-time features."""
    world.artifacts.data[model_key("m1", "model.txt")] = train().model_to_string().encode()
    world.artifacts.data[model_key("m1", "manifest.json")] = manifest(learned_realtime=learned, score_std=0.25)
    world.point("model", "m1")
    await world.act("follow", "c3")
    await world.likes("p003", users=20)

    def boosted(feed: dict[str, Any]) -> dict[str, Any]:
        explained: dict[str, Any] = feed["items"][ping_ids(feed).index("p003")]["explain"]
        return explained

    def hot(feed: dict[str, Any]) -> bool:
        return bool(feed["model_id"] == "m1" and boosted(feed)["features"]["trending_now"] == 1)

    feed = await world.feed_until(hot, explain=True, limit=50)
    return dict(boosted(feed)["boosts"])


@pytest.mark.parametrize(
    ("learned", "boosts"),
    [
        ([], {"trending_now": 2 * 0.25, "just_followed": 1.5 * 0.25}),
        (["trending_now"], {"just_followed": 1.5 * 0.25}),
        (["just_followed"], {"trending_now": 2 * 0.25}),
    ],
)
async def test_boosts_are_in_units_of_the_score_deviation_and_absent_for_what_the_model_learned(
    tmp_path: Path, learned: list[str], boosts: dict[str, float]
) -> None:
    async with feed_world(tmp_path, catalogue(60), packet=packet_bytes(range(60))) as world:
        assert await boosts_with(world, learned) == boosts
