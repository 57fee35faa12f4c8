"""How fast the services answer, beside a floor measured in the same run: `make bench`.

Each service and its floor run as processes of their own; requests come from this process, on loopback, bounded in
number. CPU a request (user and system, from /proc) and the ratios travel to other machines; milliseconds do not.
"""

import argparse
import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from batch.jobs import tick
from batch.jobs.nightly import etl
from batch.training.train import train
from batch.wiring import build
from pingfeed.core.clock import system_clock
from pingfeed.core.ids import uuid7
from pingfeed.settings import load
from simulator.lake import write_history
from simulator.world import Spec, World, user_id

USERS = 300
Send = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


@dataclass
class Measured:
    """One service under one kind of request."""

    name: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    requests_per_s: float
    cpu_us_per_request: float


def prepare(home: Path, environ: Mapping[str, str] = {}) -> None:
    """A week of a small world, trained and ticked; `environ` may name other stores."""
    batch = build(load({"PINGFEED_HOME": str(home), **environ}), quiet=True)
    now_tick = batch.ticks.of(batch.clock())
    spec = Spec(
        seed=1, users=USERS, pings=1000, days=7, until_ms=batch.ticks.start_ms(now_tick), tick_ms=batch.ticks.tick_ms
    )
    write_history(World.build(spec), home / "lake")
    etl(batch, now_tick)
    train(batch, now_tick)
    tick.run(batch, now_tick, everyone=True)


@contextmanager
def serving(command: list[str], port: int, home: Path) -> Iterator[tuple[str, int]]:
    """A service's URL and process id, from ready to stopped."""
    environ = os.environ | {"PINGFEED_HOME": str(home), "PINGFEED_AUTH": "none"}
    log = (home / f"{port}.log").open("wb")
    process = subprocess.Popen([sys.executable, *command], env=environ, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, (home / f"{port}.log").read_text()
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(name: str, url: str, pid: int, send: Send, requests: int, connections: int) -> Measured:
    """Latency one at a time, then throughput and CPU at `connections`."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for _ in range(50):
            await send(client)
        alone = []
        for _ in range(requests):
            began = time.perf_counter()
            answer = await send(client)
            alone.append(time.perf_counter() - began)
            assert answer.status_code in (200, 202), answer.text
        began, cpu = time.perf_counter(), cpu_s(pid)

        async def one_connection() -> None:
            for _ in range(requests // connections):
                await send(client)

        await asyncio.gather(*(one_connection() for _ in range(connections)))
        took = time.perf_counter() - began
    sent = requests // connections * connections
    p50, p95, p99 = (float(np.percentile(alone, q)) * 1000 for q in (50, 95, 99))
    return Measured(name, p50, p95, p99, sent / took, (cpu_s(pid) - cpu) / sent * 1e6)


async def ask_feed(client: httpx.AsyncClient) -> httpx.Response:
    return await client.get("/get-feed", params={"user_id": user_id(random.randrange(USERS))})


async def post_events(client: httpx.AsyncClient) -> httpx.Response:
    now_ms = system_clock()
    events = [
        {
            "event_id": uuid7(now_ms),
            "event_type": "view",
            "user_id": user_id(random.randrange(USERS)),
            "ping_id": f"ping-{random.randrange(1000):05}",
            "watch_time_ratio": 0.5,
        }
        for _ in range(50)
    ]
    return await client.post("/track-events", content=msgspec.json.encode({"events": events}))


def run(requests: int, connections: int) -> list[tuple[Measured, Measured]]:
    """(service, floor) for the feed and for ingest."""
    serve = ["-c", "import sys; from pingfeed.cli import main; sys.exit(main())", "serve"]
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home)
        for name, send in (("feed", ask_feed), ("ingest", post_events)):
            both = []
            port = free_port()
            floor = ["-m", "uvicorn", f"benchmarks.floor:{name}", "--port", str(port), "--log-level", "warning"]
            for label, command in ((name, [*serve, name, "--port", str(port)]), (f"{name}'s floor", floor)):
                with serving(command, port, home) as (url, pid):
                    both.append(asyncio.run(measure(label, url, pid, send, requests, connections)))
            pairs.append((both[0], both[1]))
    return pairs


def show(pairs: list[tuple[Measured, Measured]]) -> None:
    table = Table("service", "p50 ms", "p95 ms", "p99 ms", "requests/s", "server CPU us a request", title="Serving")
    for service, floor in pairs:
        for one in (service, floor):
            milliseconds = [f"{value:.2f}" for value in (one.p50_ms, one.p95_ms, one.p99_ms)]
            table.add_row(one.name, *milliseconds, f"{one.requests_per_s:,.0f}", f"{one.cpu_us_per_request:,.0f}")
        latency = service.p50_ms / floor.p50_ms
        cpu = service.cpu_us_per_request / floor.cpu_us_per_request
        table.add_row("  times the floor", f"{latency:.1f}", "", "", "", f"{cpu:.1f}", end_section=True)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="requests for each figure (default %(default)s)")
    parser.add_argument("--connections", type=int, default=16, help="at once, for throughput (default %(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    random.seed(7)
    os.environ["PINGFEED_FEED_BUDGET_MS"] = "1000"  # else the feed answers many connections cheaply
    pairs = run(options.requests, options.connections)
    if options.json:
        print(msgspec.json.encode([[asdict(one) for one in pair] for pair in pairs]).decode())
    else:
        show(pairs)


if __name__ == "__main__":
    main()
