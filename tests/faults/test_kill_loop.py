"""Repeated SIGKILL under load, at start and during delivery: each acknowledged event lands once."""

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import pytest

from pingfeed.adapters import registry
from pingfeed.core.clock import day_of, system_clock
from pingfeed.settings import url_path
from tests.conformance.samples import eventually
from tests.faults.checks import check_all_landed, check_each_once, reconcile
from tests.faults.load import Answers, Client, after
from tests.journeys.conftest import Running, Services
from tests.prove import figure, rounds

ROUNDS = rounds(3, 50)
CLIENTS = 6
FLUSH = {"SINK_FLUSH_SECONDS": "0.05"}


@pytest.mark.timeout(1800)
async def test_each_acknowledged_event_is_in_the_clean_table_once_after_kills_at_any_moment(
    services: Services,
) -> None:
    since_ms = system_clock()
    answers = Answers()
    clients = [Client(number, answers) for number in range(CLIENTS)]
    kills_while_starting = 0
    for number in range(ROUNDS):
        if number % 3 == 1:
            kills_while_starting += 1
            await _kill_while_starting(services)
        await _kill_under_load(services, clients, answers)
    ingest = await asyncio.to_thread(services.start, "ingest", **FLUSH)
    await asyncio.gather(*(client.post_until(ingest.url, after(0.5)) for client in clients))
    assert await asyncio.to_thread(ingest.stop) == 0
    assert answers.statuses.keys() == {202}
    counts = check_all_landed(services, since_ms, answers.events, unanswered=answers.lost_events)
    clean = check_each_once(services, answers, since_ms)
    figure(
        "kill -9 in a loop",
        rounds=ROUNDS,
        kills=ROUNDS + kills_while_starting,
        answers_lost=answers.lost,
        landed=counts["landed"],
        missing=counts["missing"],
        duplicates_removed=counts["landed"] + counts["duplicates"] - clean["in_the_clean_table"],
        **clean,
    )
    _lose_a_file(services)


def _lose_a_file(services: Services) -> None:
    """A deleted file is reported missing, with its partition. The nightly job has not compacted today."""
    lake = registry.open_lake(services.settings)
    path = lake.list("events")[0]
    Path(url_path(services.settings.lake_url), path).unlink()
    day = "-".join(part.partition("=")[2] for part in path.split("/")[1:4])
    code, said = reconcile(services, day)
    assert code == 1
    assert said["missing"] > 0
    assert said["short"] == [path.rpartition("/")[0]]
    assert day <= day_of(system_clock())


async def _kill_under_load(services: Services, clients: list[Client], answers: Answers) -> None:
    ingest = await asyncio.to_thread(services.start, "ingest", **FLUSH)
    before = answers.events
    posting = [asyncio.create_task(client.post_until(ingest.url, lambda: False)) for client in clients]
    await eventually(lambda: answers.events > before, within_s=60)
    await asyncio.sleep(random.uniform(0, 1))
    await asyncio.to_thread(ingest.kill)
    await asyncio.gather(*posting)


async def _kill_while_starting(services: Services) -> None:
    """Somewhere between the first import and the first delivery of what an earlier process left."""
    ingest: Running = services.launch("serve", "ingest", "--port", "0", name="ingest", **FLUSH)
    with suppress(AssertionError):
        await eventually(lambda: bool(ingest.log()), within_s=random.uniform(0.5, 3))
    await asyncio.sleep(random.uniform(0, 0.3))
    await asyncio.to_thread(ingest.kill)
