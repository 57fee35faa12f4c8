"""A sink that is down, slow, or takes half: 202 and 503, bounded memory and spool, and everything lands afterwards."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx
import pytest

from pingfeed.core.clock import system_clock
from pingfeed.spool.stats import wait_landed
from tests.conformance.samples import eventually
from tests.faults.checks import check_all_landed, check_each_once, folder_mb, rss_mb
from tests.faults.firehose_server import Behaviour, FirehoseServer, firehose
from tests.faults.load import Answers, Client
from tests.journeys.conftest import Running, Services
from tests.prove import figure, rounds

DOWN_S = rounds(4, 120)
SLOW_S = rounds(4, 60)
CLIENTS = 4
SPOOL_MB = 5
GROWTH_MB = 150
"""What memory may grow by: batches of the whole spool, packed, in flight, and sent once more."""


@pytest.mark.timeout(900)
async def test_while_the_sink_is_down_the_spool_fills_to_its_bound_then_everything_lands(services: Services) -> None:
    async def fall(stream: FirehoseServer, answers: Answers) -> None:
        """Errors, then no response, then a cut connection after taking the records, then gone."""
        ways: tuple[Behaviour, ...] = ("refuse", "hang", "cut")
        for stream.behaviour in ways:
            await asyncio.sleep(DOWN_S / 4)
            await _full(answers)
        await stream.stop()
        await asyncio.sleep(DOWN_S / 4)
        await stream.start()

    await _through("sink down", DOWN_S, services, fall)


@pytest.mark.timeout(900)
async def test_a_sink_at_one_percent_speed_gets_everything(services: Services) -> None:
    began = time.monotonic()

    async def slow(stream: FirehoseServer, answers: Answers) -> None:
        stream.bytes_per_second = stream.bytes / (time.monotonic() - began) / 100
        stream.behaviour = "throttle"
        await asyncio.sleep(SLOW_S)
        await _full(answers)

    await _through("sink at 1 % speed", SLOW_S, services, slow)


@pytest.mark.timeout(900)
async def test_a_slow_sink_that_takes_half_of_each_call_gets_everything(services: Services) -> None:
    async def halve(stream: FirehoseServer, _: Answers) -> None:
        stream.behaviour, stream.delay_s = "half", 0.3
        await asyncio.sleep(SLOW_S / 2)

    await _through("sink takes half, late", SLOW_S / 2, services, halve)


async def _full(answers: Answers) -> None:
    await eventually(lambda: answers.statuses[503] > 0, within_s=120)


async def _through(
    name: str,
    seconds: float,
    services: Services,
    trouble: Callable[[FirehoseServer, Answers], Awaitable[None]],
) -> None:
    """Post before, during and after `trouble`; look at memory and spool meanwhile, and at what landed at last."""
    since_ms, answers = system_clock(), Answers()
    environ = {
        "EVENTS_URL": "firehose://events",
        "LAKE_URL": f"file://{services.home}/lake",
        "SPOOL_MAX_MB": str(SPOOL_MB),
        "SINK_FLUSH_SECONDS": "0.2",
    }
    async with firehose(services.home / "lake") as stream:
        services.environ |= stream.environ
        ingest = await asyncio.to_thread(services.start, "ingest", **environ)
        is_over = asyncio.Event()
        clients = [Client(number, answers, sizes=(1, 20, 100, 500)) for number in range(CLIENTS)]
        posting = [asyncio.create_task(client.post_until(ingest.url, is_over.is_set, 0.1)) for client in clients]
        await eventually(lambda: answers.events > 20_000, within_s=60)
        watching = asyncio.create_task(_watched(ingest, services, is_over))
        await trouble(stream, answers)
        during = answers.events
        stream.behaviour, stream.delay_s = "take", 0.0
        await eventually(lambda: answers.events > during + 20_000, within_s=120)
        is_over.set()
        await asyncio.gather(*posting)
        most_rss, least_rss, most_spool = await watching
        await eventually(lambda: wait_landed(services.home / "spool", system_clock() + 1, 0) == 0, within_s=120)
        assert await asyncio.to_thread(ingest.stop) == 0
    assert answers.statuses.keys() <= {202, 503}
    assert (answers.without_retry_after, answers.lost) == (0, 0)
    assert most_spool <= SPOOL_MB * 1.01
    assert most_rss - least_rss < GROWTH_MB
    prefixed = {f"PINGFEED_{key}": value for key, value in environ.items()}
    counts = check_all_landed(services, since_ms, answers.events, prefixed)
    clean = check_each_once(services, answers, since_ms, prefixed)
    figure(
        name,
        seconds=seconds,
        answers_202=answers.statuses[202],
        answers_503=answers.statuses[503],
        most_spooled_mb=round(most_spool, 1),
        memory_grew_mb=round(most_rss - least_rss),
        landed=counts["landed"],
        delivered_twice=counts["duplicates"],
        missing=counts["missing"],
        **clean,
    )


async def _watched(ingest: Running, services: Services, is_over: asyncio.Event) -> tuple[float, float, float]:
    """Most and least memory, and the largest spool, in MB; it must answer all the time."""
    memory, spool = [rss_mb(ingest)], [0.0]
    async with httpx.AsyncClient(base_url=ingest.url, timeout=30) as client:
        while not is_over.is_set():
            assert (await client.get("/healthz")).status_code == 200
            memory.append(rss_mb(ingest))
            spool.append(folder_mb(services.home / "spool"))
            await asyncio.sleep(0.2)
    return max(memory), memory[0], max(spool)
