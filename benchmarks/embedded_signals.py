"""What the embedded signals cost: python -m benchmarks.embedded_signals

Reads are of a user with 150 acts, of one with 20,000 relations (half blocks, half mutes: the most that one may have)
and of one with 100,000 acts. "Cold" is a reader's first look at a user. A write is a like by one of 1,000 users. The
other process applies a like by another user each time, without a pause. The last figures are CPU of the whole process
per request of 50 events by 50 users, the way ingest calls the stores.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from ingest_api.signal_writer import SignalWriter
from pingfeed.adapters.trending_sqlite import SqliteTrending
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.clock import DAY_MS, system_clock
from pingfeed.core.events import Row
from pingfeed.core.signals import Act, ActKind

USERS: Final = 1000
EVENTS: Final = 50
KINDS: Final = ("impression",) * 7 + ("view",) * 2 + ("like",)
NOW_MS: Final = system_clock()
PATIENCE_S: Final = 30


def acts(user: str, kinds: tuple[ActKind, ...], count: int) -> list[Act]:
    """Acts of some kinds in turn, each on a target of its own."""
    return [Act(user, kinds[n % len(kinds)], f"{n:08x}-6f2a-7c1e-9d56-5a3f00000000", NOW_MS - n) for n in range(count)]


def like(number: int, prefix: str = "user") -> list[Act]:
    """What a like by one of the users applies."""
    user, ping, at_ms = f"{prefix}-{number * 7919 % USERS:05}", f"ping-{number % 5000:07}", NOW_MS + number
    return [Act(user, "seen", ping, at_ms), Act(user, "engaged", ping, at_ms)]


async def median_us(call: Callable[[int], Awaitable[object]], count: int) -> float:
    """The median of `count` calls, one after the other; microseconds."""
    took = []
    for number in range(count):
        began = time.perf_counter()
        await call(number)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


async def reads(url: str, count: int) -> dict[str, float]:
    """Reads by a process other than the one that wrote."""
    writer, reader = SqliteUserSignals(url), SqliteUserSignals(url)
    await writer.apply(acts("u150", ("seen", "engaged"), 150))
    await writer.apply(acts("u20k", ("block", "mute"), 20_000))
    many = acts("u100k", ("seen", "engaged", "hide", "seen"), 100_000)
    for start in range(0, len(many), 500):
        await writer.apply(many[start : start + 500])
    found = {}
    for user, name in (("u150", "150 acts"), ("u20k", "20,000 relations"), ("u100k", "100,000 acts")):

        async def cold(_: int, user: str = user) -> None:
            await reader.read(user, NOW_MS)
            reader._sessions.drop(user)
            reader._relations.drop(user)

        async def warm(_: int, user: str = user) -> None:
            await reader.read(user, NOW_MS)

        found[f"read, {name}"] = await median_us(warm, count)
        await cold(0)
        found[f"read, {name}, cold"] = await median_us(cold, 20)
    found["read, 20,000 relations, after each new one"] = await _after_each(writer, reader)
    await writer.close()
    await reader.close()
    return found


async def _after_each(writer: SqliteUserSignals, reader: SqliteUserSignals) -> float:
    took = []
    for number in range(50):
        await writer.apply([Act("u20k", "follow", "creator", NOW_MS + number)])
        began = time.perf_counter()
        await reader.read("u20k", NOW_MS)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


@asynccontextmanager
async def another_process(folder: Path) -> AsyncIterator[None]:
    """A process that writes to the same file without a pause, from its first write on."""
    ready = folder / "writing"
    command = ("-m", "benchmarks.embedded_signals", "--write-to", str(folder))
    process = await asyncio.create_subprocess_exec(sys.executable, *command)
    try:
        for _ in range(PATIENCE_S * 100):
            if ready.exists():
                break
            await asyncio.sleep(0.01)
        assert process.returncode is None
        yield
        assert process.returncode is None
    finally:
        process.terminate()
        await process.wait()


async def write_for_ever(folder: Path) -> None:
    """The other process."""
    store, number = SqliteUserSignals(f"sqlite://{folder}/signals.sqlite"), 0
    while True:
        await store.apply(like(number, "other"))
        (folder / "writing").touch()
        number += 1


def request(dice: random.Random) -> list[Row]:
    """Rows of one request."""
    return [
        {
            "event_type": dice.choice(KINDS),
            "user_id": f"user-{user:05}",
            "ping_id": f"ping-{int(1000 * dice.random() ** 3):07}",
            "country": "DE",
            "watch_time_ratio": dice.random(),
            "received_ms": NOW_MS + 1_000_000,
            "timestamp_ms": NOW_MS + 1_000_000,
            "event_id": f"{dice.getrandbits(64):016x}",
        }
        for user in dice.sample(range(USERS), EVENTS)
    ]


async def cpu_of_requests(signals: SqliteUserSignals, folder: Path, count: int, at_once: int) -> float:
    """CPU microseconds per request, that many under way at any moment."""
    trending = SqliteTrending(f"sqlite://{folder}/trending.sqlite")
    writer, dice = SignalWriter(signals, trending), random.Random(at_once)
    coming = iter([request(dice) for _ in range(count)])

    async def some() -> None:
        for rows in coming:
            await writer(rows)

    began = time.process_time()
    await asyncio.gather(*(some() for _ in range(at_once)))
    await trending.close()
    return (time.process_time() - began) / count * 1e6


async def run(folder: Path, count: int) -> dict[str, float]:
    """Every figure in microseconds."""
    url = f"sqlite://{folder}/signals.sqlite"
    found = await reads(url, count)
    signals = SqliteUserSignals(url)
    for user in range(USERS):
        await signals.apply([Act(f"user-{user:05}", "seen", f"ping-{n:07}", NOW_MS - DAY_MS - n) for n in range(150)])
    found["write"] = await median_us(lambda n: signals.apply(like(n)), count)
    async with another_process(folder):
        found["write, another process writing"] = await median_us(lambda n: signals.apply(like(n)), count)
        found["read, another process writing"] = await median_us(lambda _: signals.read("u150", NOW_MS), count)
    for at_once in (1, 16):
        name = f"CPU per request of {EVENTS} events, {at_once} at once"
        found[name] = await cpu_of_requests(signals, folder, count // 4, at_once)
    await signals.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="calls for each figure (default %(default)s)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write-to", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_to:
        asyncio.run(write_for_ever(options.write_to))
    with tempfile.TemporaryDirectory() as name:
        found = asyncio.run(run(Path(name), options.count))
    if options.json:
        print(msgspec.json.encode(found).decode())
        return
    table = Table("call", "microseconds", title="Embedded signals, medians")
    for call, value in found.items():
        table.add_row(call, f"{value:,.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
