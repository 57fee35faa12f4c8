"""Memory does not grow with the number of accepted events."""

import asyncio
import time

import pytest

from pingfeed.core.clock import system_clock
from tests.faults.checks import check_all_landed, rss_mb
from tests.faults.load import Answers, Client
from tests.journeys.conftest import Services
from tests.prove import figure, rounds

EVENTS = rounds(80_000, 5_000_000)
CLIENTS = 4
WARM = rounds(60_000, 250_000)
"""By then the duplicate window is full, and the allocator has seen every kind of batch."""
GROWTH_MB = 60


@pytest.mark.timeout(1800)
async def test_memory_does_not_grow_with_accepted_events(services: Services) -> None:
    since_ms, answers = system_clock(), Answers()
    ingest = await asyncio.to_thread(services.start, "ingest", SINK_FLUSH_SECONDS="0.5")
    clients = [Client(n, answers, sizes=(500, 500, 20, 1), most_events=EVENTS // CLIENTS) for n in range(CLIENTS)]
    began = time.monotonic()
    posting = asyncio.gather(*(client.post_until(ingest.url, lambda: False) for client in clients))
    memory: list[tuple[int, float]] = []
    while not posting.done():
        memory.append((answers.events, rss_mb(ingest)))
        await asyncio.wait([posting], timeout=0.2)
    seconds = time.monotonic() - began
    assert answers.events == EVENTS
    warm = max(mb for events, mb in memory if events <= WARM)
    most = max(mb for _, mb in memory)
    assert await asyncio.to_thread(ingest.stop) == 0
    counts = check_all_landed(services, since_ms, EVENTS)
    figure(
        "memory",
        events=EVENTS,
        events_a_second=round(EVENTS / seconds),
        mb_when_warm=round(warm),
        mb_at_most=round(most),
        landed=counts["landed"],
        missing=counts["missing"],
    )
    assert most < warm + GROWTH_MB
