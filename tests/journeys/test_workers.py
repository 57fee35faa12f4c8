"""`serve feed --workers N`: one worker is killed under load, and later starts have fewer workers."""

import asyncio
import os
import shutil
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest

from pingfeed.core.clock import system_clock
from pingfeed.core.events import decode_rows, encode_rows
from pingfeed.spool.spool import Spool
from pingfeed.web.workers import Worker
from simulator.world import user_id
from tests.conformance.samples import eventually
from tests.journeys.conftest import Running, Services, wait_for
from tests.journeys.test_feed_kill import a_small_town, logged

CLIENTS: Final = 6
IN_MEMORY: Final = 20
"""Served feeds whose event a killed worker may not have written to its spool yet: a moment's worth."""

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")


@dataclass
class Load:
    """What clients that ask for feeds got."""

    request_ids: list[str] = field(default_factory=list)
    failed: int = 0
    stopped: bool = False

    async def ask(self, url: str, name: int) -> None:
        """Ask for feeds over one connection, and over a new one when that breaks."""
        number = 0
        while not self.stopped:
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                try:
                    while not self.stopped:
                        answer = await client.get("/get-feed", params={"user_id": user_id((name + number) % 30)})
                        assert answer.status_code == 200
                        self.request_ids.append(answer.json()["request_id"])
                        number += 1
                except httpx.TransportError:
                    self.failed += 1


def start(services: Services, workers: int) -> Running:
    """The feed in several processes."""
    arguments = ("serve", "feed", "--port", "0", "--workers", str(workers))
    running = services.launch(*arguments, name="feed", FEED_BUDGET_MS="5000", SINK_FLUSH_SECONDS="0.2")
    running.await_ready()
    await_workers(running, workers)
    return running


def starts(feed: Running) -> int:
    """How many workers have begun to serve so far."""
    return sum("listens on" in str(line.get("message")) for line in feed.log())


def await_workers(feed: Running, count: int) -> None:
    """Wait until so many workers have begun to serve."""
    wait_for(lambda: starts(feed) >= count, f"{count} starts of workers")


def workers_of(feed: Running) -> list[int]:
    """The process ids of the workers."""
    pid = feed.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def feeds_counted(feed: Running) -> float:
    """The feeds that /metrics counts, asked over a new connection."""
    text = httpx.get(f"{feed.url}/metrics", timeout=10).text
    (line,) = (line for line in text.splitlines() if line.startswith("pingfeed_feed_answers_total"))
    return float(line.split()[1])


async def kill_one_under_load(feed: Running) -> Load:
    """Clients ask all the time; one worker is killed, and the clients go on until it is back."""
    load = Load()
    clients = [asyncio.create_task(load.ask(feed.url, name)) for name in range(CLIENTS)]
    await eventually(lambda: len(load.request_ids) > 50, within_s=60)
    os.kill(workers_of(feed)[-1], signal.SIGKILL)
    await asyncio.to_thread(await_workers, feed, 3)
    seen = len(load.request_ids)
    await eventually(lambda: len(load.request_ids) > seen + 50, within_s=60)
    load.stopped = True
    await asyncio.gather(*clients)
    return load


def test_a_killed_worker_costs_its_connections_and_comes_back(services: Services) -> None:
    a_small_town(services)
    feed = start(services, 2)
    first = Load()
    for number in range(20):
        answer = httpx.get(f"{feed.url}/get-feed", params={"user_id": user_id(number)}, timeout=30)
        first.request_ids.append(answer.json()["request_id"])
    assert {feeds_counted(feed) for _ in range(8)} == {20.0}, "the sum, whichever worker answers"

    load = asyncio.run(kill_one_under_load(feed))
    assert load.failed <= CLIENTS, "only the connections that the killed worker held"
    (ended,) = (line for line in feed.log() if line.get("message") == "a worker ended and is started again")
    assert ended["exit_code"] == -signal.SIGKILL
    counted = feeds_counted(feed)
    assert 20 < counted <= 20 + len(load.request_ids) + load.failed
    assert counted == feeds_counted(feed)

    assert {path.name for path in services.settings.spool_dir.iterdir()} == {"feed", "feed-2"}
    assert feed.stop() == 0
    landed, answered = logged(services), {*first.request_ids, *load.request_ids}
    assert set(landed.values()) == {1}
    assert len(answered - set(landed)) <= IN_MEMORY
    spools = [Spool(services.settings.spool_dir / name) for name in ("feed", "feed-2")]
    assert [spool.depth()[0] for spool in spools] == [0, 0], "SIGTERM drains every worker"


def test_the_spool_of_a_removed_worker_is_delivered_by_a_start_with_fewer(services: Services) -> None:
    leave_one_in(services, "feed-3")
    doctor = services.launch("doctor", "--json")
    doctor.process.wait(60)
    assert b'"spool of feed-3","ok":true,"detail":"undelivered events: 1"' in doctor.log_file.read_bytes()
    one = services.start("feed", SINK_FLUSH_SECONDS="0.2")
    wait_for(lambda: logged(services) == Counter(["left"]), "the event to land")
    assert one.stop() == 0


def leave_one_in(services: Services, name: str) -> None:
    """A spool with one `feed_served` event, as a worker leaves it that was killed."""
    now_ms = system_clock()
    row = {"event_id": "left", "event_type": "feed_served", "user_id": user_id(1), "request_id": "left"}
    (row,) = decode_rows(encode_rows([{**row, "timestamp": now_ms, "received_ms": now_ms}]))

    async def append() -> None:
        spool = Spool(services.settings.spool_dir / name)
        await spool.append(encode_rows([row]), 1, now_ms)
        await spool.close()

    asyncio.run(append())


def test_workers_stop_when_their_supervisor_is_killed(services: Services) -> None:
    feed = start(services, 2)
    workers = workers_of(feed)
    arguments = Path(f"/proc/{workers[0]}/cmdline").read_text().split("\0")
    folder = Worker.parse(arguments[arguments.index("--worker") + 1]).folder
    feed.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers to end")
    assert not list(services.settings.spool_dir.rglob("*.segment"))
    shutil.rmtree(folder)
