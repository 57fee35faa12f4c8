"""SIGKILL on the feed at random moments: it comes back, honours what was asked for, and logs what it had spooled."""

import asyncio
import random
from collections import Counter
from typing import Any, Final

import httpx
import pyarrow.parquet as pq

from batch.jobs import tick
from batch.jobs.nightly import etl
from batch.wiring import build
from pingfeed.adapters import registry
from pingfeed.core.events import decode_rows
from pingfeed.settings import url_path
from pingfeed.spool.spool import Spool
from simulator.lake import write_history
from simulator.world import Spec, World, user_id
from tests.conformance.samples import eventually
from tests.journeys.conftest import Running, Services, wait_for

ROUNDS: Final = 3
TICK_MS: Final = 900_000


def a_small_town(services: Services) -> None:
    """Two days of a small world, and packets for everyone in it."""
    batch = build(services.settings, quiet=True)
    now_tick = batch.ticks.of(batch.clock())
    spec = Spec(seed=2, users=30, pings=200, days=2, until_ms=now_tick * TICK_MS, tick_ms=TICK_MS)
    write_history(World.build(spec), services.home / "lake")
    etl(batch, now_tick)
    tick.run(batch, now_tick, everyone=True)


async def ask_until_dead(feed: Running, hidden: dict[str, str], answered: Counter[int], name: int) -> None:
    """Ask for feeds until the service is gone; none may hold what its user hid."""
    async with httpx.AsyncClient(base_url=feed.url, timeout=30) as client:
        for number in range(1_000_000):
            user = user_id((name + number) % 30)
            try:
                answer = await client.get("/get-feed", params={"user_id": user})
            except httpx.TransportError:
                return
            assert answer.status_code == 200
            assert hidden[user] not in {item["ping_id"] for item in answer.json()["items"]}
            answered[name] += 1
    raise AssertionError("the feed was never killed")


def logged(services: Services) -> Counter[str]:
    """How often each response is in the lake."""
    lake = registry.open_lake(services.settings)
    found: Counter[str] = Counter()
    for path in lake.list("events"):
        if "/part-" in path:
            rows = pq.read_table(url_path(services.settings.lake_url) / path, columns=["event_type", "request_id"])
            served = (row for row in rows.to_pylist() if row["event_type"] == "feed_served")
            found.update(row["request_id"] for row in served)
    return found


def spooled(services: Services) -> set[str]:
    """The responses that a killed feed left in its spool."""
    spool = Spool(services.settings.spool_dir / "feed")
    try:
        records = [record for segment in spool.segments() for record in spool.records(segment)]
        return {row["request_id"] for record in records for row in decode_rows(record.lines)}
    finally:
        asyncio.run(spool.close())


def hide_one_each(services: Services, feed: Running) -> dict[str, str]:
    """Every user hides the first ping of their feed."""
    ingest = services.start("ingest")
    hidden: dict[str, str] = {}
    events: list[dict[str, Any]] = []
    for number in range(30):
        user = user_id(number)
        items = httpx.get(f"{feed.url}/get-feed", params={"user_id": user}, timeout=30).json()["items"]
        hidden[user] = items[0]["ping_id"]
        events.append({"event_type": "hide", "user_id": user, "ping_id": hidden[user]})
    httpx.post(f"{ingest.url}/track-events", json={"events": events}, timeout=30).raise_for_status()
    return hidden


def test_a_killed_feed_restarts_and_its_spooled_events_land(services: Services) -> None:
    a_small_town(services)
    feed = services.start("feed", FEED_BUDGET_MS="5000")
    hidden = hide_one_each(services, feed)
    left_behind: set[str] = set()
    for _ in range(ROUNDS):
        asyncio.run(one_round(feed, hidden))
        left_behind |= spooled(services)
        feed = services.start("feed", FEED_BUDGET_MS="5000", SINK_FLUSH_SECONDS="0.05")
    assert left_behind, "a kill was to come while something was spooled"
    wait_for(lambda: left_behind <= set(logged(services)), "every spooled response to land")
    assert feed.stop() == 0


async def one_round(feed: Running, hidden: dict[str, str]) -> None:
    """Load from three clients, then SIGKILL at a random moment after the first answer."""
    answered: Counter[int] = Counter()
    clients = [asyncio.create_task(ask_until_dead(feed, hidden, answered, name)) for name in range(3)]
    await eventually(lambda: answered.total() > 0, within_s=60)
    await asyncio.sleep(random.uniform(0, 0.5))
    feed.kill()
    await asyncio.gather(*clients)
