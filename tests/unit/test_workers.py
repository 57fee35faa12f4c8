"""Several processes that serve one port: the supervisor, and the sum of their metrics."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from batch.ops import reconcile
from feed_api import wiring
from pingfeed import checks
from pingfeed.adapters.lake_file import FileLake
from pingfeed.commands import serve
from pingfeed.core.clock import DAY_MS, day_of
from pingfeed.core.errors import InvalidInput, SettingsError
from pingfeed.core.events import encode_rows
from pingfeed.core.retry import Backoff
from pingfeed.settings import load
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import wait_landed, waiting_by_day
from pingfeed.web import workers
from pingfeed.web.peers import Peers
from pingfeed.web.workers import Worker, bound, left_spools, supervise
from tests.conformance.samples import like


@pytest.fixture
def handlers() -> Iterator[None]:
    """The supervisor sets signal handlers."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workers' folder: the address of a socket is short, and pytest's folders are deep."""
    monkeypatch.chdir(tmp_path)
    return Path()


class Process:
    """The metrics of one process of a worker."""

    def __init__(self, folder: Path, number: int, pid: int = 1) -> None:
        registry = CollectorRegistry()
        self.feeds = Counter("feeds", "Feeds", ("status",), registry=registry)
        self.waiting = Gauge("waiting", "Events that wait", registry=registry)
        self.seconds = Histogram("seconds", "Time", buckets=(1, 2), registry=registry)
        with patch("os.getpid", lambda: pid):
            self.peers = Peers(Worker(number, 2, 0, folder), lambda: generate_latest(registry))

    async def lines(self) -> set[str]:
        """What /metrics prints, without the comments."""
        return {line for line in (await self.peers.render()).decode().splitlines() if "_created" not in line}


async def test_every_worker_renders_the_sum_of_all(folder: Path) -> None:
    one, two = Process(folder, 1), Process(folder, 2)
    for process in (one, two):
        await process.peers.start()
    one.feeds.labels("200").inc(3)
    two.feeds.labels("200").inc(4)
    two.feeds.labels("503").inc()
    for process, waiting in ((one, 5), (two, 6)):
        process.waiting.set(waiting)
        process.seconds.observe(waiting - 4)
    lines = await one.lines()
    assert lines == await two.lines()
    counters = {'feeds_total{status="200"} 7.0', 'feeds_total{status="503"} 1.0', "waiting 11.0"}
    assert counters <= lines
    assert {'seconds_bucket{le="1.0"} 1.0', 'seconds_bucket{le="2.0"} 2.0', "seconds_sum 3.0"} <= lines
    for process in (one, two):
        await process.peers.close()


async def test_the_counters_of_a_worker_that_ended_stay_in_the_sum_but_not_its_gauges(folder: Path) -> None:
    one, two = Process(folder, 1), Process(folder, 2)
    for process in (one, two):
        await process.peers.start()
        process.feeds.labels("200").inc(3)
        process.waiting.set(5)
    assert 'feeds_total{status="200"} 6.0' in await one.lines()
    await two.peers.close()
    assert {'feeds_total{status="200"} 6.0', "waiting 5.0"} <= await one.lines()
    again = Process(folder, 2, pid=2)
    await again.peers.start()
    again.feeds.labels("200").inc()
    assert 'feeds_total{status="200"} 7.0' in await one.lines()
    for process in (one, again):
        await process.peers.close()


def script(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, pathlib, signal, sys, time; {code}"]


@pytest.mark.usefixtures("handlers")
def test_an_error_of_the_start_ends_the_command_with_its_code_before_others_start(tmp_path: Path) -> None:
    started: list[int] = []

    def command(worker: Worker) -> list[str]:
        started.append(worker.number)
        return script("sys.exit(3)")

    assert supervise(command, "127.0.0.1", 0, 2) == 3
    assert started == [1]


@pytest.mark.usefixtures("handlers")
def test_a_worker_that_dies_after_it_served_is_started_again_with_growing_pauses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "LOOK_S", 0.01)
    monkeypatch.setattr(workers, "_BACKOFF", Backoff(0.1, jitter=lambda: 0))
    started: list[int] = []

    def command(worker: Worker) -> list[str]:
        started.append(worker.number)
        if len(started) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        assert Worker.parse(str(worker)) == worker
        lives = script(f"pathlib.Path({str(worker.socket())!r}).touch(); time.sleep(60)")
        dies = script(f"pathlib.Path({str(worker.socket())!r}).touch(); sys.exit(1)")
        return lives if worker.number == 1 else dies

    assert supervise(command, "127.0.0.1", 0, 2) == 0
    assert started == [1, 2, 2, 2]
    pauses = [record.__dict__["pause_s"] for record in caplog.records if "started again" in record.message]
    assert pauses == [0.1, 0.2]
    assert [Backoff(0.5, 30, jitter=lambda: 0).pause_s(n) for n in (1, 2, 9)] == [0.5, 1, 30]


def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(SettingsError, match="cannot listen on"):
            supervise(lambda _: [], "127.0.0.1", taken.getsockname()[1], 2)


def test_ingest_runs_in_one_process() -> None:
    with pytest.raises(InvalidInput, match="only the feed"):
        serve(service="ingest", host="127.0.0.1", port=0, workers=2, worker=None)


@pytest.mark.parametrize(("running", "left"), [(1, ["feed-2", "feed-3"]), (2, ["feed-3"]), (3, [])])
def test_spools_beyond_the_workers_are_left(tmp_path: Path, running: int, left: list[str]) -> None:
    for name in ("feed", "feed-2", "feed-3", "feed-old", "ingest"):
        (tmp_path / name).mkdir()
    assert [path.name for path in left_spools(tmp_path, "feed", running)] == left


async def test_only_the_first_worker_takes_left_spools_and_passes_by_one_in_use(tmp_path: Path) -> None:
    settings = load({"PINGFEED_HOME": str(tmp_path)})
    held = Spool(settings.spool_dir / "feed-3")
    (settings.spool_dir / "feed-4").mkdir()
    first, second = (wiring.build(settings, Worker(number, 2, 0, tmp_path)) for number in (1, 2))
    assert [delivery.counters.spooled_events for delivery, _ in first.left] == [0], "feed-4"
    assert not second.left
    assert {path.name for path in settings.spool_dir.iterdir()} == {"feed", "feed-2", "feed-3", "feed-4"}
    for services in (first, second):
        for delivery in (services.delivery, *(one for one, _ in services.left)):
            await delivery.close()
    await held.close()


async def test_doctor_reconcile_forget_and_the_tick_see_what_waits_in_a_workers_spool(tmp_path: Path) -> None:
    settings = load({"PINGFEED_HOME": str(tmp_path)})
    received_ms = 20_000 * DAY_MS
    spool = Spool(settings.spool_dir / "feed-2")
    await spool.append(encode_rows([like(1, received_ms=received_ms)]), 1, received_ms)
    await spool.close()
    (waiting,) = waiting_by_day(settings.spool_dir).values()
    assert waiting == {day_of(received_ms): 1}, "forget"
    assert wait_landed(settings.spool_dir, received_ms + 1, 0) == 1, "the tick"
    (stats,) = reconcile._spools(FileLake(settings.lake_url), settings.spool_dir, received_ms)
    assert (stats.service, sum(stats.spooled.values())) == ("feed-2", 1)
    found = {check.name: check.detail for check in checks._spools(settings, received_ms)}
    assert found["spool of feed-2"] == "undelivered events: 1"
