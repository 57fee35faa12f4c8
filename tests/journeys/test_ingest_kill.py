"""Nothing that was acknowledged is lost: SIGKILL at random moments under load, restarts, and a graceful stop."""

import asyncio
import random
import signal
import socket
import uuid
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pyarrow.parquet as pq
import pytest

from pingfeed.adapters import registry
from pingfeed.core.clock import system_clock
from pingfeed.settings import Settings, url_path
from tests.conformance.samples import eventually
from tests.journeys.conftest import Running, Services, wait_for

ROUNDS: Final = 4
CLIENTS: Final = 4
BATCH: Final = 20


def batch_of(user: str) -> list[dict[str, Any]]:
    """A follow, then likes, all by one user."""
    likes = [{"event_type": "like", "user_id": user, "ping_id": f"p{n}"} for n in range(BATCH - 1)]
    events = [{"event_type": "follow", "user_id": user, "creator_id": f"of-{user}"}, *likes]
    return [event | {"event_id": str(uuid.uuid4())} for event in events]


async def load_until_dead(ingest: Running, acknowledged: dict[str, list[str]], name: str) -> None:
    """Post batches one after the other until the service is gone; note the ids of each one that got its 202."""
    async with httpx.AsyncClient(base_url=ingest.url, timeout=30) as client:
        for number in range(1_000_000):
            user = f"{name}-{number}"
            events = batch_of(user)
            try:
                answer = await client.post("/track-events", json={"events": events})
            except httpx.TransportError:
                return
            assert (answer.status_code, answer.json()["accepted"]) == (202, BATCH)
            acknowledged[user] = [str(event["event_id"]) for event in events]


async def one_round(ingest: Running, acknowledged: dict[str, list[str]], name: str) -> None:
    """Load, and SIGKILL at a random moment after the first answer, however slow the machine is."""
    before = len(acknowledged)
    clients = [asyncio.create_task(load_until_dead(ingest, acknowledged, f"{name}-{c}")) for c in range(CLIENTS)]
    await eventually(lambda: len(acknowledged) > before, within_s=60)
    await asyncio.sleep(random.uniform(0, 0.5))
    ingest.kill()
    await asyncio.gather(*clients)


def landed(settings: Settings) -> Iterator[str]:
    """The event ids in every Parquet file that a reader of the lake sees."""
    lake = registry.open_lake(settings)
    for path in lake.list("events"):
        yield from pq.read_table(url_path(settings.lake_url) / path, columns=["event_id"])["event_id"].to_pylist()


async def test_acked_event_survives_kill(services: Services) -> None:
    """At least once in the lake, whenever the kill came: while appending, delivering, writing Parquet, settling."""
    acknowledged: dict[str, list[str]] = {}
    for number in range(ROUNDS):
        ingest = services.start("ingest", SINK_FLUSH_SECONDS="0.05")
        await one_round(ingest, acknowledged, f"r{number}")
    assert services.start("ingest").stop() == 0
    ids = {event_id for events in acknowledged.values() for event_id in events}
    assert ids - set(landed(services.settings)) == set()
    await follows_are_known(services.settings, acknowledged)


async def follows_are_known(settings: Settings, acknowledged: dict[str, list[str]]) -> None:
    """202 means applied, too."""
    signals = registry.open_signals(settings)
    try:
        for user in acknowledged:
            state = (await signals.read(user, system_clock())).state
            assert state.following() == {f"of-{user}"}
            assert len(state.session.seen) == BATCH - 1
    finally:
        await signals.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_graceful_stop_delivers_what_is_spooled(services: Services, number: signal.Signals) -> None:
    ingest = services.start("ingest", SINK_FLUSH_SECONDS="900")
    events = batch_of("u1")
    httpx.post(f"{ingest.url}/track-events", json={"events": events}).raise_for_status()
    assert list(landed(services.settings)) == []
    assert ingest.stop(number) == 0
    assert sorted(landed(services.settings)) == sorted(str(event["event_id"]) for event in events)
    assert not [line for line in ingest.log() if line["level"] in ("error", "critical")]


def accepts_connections(url: str) -> bool:
    host, _, port = url.removeprefix("http://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


async def test_a_request_that_was_begun_is_finished_before_the_stop(services: Services) -> None:
    """Its body is still arriving when the stop is asked for: it is answered, stored and delivered all the same."""
    ingest = services.start("ingest", SINK_FLUSH_SECONDS="900")
    body = httpx.Request("POST", "http://x", json={"events": batch_of("u1")}).read()
    half = len(body) // 2

    async def pieces() -> Any:
        yield body[:half]
        ingest.process.terminate()
        await asyncio.to_thread(wait_for, lambda: not accepts_connections(ingest.url), "the stop to begin")
        yield body[half:]

    async with httpx.AsyncClient(timeout=30) as client:
        answer = await client.post(f"{ingest.url}/track-events", content=pieces())
    assert answer.json()["accepted"] == BATCH
    assert ingest.process.wait(30) == 0
    assert len(list(landed(services.settings))) == BATCH
