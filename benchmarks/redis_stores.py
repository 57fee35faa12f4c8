"""What the Redis adapters cost a request, beside bare commands of the same client: python -m benchmarks.redis_stores

A server of its own is started on loopback. Every figure stands beside a floor measured in the same run, call by call in
turn, so that whatever else the machine does slows both. The ratio travels to other machines, microseconds do not.
"""

import argparse
import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from pingfeed.adapters.candidates_redis import RedisCandidateStore
from pingfeed.adapters.candidates_sqlite import SqliteCandidateStore
from pingfeed.adapters.trending_redis import RedisTrending
from pingfeed.adapters.user_signals_redis import RedisUserSignals
from pingfeed.core.clock import system_clock
from pingfeed.core.packet import TTL_S
from pingfeed.core.signals import Act
from pingfeed.core.trending import Engagement
from tests.servers import redis_server, running

Call = Callable[[int], Awaitable[Any]]


@dataclass
class Measured:
    """One call and its floor: medians, 99th percentiles, and CPU of this process, in microseconds."""

    name: str
    floor: str
    p50_us: float
    p99_us: float
    cpu_us: float
    floor_p50_us: float
    floor_cpu_us: float


async def measure(name: str, call: Call, floor: str, bare: Call, times: int) -> Measured:
    """Both, one after the other, `times` times; the first tenth is not counted."""
    took: dict[Call, list[float]] = {call: [], bare: []}
    cpu: dict[Call, list[float]] = {call: [], bare: []}
    gc.collect()
    for number in range(times):
        for one in (call, bare):
            began, began_cpu = time.perf_counter(), time.process_time()
            await one(number)
            cpu[one].append(time.process_time() - began_cpu)
            took[one].append(time.perf_counter() - began)
    us = {one: np.array(values[times // 10 :]) * 1e6 for one, values in took.items()}
    cpu_us = {one: float(np.mean(values[times // 10 :])) * 1e6 for one, values in cpu.items()}
    p50, p99 = (float(np.percentile(us[call], q)) for q in (50, 99))
    return Measured(name, floor, p50, p99, cpu_us[call], float(np.percentile(us[bare], 50)), cpu_us[bare])


def day_of_acts(user_id: str, now_ms: int) -> list[Act]:
    """What an active user leaves: 60 follows, 20 hides, 300 pings seen, 40 engaged, 12 responses of ten."""
    acts = [Act(user_id, "follow", f"creator-{n:05}", now_ms - n) for n in range(60)]
    acts += [Act(user_id, "hide", f"ping-{n:07}", now_ms - n) for n in range(20)]
    acts += [Act(user_id, "seen", f"ping-{n:07}", now_ms - n) for n in range(300)]
    acts += [Act(user_id, "engaged", f"ping-{n:07}", now_ms - n) for n in range(40)]
    pings = tuple(f"ping-{n:07}" for n in range(10))
    return acts + [Act(user_id, "served", f"request-{n:030}", now_ms - n, pings) for n in range(12)]


async def run(url: str, folder: Path, times: int) -> list[Measured]:
    """Every line of the table."""
    now_ms = system_clock()
    signals, trending = RedisUserSignals(url), RedisTrending(url)
    packets = RedisCandidateStore(url, SqliteCandidateStore(f"sqlite://{folder}/candidates.sqlite"), patience_s=5)
    bare: Any = Redis.from_url(url.partition("?")[0])
    users = [f"user-{n:04}" for n in range(50)]
    await packets.put_many({user: os.urandom(930) for user in users}, now_ms + TTL_S * 1000)
    for user in users:
        await signals.apply(day_of_acts(user, now_ms))
    await signals.apply([Act("", "deleted", f"gone-{n}", now_ms) for n in range(1000)])
    await signals.apply([Act("strict", "block", f"creator-{n:010}", now_ms) for n in range(10_000)])
    await signals.mark_complete()
    await bare.set("packet", os.urandom(930))
    await bare.set("state", await bare.get(f"pingfeed:signals:{users[0]}"))
    fresh = iter(range(1, 1 << 40))

    def act(user: str) -> Act:
        number = next(fresh)
        return Act(user, "seen", f"ping-{number % 100_000:07}", now_ms + number)

    def like() -> Engagement:
        return Engagement(f"user-{next(fresh)}", f"ping-{next(fresh) % 5000}", "like", "DE", now_ms)

    async def pipelined(*commands: tuple[Any, ...]) -> None:
        async with bare.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            await pipeline.execute()

    async def both(number: int) -> None:
        user = users[number % 50]
        await asyncio.gather(packets.get(user, now_ms), signals.read(user, now_ms))

    async def all_blocks(_: int) -> None:
        signals._copies.drop("strict")
        await signals.read("strict", now_ms)

    async def another_block(_: int) -> None:
        await signals.apply([Act("strict", "block", f"creator-{next(fresh) % 10_000:010}", now_ms + next(fresh))])
        await signals.read("strict", now_ms)

    async def two_gets(_: int) -> None:
        await asyncio.gather(bare.get("packet"), bare.get("state"))

    async def get_then_set(count: int) -> None:
        await pipelined(*[("GET", "state")] * count)
        await pipelined(*[("SET", "copy", b"x" * 8000, "PX", 60_000)] * count)

    results = [
        await measure("a packet that is cached", lambda n: packets.get(users[n % 50], now_ms),
                      "GET", lambda _: bare.get("packet"), times),
        await measure("a user's signals", lambda n: signals.read(users[n % 50], now_ms),
                      "GET of the same bytes", lambda _: bare.get("state"), times),
        await measure("a feed's read: both together", both, "both GETs together", two_gets, times),
        await measure("10,000 blocks, all of them news", all_blocks,
                      "HGETALL", lambda _: bare.execute_command("HGETALL", "pingfeed:{strict}:relations"), times // 10),
        await measure("10,000 blocks, one more and a read", another_block, "two GETs", two_gets, times // 4),
        await measure("50 acts of one user", lambda _: signals.apply([act(users[0]) for _ in range(50)]),
                      "GET, then SET", lambda _: get_then_set(1), times // 4),
        await measure("50 acts of 50 users", lambda _: signals.apply([act(user) for user in users]),
                      "50 GETs, then 50 SETs", lambda _: get_then_set(50), times // 20),
        await measure("50 likes into trending", lambda _: trending.add([like() for _ in range(50)]),
                      "150 ZINCRBYs", lambda n: pipelined(*[("ZINCRBY", "z", 1, f"m{n}")] * 150), times // 10),
        await measure("top 200 of trending", lambda _: trending.top("DE", 200, now_ms),
                      "GET", lambda _: bare.get("packet"), times // 4),
    ]  # fmt: skip
    for opened in (signals, trending, packets):
        await opened.close()
    await bare.aclose()
    return results


def show(results: list[Measured]) -> None:
    table = Table("call", "p50 us", "p99 us", "CPU us", "floor", "p50 us", "CPU us", "times the floor", title="Redis")
    for one in results:
        figures = [f"{value:,.0f}" for value in (one.p50_us, one.p99_us, one.cpu_us)]
        floor = [one.floor, f"{one.floor_p50_us:,.0f}", f"{one.floor_cpu_us:,.0f}"]
        table.add_row(one.name, *figures, *floor, f"{one.p50_us / one.floor_p50_us:.1f}")
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=2000, help="calls for each figure (default %(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running(redis_server(Path(name))) as server:
        url = f"redis://127.0.0.1:{server.port}/0?namespace=pingfeed"
        results = asyncio.run(run(url, Path(name), options.times))
    if options.json:
        print(msgspec.json.encode([asdict(one) for one in results]).decode())
    else:
        show(results)


if __name__ == "__main__":
    main()
