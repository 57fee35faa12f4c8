"""What one core takes in, and what durability costs of it: `make bench-ingest`.

The service has one core, the load the other. Every figure stands beside its floors, measured in turn in the same run,
so that whatever else the machine does slows all of them: ratios travel to other machines, events a second do not.

    drain             a bare ASGI app that reads the body and answers
    fastapi           a bare FastAPI POST that does nothing
    shell             the same in the shell of this project's services
    not durable       the ingest app, its spool and signals taken out
    durable           the ingest app, its signals taken out: spool, sync before the 202, delivery to Parquet files
    durable, signals  the ingest app as `pingfeed serve ingest` runs it

Events are views of 1,000 pings by 1,000 users, each event by another one, with ids of their own.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import msgspec
import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import load
from benchmarks.ingest_apps import APPS
from benchmarks.serving import cpu_s, free_port
from pingfeed.spool.disk import Disk
from pingfeed.spool.segment import encode_head

SERVICE_CORE, LOAD_CORE = 0, 1
USERS: Final = 1000
PINGS: Final = 1000
CONNECTIONS: Final = {1: 200, 50: 32, 500: 8}
REQUESTS: Final = {1: 12_000, 50: 1_500, 500: 160}
"""A turn's requests, by the events in each."""


@dataclass
class Server:
    """One app in a process of its own."""

    url: str
    pid: int

    def rss_mb(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass
class Measured:
    """One app under requests of one size; one entry a turn."""

    events_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


@contextmanager
def serving(name: str, home: Path) -> Iterator[Server]:
    """An app from ready to stopped, on the service's core."""
    port = free_port()
    environ = os.environ | {"PINGFEED_HOME": str(home)}
    log = home.with_suffix(".log").open("wb")
    command = [sys.executable, "-m", "benchmarks.ingest_apps", name, str(port)]
    process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    os.sched_setaffinity(process.pid, {SERVICE_CORE})
    url = f"http://127.0.0.1:{port}"
    try:
        _await_answer(url, process, home)
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _await_answer(url: str, process: "subprocess.Popen[bytes]", home: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, home.with_suffix(".log").read_text()
        try:
            httpx.get(f"{url}/healthz", timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError(url)


def body_maker(events: int, seed: int) -> tuple[str, load.MakeBody]:
    """The path and the bodies for requests of that many events; ids are counted up, all else is made beforehand."""
    dice = random.Random(seed)
    stamp = f"{seed:08x}-0000-7000-8000-"
    tails = [_view(dice) for _ in range(997)]

    def one(number: int) -> bytes:
        return b'{"event_id":"%b%012x"%b' % (stamp.encode(), number, tails[number % 997])

    def many(number: int) -> bytes:
        first = number * events
        return b'{"events":[%b]}' % b",".join(one(first + n) for n in range(events))

    return ("/track-event", one) if events == 1 else ("/track-events", many)


def _view(dice: random.Random) -> bytes:
    view = {
        "event_type": "view",
        "user_id": f"user-{dice.randrange(USERS):05}",
        "ping_id": f"ping-{dice.randrange(PINGS):05}",
        "request_id": f"0193f5a0-7b1c-7c1e-9d56-{dice.randrange(1 << 48):012x}",
        "position": dice.randrange(10),
        "watch_time_ratio": round(dice.random(), 3),
        "country": dice.choice(["DE", "FR", "IN", "US"]),
        "timestamp": "2026-11-22T12:00:00Z",
    }
    return b"," + msgspec.json.encode(view)[1:]


def one_turn(server: Server, events: int, seed: int, requests: int) -> tuple[load.Sent, float]:
    """A load of requests of that size; what became of it, and the server's CPU seconds."""
    path, make_body = body_maker(events, seed)
    cpu = cpu_s(server.pid)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sent = runner.run(load.send(server.url + path, make_body, requests=requests, connections=CONNECTIONS[events]))
    assert set(sent.statuses) == {202}, sent.statuses
    return sent, cpu_s(server.pid) - cpu


def measure(servers: dict[str, Server], sizes: list[int], turns: int) -> dict[int, dict[str, Measured]]:
    """Every app at every size, app by app in each turn; the first turn is not counted."""
    found: dict[int, dict[str, Measured]] = {}
    seeds = iter(range(1, 1 << 31))
    for events in sizes:
        found[events] = {name: Measured() for name in servers}
        for turn in range(turns + 1):
            for name, server in servers.items():
                requests = REQUESTS[events] // (1 if turn else 4)
                sent, cpu = one_turn(server, events, next(seeds), requests)
                if turn:
                    one = found[events][name]
                    one.events_s.append(requests * events / sent.seconds)
                    one.cpu_us.append(cpu / requests / events * 1e6)
                    one.p50_ms.append(sent.percentile_ms(50))
                    one.p99_ms.append(sent.percentile_ms(99))
    return found


def append_floor(folder: Path, events: int, seconds: float = 0.5) -> float:
    """Events a second of append + fsync alone: one record of that many events a sync."""
    _, make_body = body_maker(events, 0)
    disk = Disk()
    lines = make_body(0)
    file = disk.create(folder / f"floor-{events}")
    appended, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        disk.write(file, encode_head(appended, lines, events, 0) + lines)
        disk.sync(file)
        appended += 1
    disk.close(file)
    return appended * events / (time.perf_counter() - began)


def flat_memory(server: Server, millions: float) -> list[tuple[int, float]]:
    """(events so far, MB resident) while that many million events go in, 500 a request."""
    seen = [(0, server.rss_mb())]
    steps = 20
    for step in range(steps):
        requests = int(millions * 1e6 / 500 / steps)
        one_turn(server, 500, (1 << 31) + step, requests)
        seen.append((seen[-1][0] + requests * 500, server.rss_mb()))
    return seen


GOALS: Final = (
    (50, "durable", "not durable", 0.4),
    (1, "durable", "fastapi", 0.5),
)


def ratio(found: dict[int, dict[str, Measured]], events: int, name: str, floor: str) -> float:
    """The median over turns of one app's rate over another's in the same turn."""
    pairs = zip(found[events][name].events_s, found[events][floor].events_s, strict=True)
    return float(np.median([one / other for one, other in pairs]))


def show(found: dict[int, dict[str, Measured]], appends: dict[int, float]) -> None:
    for events, by_name in found.items():
        title = f"{events} events a request, {CONNECTIONS[events]} connections, one core"
        table = Table("app", "events/s", "CPU us an event", "p50 ms", "p99 ms", title=title)
        for name, one in by_name.items():
            values = [float(np.median(v)) for v in (one.events_s, one.cpu_us, one.p50_ms, one.p99_ms)]
            table.add_row(name, f"{values[0]:,.0f}", f"{values[1]:.1f}", f"{values[2]:.2f}", f"{values[3]:.2f}")
        table.add_row("append + fsync alone", f"{appends[events]:,.0f}", "", "", "")
        Console().print(table)
    goals = Table("events", "", "of", "goal", title="Ratios, medians over turns")
    for events, name, floor, goal in GOALS:
        if events in found and {name, floor} <= found[events].keys():
            reached = ratio(found, events, name, floor)
            mark = "" if reached >= goal else "  (missed)"
            goals.add_row(str(events), name, f"{floor}: {reached:.2f}", f"{goal}{mark}")
    Console().print(goals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="measured turns for each figure (default %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 50, 500], choices=[1, 50, 500])
    parser.add_argument("--apps", nargs="+", default=list(APPS), choices=list(APPS))
    parser.add_argument("--memory-millions", type=float, default=5, help="events for flat memory (default %(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(name, Path(folder, name.replace(", ", "-").replace(" ", "-"))))
            for name in options.apps
        }
        found = measure(servers, options.sizes, options.turns)
        appends = {events: append_floor(Path(folder), events) for events in options.sizes}
        memory = flat_memory(servers[options.apps[-1]], options.memory_millions) if options.memory_millions else []
    if options.json:
        print(msgspec.json.encode({"sizes": found, "appends": appends, "memory": memory}).decode())
        return
    show(found, appends)
    if memory:
        middle, last = memory[len(memory) // 2], memory[-1]
        print(f"memory of `{options.apps[-1]}`: {middle[1]:.0f} MB after {middle[0]:,} events, ", end="")
        print(f"{last[1]:.0f} MB after {last[0]:,}")


if __name__ == "__main__":
    main()
