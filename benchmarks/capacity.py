"""How many daily users one machine of 2 cores serves: `make bench-capacity`.

A daily user reads 20 feeds and sends 5 POSTs of 20 events, a tenth of it in the peak hour. Both services run as on one
machine (embedded stores, `serve feed --workers 2`). Beside them one process runs nightly jobs and ticks without a
pause, which is more than a day has, at the low priority that the unit of `pingfeed schedule` gives it. Requests come at
random times that do not depend on the answers, and a latency counts from the planned time of sending.

A rate is held if the 99th percentile of feeds and of POSTs is under 100 ms and less than 1 % of the answers are
degraded, rejected or missing. The rate grows in steps until one is not held twice in a row, then the last step is
halved a few times. The client shares the 2 cores: its CPU is printed, and subtracted by giving the services what it
used, in proportion. What a tick, a night and a day's files would take for that many users is reckoned from those of
this world: the lowest of all these is what the machine serves.
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from batch.jobs import tick as ticking
from batch.jobs.nightly import etl
from batch.training.train import train
from batch.wiring import build
from benchmarks.overload import Answers, ask_feed, open_loop
from benchmarks.serving import cpu_s, free_port, serving
from pingfeed.core.clock import system_clock
from pingfeed.core.ids import uuid7
from pingfeed.settings import load
from simulator.lake import write_history
from simulator.world import Spec, World, user_id

CORES: Final = 2
FEEDS: Final = 20
POSTS: Final = 5
EVENTS: Final = 20
PEAK_SHARE: Final = 0.1
A_USER_S: Final = (FEEDS + POSTS) * PEAK_SHARE / 3600
"""Requests per second of one daily user in the peak hour."""
ACTIVE_SHARE: Final = 0.064
"""Share of a day's users who are active in 15 minutes of the peak."""
SEEN_SHARE: Final = 3
"""Users of 30 days, whom the tick after the nightly job refreshes, per daily user."""
LIMIT_MS: Final = 100.0
BAD_SHARE: Final = 0.01
BATCH_NICE: Final = 10
"""As in `deploy/one-machine/systemd/pingfeed-schedule.service`."""
PASS_S: Final = 600.0
_SERVE: Final = ["-c", "import sys; from pingfeed.cli import main; sys.exit(main())", "serve"]


@dataclass
class Step:
    """One rate that was tried."""

    rate: float
    feed_p50_ms: float
    feed_p99_ms: float
    post_p99_ms: float
    bad_share: float
    services_cores: float
    batch_cores: float
    client_cores: float
    others_cores: float

    @property
    def held(self) -> bool:
        return max(self.feed_p99_ms, self.post_p99_ms) < LIMIT_MS and self.bad_share < BAD_SHARE

    @property
    def without_client(self) -> float:
        """The rate with the client's CPU given to everything else."""
        return self.rate * CORES / (CORES - self.client_cores)


@dataclass
class Batch:
    """CPU seconds of one pass of the batch side, and of the etl of the whole history with so many events."""

    etl_s: float
    train_s: float
    everyone_s: float
    tick_s: float
    history_s: float
    events: int
    history_mb: float
    memory_mb: float
    """The most memory that services and batch side had, added up."""


def post_events(users: int, pings: int) -> bytes:
    """A POST of 20 events of one user."""
    now_ms, user = system_clock(), user_id(random.randrange(users))
    kinds = random.choices(("impression", "view", "like"), (12, 7, 1), k=EVENTS)
    events = [
        {"event_id": uuid7(now_ms), "event_type": kind, "user_id": user, "ping_id": f"ping-{ping:05}"}
        | ({"watch_time_ratio": 0.5} if kind == "view" else {})
        for kind, ping in zip(kinds, random.choices(range(pings), k=EVENTS), strict=True)
    ]
    body = msgspec.json.encode({"events": events})
    head = "POST /track-events HTTP/1.1\r\nHost: ingest\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


def batch_passes(home: Path) -> None:
    """Nightly jobs and ticks, one after the other until killed; prints the CPU of each pass."""
    os.nice(BATCH_NICE)
    while True:
        batch = build(load({"PINGFEED_HOME": str(home)}), quiet=True)
        tick = batch.ticks.of(batch.clock())
        steps = (
            partial(etl, batch, tick),
            partial(train, batch, tick),
            partial(ticking.run, batch, tick, everyone=True),
            partial(ticking.run, batch, tick),
        )
        took = []
        for step in steps:
            began = time.process_time()
            step()
            took.append(time.process_time() - began)
        print(msgspec.json.encode(took).decode(), flush=True)


@contextmanager
def batch_beside(home: Path) -> Iterator[int]:
    """The process id of the batch side, which runs meanwhile."""
    command = [sys.executable, "-m", "benchmarks.capacity", "--batch", str(home)]
    with (home / "batch.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield process.pid
            assert process.poll() is None, (home / "batch.log").read_text()
        finally:
            process.kill()
            process.wait()


class Machine:
    """The running services and the batch side."""

    def __init__(self, ports: tuple[int, int], pids: list[int], batch_pid: int, world: tuple[int, int]) -> None:
        self._ports, self._pids, self._batch_pid = ports, pids, batch_pid
        self._users, self._pings = world

    def step(self, rate: float, seconds: float) -> Step:
        """Offer a rate for some seconds."""
        before, began = self._cpu(), time.perf_counter()
        feeds, posts = uvloop.run(self._offer(rate, seconds))
        took = time.perf_counter() - began
        services, batch, client, busy = (
            (after - earlier) / took for after, earlier in zip(self._cpu(), before, strict=True)
        )
        (p50, p99), (post_p99,) = _percentiles(feeds, 50, 99), _percentiles(posts, 99)
        others = max(0.0, busy - services - batch - client)
        return Step(rate, p50, p99, post_p99, _bad(feeds, posts), services, batch, client, others)

    async def _offer(self, rate: float, seconds: float) -> tuple[Answers, Answers]:
        share = FEEDS / (FEEDS + POSTS)
        ingest, feed = self._ports
        feeds = open_loop(feed, 1.0, seconds, rate * share, partial(ask_feed, self._users))
        posts = open_loop(ingest, 1.0, seconds, rate * (1 - share), partial(post_events, self._users, self._pings))
        return await asyncio.gather(feeds, posts)

    def memory_mb(self) -> float:
        """The most resident memory that the processes had, added up."""
        pids = [self._batch_pid, *(pid for parent in self._pids for pid in (parent, *_children(parent)))]
        lines = (line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

    def _cpu(self) -> tuple[float, float, float, float]:
        services = sum(cpu_s(pid) for parent in self._pids for pid in (parent, *_children(parent)))
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        busy = (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        return services, cpu_s(self._batch_pid), time.process_time(), busy


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _percentiles(answers: Answers, *percents: float) -> list[float]:
    return [float(np.percentile(answers.planned_s or [9.99], percent)) * 1000 for percent in percents]


def _bad(*loads: Answers) -> float:
    count = sum(sum(one.statuses.values()) + one.lost for one in loads)
    whole = sum(one.degraded.get("", 0) for one in loads)
    return 1 - whole / max(1, count)


def search(machine: Machine, first: float, seconds: float, halvings: int) -> list[Step]:
    """Every step of the search; the highest rate that is held among them is the result."""
    steps: list[Step] = []

    def held(rate: float) -> bool:
        for _ in range(2):
            steps.append(machine.step(rate, seconds))
            show_step(steps[-1])
            if steps[-1].held:
                return True
        return False

    low, high = 0.0, first
    while held(high):
        low, high = high, high * 1.4
    if not low:
        low, high = 1.0, high
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) else (low, middle)
    return steps


def show_step(step: Step) -> None:
    word = "held" if step.held else "not held"
    cores = f"{step.services_cores:.2f}, {step.batch_cores:.2f}, {step.client_cores:.2f}, {step.others_cores:.2f}"
    print(
        f"{step.rate:7.1f} requests/s {word:8} feed p50 {step.feed_p50_ms:5.1f}, p99 {step.feed_p99_ms:6.1f} ms; "
        f"POST p99 {step.post_p99_ms:6.1f} ms; bad {step.bad_share:6.2%}; "
        f"cores of services, batch, client, others: {cores}",
        flush=True,
    )


def median_pass(home: Path) -> list[float]:
    """CPU seconds of the batch side's steps; waits for the first pass."""
    deadline = time.monotonic() + PASS_S
    while not (lines := [line for line in (home / "batch.log").read_text().splitlines() if line.startswith("[")]):
        assert time.monotonic() < deadline, "the batch side did not finish"
        time.sleep(0.5)
    found: list[float] = np.median([msgspec.json.decode(line) for line in lines], axis=0).tolist()
    return found


def show(step: Step, batch: Batch, options: argparse.Namespace) -> int:
    """Print the arithmetic; returns the daily users."""
    table = Table("reckoning", "value", title="Daily users of this machine")
    measured, daily = int(step.rate / A_USER_S), int(step.without_client / A_USER_S)
    row = table.add_row
    row("requests/s held: feeds + POSTs", f"{step.rate:,.0f} = {step.rate * 0.8:,.0f} + {step.rate * 0.2:,.0f}")
    row("a daily user's requests/s in the peak hour", f"({FEEDS} + {POSTS}) x {PEAK_SHARE} / 3,600 = {A_USER_S:.6f}")
    row("daily users, the client's CPU included", f"{measured:,}")
    row("cores of the client, of 2", f"{step.client_cores:.2f}")
    row("requests/s with that CPU for everything else", f"{step.without_client:,.0f}")
    row("daily users, the client's CPU subtracted", f"{daily:,}")
    row("cores of other programs meanwhile", f"{step.others_cores:.2f}")
    a_user_s = batch.everyone_s / options.users
    tick = batch.tick_s + a_user_s * ACTIVE_SHARE * daily
    days_of_history = daily * (FEEDS + POSTS * EVENTS) / batch.events
    night = days_of_history * batch.history_s + batch.train_s + a_user_s * SEEN_SHARE * daily
    row("a tick at the peak for that many, CPU", f"{tick:,.0f} s of {CORES * 900:,} (2 cores, 15 minutes)")
    row("a night for that many, CPU", f"{night / 3600:.1f} h of {CORES * 24} (2 cores, a day)")
    row("a day's files for that many", f"{days_of_history * batch.history_mb / 1000:,.1f} GB")
    row("memory of this world's services and batch side", f"{batch.memory_mb:,.0f} MB")
    Console().print(table)
    print(f"world: {options.users:,} users, {options.pings:,} pings; {options.workers} workers of the feed")
    return daily


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15, help="of each step (default %(default)s)")
    parser.add_argument("--first", type=float, default=60, help="requests/s of the first step (default %(default)s)")
    parser.add_argument("--halvings", type=int, default=3, help="of the last step (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of the feed (default %(default)s)")
    parser.add_argument("--users", type=int, default=2000, help="in the world (default %(default)s)")
    parser.add_argument("--pings", type=int, default=2000, help="in the world (default %(default)s)")
    parser.add_argument("--batch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.batch:
        batch_passes(options.batch)
    random.seed(7)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # inherited by everything started here
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        steps, batch = run(home, options)
    best = max((step for step in steps if step.held), key=lambda step: step.rate, default=None)
    if best is None:
        sys.exit("not even the lowest rate was held: the machine has other work")
    if options.json:
        found = {"steps": [asdict(step) for step in steps], "batch": asdict(batch)}
        print(msgspec.json.encode(found).decode())
    else:
        show(best, batch, options)


def prepare(home: Path, options: argparse.Namespace) -> tuple[float, int, float]:
    """Some days of a small world; CPU seconds of the nightly job that reads them, how many events, and MB of files."""
    batch = build(load({"PINGFEED_HOME": str(home)}), quiet=True)
    now_tick = batch.ticks.of(batch.clock())
    until_ms, tick_ms = batch.ticks.start_ms(now_tick), batch.ticks.tick_ms
    spec = Spec(seed=1, users=options.users, pings=options.pings, days=3, until_ms=until_ms, tick_ms=tick_ms)
    write_history(World.build(spec), home / "lake")
    began = time.process_time()
    events = etl(batch, now_tick).kept
    took_s = time.process_time() - began
    train(batch, now_tick)
    ticking.run(batch, now_tick, everyone=True)
    size = sum(file.stat().st_size for file in (home / "lake").rglob("*") if file.is_file())
    return took_s, events, size / 1e6


def run(home: Path, options: argparse.Namespace) -> tuple[list[Step], Batch]:
    """Serve, and search for the highest rate."""
    history = prepare(home, options)
    ingest_port, feed_port = free_port(), free_port()
    ingest = [*_SERVE, "ingest", "--port", str(ingest_port)]
    feed = [*_SERVE, "feed", "--port", str(feed_port), "--workers", str(options.workers)]
    with (
        serving(ingest, ingest_port, home) as (_, ingest_pid),
        serving(feed, feed_port, home) as (_, feed_pid),
        batch_beside(home) as batch_pid,
    ):
        world = options.users, options.pings
        machine = Machine((ingest_port, feed_port), [ingest_pid, feed_pid], batch_pid, world)
        machine.step(options.first / 2, 3)  # opens what the first requests open
        steps = search(machine, options.first, options.seconds, options.halvings)
        etl_s, train_s, everyone_s, tick_s = median_pass(home)
        return steps, Batch(etl_s, train_s, everyone_s, tick_s, *history, machine.memory_mb())


if __name__ == "__main__":
    main()
