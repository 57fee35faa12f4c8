"""Feed quality: what counts as popular and as new, and when a feed passes."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from pingfeed.core.arrow import table_of_rows
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import NotFound
from pingfeed.core.events import Row
from simulator.lake import write_history
from simulator.measure import (
    Affinities,
    affinities,
    bootstrap,
    choose_users,
    most_popular,
    newest,
    open_events,
    passed,
    served_pings,
)
from simulator.remote import Services
from simulator.world import TICK_MS, Spec, World, ping_id

UNTIL_MS = 1_800_000_000_000 // TICK_MS * TICK_MS


def row(kind: str, ping: str, user: str = "u", days_ago: float = 1, **more: Any) -> Row:
    at_ms = int(UNTIL_MS - days_ago * DAY_MS)
    return {"event_id": "x", "event_type": kind, "user_id": user, "ping_id": ping, "received_ms": at_ms} | more


def lake_of(tmp_path: Path, rows: list[Row]) -> Any:
    folder = tmp_path / "events/year=2027/month=01/day=15"
    folder.mkdir(parents=True)
    pq.write_table(table_of_rows(rows), folder / "part-1.parquet")
    (folder / ".part-2.parquet").write_bytes(b"half written")
    return open_events(tmp_path)


def test_popular_pings_have_the_most_recent_engagement(tmp_path: Path) -> None:
    events = lake_of(
        tmp_path,
        [
            *(row("like", "loved", user) for user in "abc"),
            *(row("like", "spammed") for _ in range(9)),
            *(row("view", "skimmed", user, watch_time_ratio=0.4) for user in "abcde"),
            *(row("view", "watched", user, watch_time_ratio=0.5) for user in "ab"),
            *(row("like", "long-ago", user, days_ago=8) for user in "abcde"),
            *(row("like", "deleted", user) for user in "abcde"),
            row("ping_deleted", "deleted"),
        ],
    )
    assert most_popular(events, UNTIL_MS) == ["loved", "watched", "spammed"]
    assert most_popular(events, UNTIL_MS, 1) == ["loved"]


def test_newest_orders_by_first_announcement(tmp_path: Path) -> None:
    announced = (("old", 5), ("new", 1), ("older", 6), ("older", 0.5), ("to-come", -1))
    events = lake_of(tmp_path, [row("ping_created", ping, days_ago=days) for ping, days in announced])
    assert newest(events, UNTIL_MS) == ["new", "old", "older"]


def test_a_lake_without_events_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no events"):
        open_events(tmp_path)


def test_an_interval_contains_its_mean_and_narrows_with_more_users() -> None:
    values = np.random.default_rng(1).normal(0.1, 1, 2000)
    few, many = bootstrap(values[:50]), bootstrap(values)
    assert few[0] < values[:50].mean() < few[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 3
    assert many[1] - many[0] == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.1)
    assert bootstrap(values) == many


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, True), (0.0, False), (-0.1, False)])
def test_only_intervals_above_zero_pass(gain: float, verdict: bool) -> None:
    rng = np.random.default_rng(1)
    rival = rng.random(100)
    noise = rng.normal(0, 0.05, 100)
    served = rival + gain + noise - noise.mean()
    report = Affinities(served, rival, rival, rival + 1).report()
    assert passed(report) is verdict
    assert report["paired"]["served-popular"]["mean"] == pytest.approx(gain, abs=1e-9)
    worse_than_one = Affinities(served, rival, served, rival + 1).report()
    assert not passed(worse_than_one)


def test_users_are_sampled_by_seed_without_repeats() -> None:
    world = World.build(Spec(users=50, pings=60, days=1, until_ms=UNTIL_MS))
    users = choose_users(world, 20, 3).tolist()
    assert len(set(users)) == 20
    assert users == choose_users(world, 20, 3).tolist() != choose_users(world, 20, 4).tolist()
    assert len(choose_users(world, 200, 3)) == 50


async def test_an_oracle_feed_passes_and_the_popular_feed_does_not(tmp_path: Path) -> None:
    world = World.build(Spec(users=40, pings=80, days=1, until_ms=UNTIL_MS))
    write_history(world, tmp_path / "lake")
    events = open_events(tmp_path / "lake")
    users = choose_users(world, 40, 0)

    def oracle(request: httpx.Request) -> httpx.Response:
        user = int(request.url.params["user_id"].split("-")[1])
        best = world.true_affinity(user, np.arange(80), UNTIL_MS).argsort()[::-1][:10]
        items = [{"ping_id": ping_id(number)} for number in best.tolist()]
        return httpx.Response(200, json={"request_id": "r", "items": items, "degraded": []})

    async with httpx.AsyncClient(transport=httpx.MockTransport(oracle)) as client:
        served = await served_pings(Services(client, "", "http://127.0.0.1:8001", attempts=1), users)
    report = affinities(world, users, served, events, UNTIL_MS).report()
    assert passed(report)
    assert report["users"] == 40
    assert report["served"]["mean"] == pytest.approx(report["oracle"]["mean"])
    assert report["oracle"]["mean"] > report["popular"]["mean"] > 0
    popular = [most_popular(events, UNTIL_MS)] * 40
    same = affinities(world, users, popular, events, UNTIL_MS).report()
    assert same["paired"]["served-popular"] == {"mean": 0, "ci": [0, 0]}
    assert not passed(same)


def test_foreign_pings_are_ignored_and_an_empty_feed_scores_zero(tmp_path: Path) -> None:
    world = World.build(Spec(users=40, pings=80, days=1, until_ms=UNTIL_MS))
    write_history(world, tmp_path / "lake")
    users = np.array([3, 3, 3])
    served = [[ping_id(5), "a-guests-ping"], [ping_id(5)], []]
    means = affinities(world, users, served, open_events(tmp_path / "lake"), UNTIL_MS).served
    assert means[0] == means[1] > means[2] == 0
