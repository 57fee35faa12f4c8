"""Live traffic over HTTP, against fake services behind a mock transport."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from pingfeed.core.errors import InvalidInput, PingfeedError, Unavailable
from pingfeed.core.events import Row, to_rows
from pingfeed.core.ids import uuid7
from simulator.catalogue import LIVE_EVERY_MS
from simulator.lake import ping_event_id
from simulator.live import LiveTraffic, RateLimiter
from simulator.remote import Services, check_loopback
from simulator.world import TICK_MS, Spec, World, ping_id

UNTIL_MS = 1_800_000_000_000 // TICK_MS * TICK_MS
NOW_MS = UNTIL_MS + 2 * LIVE_EVERY_MS + 5
INGEST, FEED = "http://127.0.0.1:8000", "http://127.0.0.1:8001"


class FakeServices:
    """Serves the world's first pings and validates events as ingest does, after answering 503 `away` times."""

    def __init__(self, away: int = 0, enough: int = 300) -> None:
        self.rows: list[Row] = []
        self.served: dict[str, list[str]] = {}
        self.away = away
        self.enough = enough
        self.stop: Callable[[], None] = lambda: None

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if self.away:
            self.away -= 1
            return httpx.Response(503, headers={"Retry-After": "0"}, json={"error": {"message": "away"}})
        return self._feed() if request.url.port == 8001 else self._take(request)

    def _feed(self) -> httpx.Response:
        number = len(self.served)
        request_id, pings = f"request-{number}", [ping_id((number * 7 + at) % 60) for at in range(10)]
        self.served[request_id] = pings
        items = [{"ping_id": ping} for ping in pings]
        return httpx.Response(200, json={"request_id": request_id, "items": items, "degraded": []})

    def _take(self, request: httpx.Request) -> httpx.Response:
        events = json.loads(request.content)["events"]
        rows, rejected = to_rows(events, NOW_MS, uuid7)
        assert not rejected, rejected[0].message
        known = {row["event_id"] for row in self.rows}
        fresh = [row for row in rows if row["event_id"] not in known]
        self.rows += fresh
        if len(self.rows) >= self.enough:
            self.stop()
        reply = {"accepted": len(fresh), "duplicates": len(rows) - len(fresh), "rejected": []}
        return httpx.Response(202, json=reply)


@pytest.fixture(scope="module")
def world() -> World:
    return World.build(Spec(users=30, pings=60, days=1, until_ms=UNTIL_MS))


async def play(world: World, fake: Any, seconds: float = 20, rate: float = 1e6) -> Any:
    async with httpx.AsyncClient(transport=httpx.MockTransport(fake)) as client:
        services = Services(client, INGEST, FEED)
        fake.stop = services.stop.set
        rng = np.random.default_rng(1)
        traffic = LiveTraffic(world, services, rate=rate, clock=lambda: NOW_MS, make_id=uuid7, rng=rng)
        return await asyncio.wait_for(traffic.run(seconds), 30)


async def test_users_request_feeds_and_report_their_reactions(world: World) -> None:
    fake = FakeServices()
    counts = await play(world, fake)
    acts = [row for row in fake.rows if row["event_type"] != "ping_created"]
    assert {"impression", "view"} <= {row["event_type"] for row in acts}
    assert len({row["user_id"] for row in acts}) > 5
    for row in acts:
        assert row["ping_id"] in fake.served[row["request_id"]]
        if "position" in row:
            assert fake.served[row["request_id"]][row["position"]] == row["ping_id"]
    assert counts.accepted == len(fake.rows) == counts.events
    assert counts.feeds == len(fake.served)
    assert counts.rejected == counts.retries == 0


async def test_a_new_ping_is_posted_under_a_fixed_event_id(world: World) -> None:
    fake = FakeServices()
    counts = await play(world, fake)
    created = [row for row in fake.rows if row["event_type"] == "ping_created"]
    assert [(row["ping_id"], row["event_id"]) for row in created] == [(ping_id(61), ping_event_id(7, 61))]
    assert counts.pings == 1


async def test_live_traffic_continues_after_an_outage(world: World) -> None:
    fake = FakeServices(away=6, enough=50)
    counts = await play(world, fake)
    assert counts.retries >= 6
    assert counts.accepted == len(fake.rows) >= 50


async def test_a_run_ends_on_time_even_if_a_service_never_recovers(world: World) -> None:
    counts = await play(world, FakeServices(away=10**9), seconds=0.05)
    assert counts.accepted == 0


async def test_nothing_is_sent_after_stop(world: World) -> None:
    fake = FakeServices(enough=1)
    await play(world, fake)
    # Each player may have had one request on its way.
    assert len(fake.rows) < 5 * 90


async def test_a_rejected_request_ends_the_run_with_its_message(world: World) -> None:
    class Closed(FakeServices):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(401, json={"error": {"code": "unauthenticated", "message": "no key was given"}})

    with pytest.raises(PingfeedError, match="401: no key was given"):
        await play(world, Closed())


def test_the_rate_limiter_spreads_events_over_time() -> None:
    now = [100.0]
    limiter = RateLimiter(10, lambda: now[0])
    assert limiter.reserve(20) == 0
    assert limiter.reserve(5) == pytest.approx(2)
    now[0] = 102.0
    assert limiter.reserve(1) == pytest.approx(0.5)
    now[0] = 110.0
    assert limiter.reserve(1) == 0


async def test_retries_end_after_the_given_attempts() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
        services = Services(client, INGEST, FEED, attempts=2)
        with pytest.raises(Unavailable, match=r"8001/get-feed does not answer: connection refused"):
            await services.get_feed("user-1")
    assert services.retries == 1


def test_hosts_other_than_loopback_need_allow_remote() -> None:
    for url in ("http://127.0.0.1:8000", "http://localhost:1/", "http://[::1]:8000"):
        assert check_loopback(url, allow_remote=False) == url.rstrip("/")
    with pytest.raises(InvalidInput, match="--allow-remote"):
        check_loopback("http://feed.example:8000", allow_remote=False)
    assert check_loopback("http://feed.example:8000/", allow_remote=True) == "http://feed.example:8000"
    with pytest.raises(InvalidInput, match="not an http address"):
        check_loopback("ftp://127.0.0.1", allow_remote=True)
