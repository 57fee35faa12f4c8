"""What the feed does beyond its capacity: `make bench-overload`.

The service has one core, the load the other. First a closed loop finds the highest rate of this run, then half, two
and four times as much is offered, at random times that do not depend on the answers (an open loop), for a bounded time
and only on loopback. A latency counts from the planned time of sending, so an answer that keeps the generator waiting
counts in full. An answer is late by the time from the write to the socket until the kernel had it (which tells that to
4 ms), for that is what the service can know. After each load, one request at a time shows how soon the feed is as fast
as before. On a machine with other work the figures are those of that work: run it on a quiet one.
"""

import argparse
import asyncio
import os
import random
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.serving import USERS, free_port, prepare, serving
from simulator.world import user_id

SERVICE_CORE, LOAD_CORE = 0, 1
CONNECTIONS: Final = 900
CLOSED: Final = 4
"""Connections of the closed loop: enough to keep the service busy."""
MAX_REQUESTS: Final = 200_000
DRAIN_S: Final = 10.0
_SERVE: Final = [
    "-c",
    "import sys; from pingfeed.cli import main; sys.exit(main())",
    "serve",
    "feed",
    "--port",
]


@dataclass
class Answers:
    """What became of a load."""

    statuses: dict[int, int] = field(default_factory=dict)
    planned_s: list[float] = field(default_factory=list)
    """The time of each 200 or 202, from the planned sending."""
    degraded: dict[str, int] = field(default_factory=dict)
    silent: list[float] = field(default_factory=list)
    """Milliseconds by which answers with nothing degraded were over the budget, from the write to the socket."""
    lost: int = 0

    def count(self, head: bytes, body: bytes, planned_s: float, took_s: float, budget_s: float) -> None:
        """Count one answer."""
        status = int(head[9:12])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status not in (200, 202):
            return
        parts = ",".join(msgspec.json.decode(body).get("degraded", ()))
        self.degraded[parts] = self.degraded.get(parts, 0) + 1
        self.planned_s.append(planned_s)
        if took_s > budget_s and not parts:
            self.silent.append((took_s - budget_s) * 1000)


@dataclass
class Row:
    """One line of the table."""

    load: str
    offered_s: float
    answered_s: float
    p50_ms: float
    p99_ms: float
    share_503: float
    lost: int
    """Requests without an answer."""
    silent: int
    degraded: dict[str, int]


class Load:
    """Requests over a pool of connections; one that finds none free waits, and its latency counts."""

    def __init__(self, port: int, budget_s: float, request: Callable[[], bytes]) -> None:
        self.port, self.budget_s, self.request = port, budget_s, request
        self.free: list[_Connection] = []
        self.opened = 0
        self._opening: set[asyncio.Task[None]] = set()
        self.waiting: deque[float] = deque()
        self.answers = Answers()
        self.done = asyncio.Event()
        self.under_way = 0

    def send(self, planned: float) -> None:
        """Send over the connection that was free last, or a new one; at the cap as soon as one is free."""
        self.under_way += 1
        if self.free:
            self.free.pop().ask(planned)
        elif self.opened < CONNECTIONS:
            self.opened += 1
            task = asyncio.create_task(self._open(planned))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        else:
            self.waiting.append(planned)

    async def _open(self, planned: float) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
        connection.ask(planned)

    def answered(self, connection: "_Connection") -> None:
        """A connection has its answer."""
        self.under_way -= 1
        if self.waiting:
            connection.ask(self.waiting.popleft())
        else:
            self.free.append(connection)
        self.done.set()

    def closed(self, connection: "_Connection") -> None:
        """The service closes connections that are idle for long; a request that it leaves unanswered is lost."""
        self.opened -= 1
        if connection in self.free:
            self.free.remove(connection)
        else:
            self.under_way -= 1
            self.answers.lost += 1

    def close(self) -> None:
        """Close the connections."""
        for connection in list(self.free):
            connection.transport.close()


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load) -> None:
        self._load, self._got = load, b""
        self._planned = self._written = 0.0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, planned: float) -> None:
        request = self._load.request()
        self._planned, self._written = planned, time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        end = self._got.find(b"\r\n\r\n") + 4
        if end < 4 or len(self._got) < end + _length(self._got[:end]):
            return
        now, got, self._got = time.perf_counter(), self._got, b""
        load = self._load
        took_s = now - self._written - self._unread_s()
        load.answers.count(got, got[end:], now - self._planned, took_s, load.budget_s)
        load.answered(self)

    def _unread_s(self) -> float:
        info = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 56)
        return int.from_bytes(info[52:56], sys.byteorder) / 1000

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._load.closed(self)


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0])


def ask_feed(users: int = USERS) -> bytes:
    """A request for one of the users' feeds."""
    return f"GET /get-feed?user_id={user_id(random.randrange(users))} HTTP/1.1\r\nHost: feed\r\n\r\n".encode()


async def closed_loop(port: int, budget_s: float, seconds: float, connections: int) -> tuple[float, Answers]:
    """Answers a second while each connection asks again as soon as it has its answer."""
    load = Load(port, budget_s, ask_feed)
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        while load.under_way < connections:
            load.send(time.perf_counter())
        load.done.clear()
        await load.done.wait()
    rate = len(load.answers.planned_s) / (time.perf_counter() - began)
    await _drained(load)
    return rate, load.answers


async def open_loop(
    port: int, budget_s: float, seconds: float, rate: float, request: Callable[[], bytes] = ask_feed
) -> Answers:
    """Requests at random times, `rate` a second on average."""
    assert rate * seconds <= MAX_REQUESTS
    load = Load(port, budget_s, request)
    planned = began = time.perf_counter()
    while planned < began + seconds:
        planned += random.expovariate(rate)
        await asyncio.sleep(max(0.0, planned - time.perf_counter()))
        load.send(planned)
    await _drained(load)
    return load.answers


async def _drained(load: Load) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while load.under_way:
                load.done.clear()
                await load.done.wait()
    load.answers.lost += load.under_way
    load.close()


def row(load: str, offered_s: float, seconds: float, answers: Answers) -> Row:
    """The figures of a load."""
    p50, p99 = (float(np.percentile(answers.planned_s or [0.0], q)) * 1000 for q in (50, 99))
    count = sum(answers.statuses.values()) + answers.lost
    share = answers.statuses.get(503, 0) / count
    answered_s = len(answers.planned_s) / seconds
    return Row(load, offered_s, answered_s, p50, p99, share, answers.lost, len(answers.silent), answers.degraded)


def run(home: Path, seconds: float, budget_s: float) -> tuple[list[Row], dict[str, list[float]]]:
    """The rows of the table, and p50 in each second after a load."""
    port, rows = free_port(), list[Row]()
    after: dict[str, list[float]] = {}
    os.sched_setaffinity(0, {SERVICE_CORE})  # inherited by the service
    with serving([*_SERVE, str(port)], port, home):
        os.sched_setaffinity(0, {LOAD_CORE})
        uvloop.run(closed_loop(port, budget_s, 2, 1))
        calm, answers = uvloop.run(closed_loop(port, budget_s, 2, 1))
        rows.append(row("one at a time", calm, 2, answers))
        rate, answers = uvloop.run(closed_loop(port, budget_s, seconds / 2, CLOSED))
        rows.append(row(f"{CLOSED} at a time", rate, seconds / 2, answers))
        for times in (0.5, 2, 4):
            name = f"{times:g} times that"
            answers = uvloop.run(open_loop(port, budget_s, seconds, times * rate))
            rows.append(row(name, times * rate, seconds, answers))
            after[name] = []
            for _ in range(6):
                second = uvloop.run(closed_loop(port, budget_s, 1, 1))[1]
                after[name].append(float(np.percentile(second.planned_s, 50)) * 1000)
    return rows, after


def show(rows: list[Row], after: dict[str, list[float]]) -> None:
    """Print the tables."""
    heads = ("load", "offered/s", "200/s", "p50 ms", "p99 ms", "503", "lost", "late, not degraded", "degraded")
    table = Table(*heads, title="Overload")
    for one in rows:
        parts = ", ".join(f"{part or 'none'} {count:,}" for part, count in sorted(one.degraded.items()))
        figures = (f"{one.offered_s:,.0f}", f"{one.answered_s:,.0f}", f"{one.p50_ms:.1f}", f"{one.p99_ms:.1f}")
        table.add_row(one.load, *figures, f"{one.share_503:.0%}", str(one.lost), str(one.silent), parts)
    Console().print(table)
    for load, p50s in after.items():
        print(f"p50 in each second after {load}: {', '.join(f'{p50:.1f}' for p50 in p50s)} ms")
    print(f"p50 before: {rows[0].p50_ms:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each load (default %(default)s)")
    parser.add_argument("--budget-ms", type=int, default=50, help="PINGFEED_FEED_BUDGET_MS (default %(default)s)")
    parser.add_argument("--home", type=Path, help="use this prepared home in place of a new one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    random.seed(7)
    os.environ["PINGFEED_FEED_BUDGET_MS"] = str(options.budget_ms)
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        if options.home is None:
            prepare(home)
        rows, after = run(home, options.seconds, options.budget_ms / 1000)
    if options.json:
        print(msgspec.json.encode([[asdict(one) for one in rows], after]).decode())
    else:
        show(rows, after)


if __name__ == "__main__":
    main()
