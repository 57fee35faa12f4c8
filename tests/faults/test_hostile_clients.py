"""Clients that hold connections, or send without end, cost other clients nothing. Note `ulimit -n` of this process."""

import asyncio
import http.client
import json
import resource
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.faults.checks import rss_mb
from tests.journeys.conftest import Running, Services
from tests.prove import figure, rounds

HELD: Final = rounds(150, 1200)
GOOD: Final = rounds(40, 200)
GROWTH_MB: Final = 64
EVENT: Final = {"event_type": "follow", "user_id": "u", "creator_id": "c"}
POST: Final = b"POST /track-event HTTP/1.1\r\nHost: a\r\n"
ATTACKS: Final = {
    "idle half-requests": (POST, b""),
    "endless headers": (POST, b"a: b\r\n" * 2000),
    "bodies of one byte a second": (POST + b"Content-Length: 100000\r\n\r\n", b"a"),
}


@contextmanager
def open_files(count: int) -> Iterator[None]:
    """Allow this process, and those that it starts, so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def attack(port: int, start: bytes, more: bytes) -> None:
    """One hostile client: it connects again a second after it is closed."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(start)
                while not writer.is_closing():
                    writer.write(more)
                    await writer.drain()
                    await asyncio.sleep(1)
            finally:
                writer.transport.abort()
        except OSError:
            pass
        await asyncio.sleep(1)


FEW_FILES: Final = {"idle half-requests": 60, "endless headers": 8, "bodies of one byte a second": 60}


@pytest.mark.parametrize(
    ("name", "files", "held"),
    [(name, 64, held) for name, held in FEW_FILES.items()] + [(name, 1024, HELD) for name in ATTACKS],
)
async def test_hostile_clients_cost_the_others_nothing(services: Services, name: str, files: int, held: int) -> None:
    with open_files(files):
        ingest = await asyncio.to_thread(services.start, "ingest")
    port = urlsplit(ingest.url).port
    assert port is not None
    before = rss_mb(ingest)
    with open_files(min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])):
        hostile = [asyncio.create_task(attack(port, *ATTACKS[name])) for _ in range(held)]
        await asyncio.sleep(1.5)
        slowest = await asyncio.to_thread(good_requests, ingest)
        after = rss_mb(ingest)
        for task in hostile:
            task.cancel()
        await asyncio.gather(*hostile, return_exceptions=True)
    figure(name, files=files, held=held, answered=GOOD, slowest_health_ms=slowest * 1000, mb_more=after - before)
    assert slowest < 1
    assert after - before < GROWTH_MB
    if held > files // 2 or name == "endless headers":
        assert any("closed connections" in str(line.get("message")) for line in ingest.log())


def good_requests(ingest: Running) -> float:
    """Send good requests, each over a connection of its own; the slowest health check in seconds."""
    slowest = 0.0
    for _ in range(GOOD):
        assert status_of(ingest, "POST", "/track-event", json.dumps(EVENT)) == 202
        began = time.monotonic()
        assert status_of(ingest, "GET", "/healthz") == 200
        slowest = max(slowest, time.monotonic() - began)
    return slowest


def status_of(ingest: Running, method: str, path: str, body: str | None = None) -> int:
    """The status of one request."""
    with closing(http.client.HTTPConnection(urlsplit(ingest.url).netloc, timeout=5)) as connection:
        connection.request(method, path, body)
        return connection.getresponse().status
