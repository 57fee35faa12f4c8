"""What one user with a very long history costs that user and all others: make bench-heavy

The user has 100,000 acts and 10,000 blocks, and goes on: a feed and a further block or view again and again, while
others read feeds at a steady rate. Their latency is compared with the same rate without that user. Requests are
planned at fixed times and counted from there.
"""

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Final

import httpx
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.serving import ask_feed, free_port, prepare, serving
from pingfeed.core.clock import system_clock
from pingfeed.core.ids import uuid7
from pingfeed.settings import load

HEAVY: Final = "heavy"
SERVE: Final = ["-c", "import sys; from pingfeed.cli import main; sys.exit(main())", "serve"]


def event(kind: str, number: int) -> dict[str, object]:
    """One act of the heavy user."""
    about = {"creator_id": f"blocked-{number}"} if kind == "block" else {"ping_id": f"ping-{number % 1000:05}-{number}"}
    return {"event_id": uuid7(system_clock()), "event_type": kind, "user_id": HEAVY, **about}


async def fill(url: str, acts: int, blocks: int) -> None:
    """Give the heavy user the history."""
    kinds = ("impression", "impression", "like", "comment")
    events = [event(kinds[n % 4], n) for n in range(acts)] + [event("block", n) for n in range(blocks)]
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for start in range(0, len(events), 500):
            body = msgspec.json.encode({"events": events[start : start + 500]})
            answer = await client.post("/track-events", content=body)
            assert answer.status_code == 202, answer.text


async def others(url: str, count: int, a_second: float) -> list[float]:
    """Milliseconds of other users' feeds at a steady rate, from when each was planned."""

    async def one(client: httpx.AsyncClient, at: float) -> float:
        await asyncio.sleep(at - time.perf_counter())
        answer = await ask_feed(client)
        assert answer.status_code == 200, answer.text
        return (time.perf_counter() - at) * 1000

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        start = time.perf_counter() + 0.1
        return await asyncio.gather(*(one(client, start + n / a_second) for n in range(count)))


async def heavy(ingest: str, feed: str, done: asyncio.Event, blocks: int) -> tuple[list[float], int]:
    """Milliseconds of the heavy user's feeds, each after a new act, and how many lacked a part."""
    took, degraded, number = [], 0, blocks
    async with httpx.AsyncClient(timeout=60) as client:
        while not done.is_set():
            number += 1
            act = event("unblock" if number % 2 else "view", number - blocks) | {"creator_id": f"blocked-{number % 50}"}
            act |= {"watch_time_ratio": 1} if act["event_type"] == "view" else {}
            await client.post(f"{ingest}/track-event", content=msgspec.json.encode(act))
            began = time.perf_counter()
            answer = await client.get(f"{feed}/get-feed", params={"user_id": HEAVY})
            took.append((time.perf_counter() - began) * 1000)
            degraded += bool(set(answer.json()["degraded"]) - {"model"})
            await asyncio.sleep(0.02)
    return took, degraded


async def compare(
    ingest: str, feed: str, options: argparse.Namespace
) -> tuple[list[float], list[float], list[float], int]:
    """Others without the heavy user, others with, the heavy user, and that one's feeds that lacked a part."""
    await others(feed, options.requests // 4, options.rate)
    without = await others(feed, options.requests, options.rate)
    await fill(ingest, options.acts, options.blocks)
    done = asyncio.Event()
    task = asyncio.create_task(heavy(ingest, feed, done, options.blocks))
    beside = await others(feed, options.requests, options.rate)
    done.set()
    took, degraded = await task
    return without, beside, took, degraded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--acts", type=int, default=100_000)
    parser.add_argument("--blocks", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=1500, help="feeds of others for each figure (%(default)s)")
    parser.add_argument("--rate", type=float, default=50, help="feeds of others a second (%(default)s)")
    options = parser.parse_args()
    random.seed(7)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home)
        ports = free_port(), free_port()
        with (
            serving([*SERVE, "ingest", "--port", str(ports[0])], ports[0], home) as (ingest, _),
            serving([*SERVE, "feed", "--port", str(ports[1])], ports[1], home) as (feed, _),
        ):
            without, beside, took, degraded = asyncio.run(compare(ingest, feed, options))
        budget_ms = load({"PINGFEED_HOME": folder}).feed_budget_ms
    table = Table("feeds of", "count", "p50 ms", "p95 ms", "p99 ms", title="One user with a long history")
    for name, times in (("others, without", without), ("others, beside", beside), ("the heavy user", took)):
        table.add_row(name, f"{len(times):,}", *(f"{float(np.percentile(times, q)):.1f}" for q in (50, 95, 99)))
    Console().print(table)
    ratio = float(np.percentile(beside, 99) / np.percentile(without, 99))
    late = sum(ms > budget_ms for ms in took)
    print(f"others' p99 is {ratio:.2f} times that without; of the user's feeds {late} took over {budget_ms} ms")
    print(f"and {degraded} lacked a part")


if __name__ == "__main__":
    main()
