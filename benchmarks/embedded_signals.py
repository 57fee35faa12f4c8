"""What accepted events cost in the embedded stores, and a read by the feed: python -m benchmarks.embedded_signals

A request is 50 events by 50 of 1,000 users, about 1,000 pings in five countries. In the mix 70 % are impressions (an
act), 20 % views (two acts, and from half a watch an engagement), 10 % likes (two acts and an engagement); of likes
alone nothing is cheaper. The users' states are full before it begins. The figures are CPU of the whole process, the
stores' threads and their clean-up included, over enough requests that what is done now and then is in them.
"""

import argparse
import asyncio
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from ingest_api.signal_writer import SignalWriter
from pingfeed.adapters.trending_sqlite import SqliteTrending
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.clock import DAY_MS, system_clock
from pingfeed.core.events import Row
from pingfeed.core.signals import MAX_SEEN, Act, acts_of, engagements_of
from pingfeed.local.sqlite import Database

USERS: Final = 1000
PINGS: Final = 1000
EVENTS: Final = 50
COUNTRIES: Final = ("BR", "DE", "FR", "IN", "US")


@dataclass
class Measured:
    """CPU and elapsed time of one call, in microseconds, over `calls` calls."""

    name: str
    calls: int
    cpu_us: float
    elapsed_us: float


Call = Callable[[], Awaitable[object]]
_SLICE: Final = 400


async def measured(name: str, calls: Iterator[Call], count: int, *, at_once: int = 1) -> Measured:
    """The mean of about `count` calls, `at_once` of them under way at any moment; what makes the calls is not in it."""
    cpu = elapsed = 0.0
    slices = max(1, count // _SLICE)
    for _ in range(slices):
        ready = iter(list(islice(calls, _SLICE)))

        async def some(ready: Iterator[Call] = ready) -> None:
            for call in ready:
                await call()

        began, began_cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(some() for _ in range(at_once)))
        cpu, elapsed = cpu + time.process_time() - began_cpu, elapsed + time.perf_counter() - began
    count = slices * _SLICE
    return Measured(name, count, cpu / count * 1e6, elapsed / count * 1e6)


MIX: Final = ("impression",) * 7 + ("view",) * 2 + ("like",)
LIKES: Final = ("like",)


def requests(kinds: Sequence[str], dice: random.Random) -> Iterator[list[Row]]:
    """Rows as the door makes them, for ever."""
    now_ms = system_clock()
    while True:
        now_ms += 5
        yield [
            {
                "event_type": dice.choice(kinds),
                "user_id": f"user-{user:05}",
                "ping_id": f"ping-{int(PINGS * dice.random() ** 3):07}",
                "country": COUNTRIES[user % len(COUNTRIES)],
                "watch_time_ratio": dice.random(),
                "received_ms": now_ms,
            }
            for user in dice.sample(range(USERS), EVENTS)
        ]


def past(user_id: str, now_ms: int) -> list[Act]:
    """What fills a state: 40 follows, 20 hides, all the pings seen that it holds, 40 engaged, 12 responses."""
    acts = [Act(user_id, "seen", f"ping-{n:07}", now_ms - DAY_MS - n) for n in range(MAX_SEEN)]
    acts += [Act(user_id, "follow", f"creator-{n:05}", now_ms - n) for n in range(40)]
    acts += [Act(user_id, "hide", f"ping-{n:07}", now_ms - n) for n in range(20)]
    acts += [Act(user_id, "engaged", f"ping-{n:07}", now_ms - DAY_MS - n) for n in range(40)]
    pings = tuple(f"ping-{n:07}" for n in range(10))
    return acts + [Act(user_id, "served", f"request-{n:030}", now_ms - n, pings) for n in range(12)]


async def run(folder: Path, count: int) -> list[Measured]:
    """Every line of the table."""
    signals, feeds = (SqliteUserSignals(f"sqlite://{folder}/signals.sqlite") for _ in range(2))
    trending = SqliteTrending(f"sqlite://{folder}/trending.sqlite")
    now_ms, dice = system_clock(), random.Random(1)
    for user in range(USERS):
        await signals.apply(past(f"user-{user:05}", now_ms))
    results = await _floor(folder, count)
    for name, kinds in (("mix", MIX), ("likes", LIKES)):
        results += await _writes(name, requests(kinds, dice), count, signals, trending)

    def reads() -> Iterator[Call]:
        while True:
            yield partial(feeds.read, f"user-{dice.randrange(USERS):05}", now_ms)

    await next(reads())()  # Takes in what came meanwhile.
    results.append(await measured("a read by the feed", reads(), count // 4))
    results.append(await measured("top 200 of trending", repeat(partial(trending.top, "DE", 200, now_ms)), _SLICE))
    for opened in (signals, feeds, trending):
        await opened.close()
    return results


async def _floor(folder: Path, count: int) -> list[Measured]:
    """What it costs to make as many bytes durable, one row a request."""
    schema = ("CREATE TABLE row (id INTEGER PRIMARY KEY, data BLOB)",)
    database, data = Database(folder / "floor.sqlite", schema, durable=True), os.urandom(40 * EVENTS)

    def insert(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO row (data) VALUES (?)", (data,))

    calls = repeat(partial(database.write, insert))
    results = [
        await measured("floor: a row of as many bytes, one after the other", calls, count),
        await measured("floor: a row of as many bytes, 16 at once", calls, count, at_once=16),
    ]
    await database.close()
    return results


async def _writes(
    name: str, coming: Iterator[list[Row]], count: int, signals: SqliteUserSignals, trending: SqliteTrending
) -> list[Measured]:
    """What one kind of requests costs, in parts and as the ingest calls it."""
    writer = SignalWriter(signals, trending)

    async def nothing_stored(rows: Sequence[Row]) -> None:
        _acts(rows)
        engagements_of(rows)

    return [
        await measured(f"{name}: rows become acts and engagements", _each(nothing_stored, coming), count),
        await measured(f"{name}: acts", _each(signals.apply, map(_acts, coming)), count),
        await measured(f"{name}: engagements", _each(trending.add, map(engagements_of, coming)), count),
        await measured(f"{name}: all of it, one request after the other", _each(writer, coming), count),
        await measured(f"{name}: all of it, 16 requests at once", _each(writer, coming), count, at_once=16),
    ]


def _each(call: Callable[[Any], Awaitable[object]], arguments: Iterator[Any]) -> Iterator[Call]:
    return (partial(call, argument) for argument in arguments)


def _acts(rows: Sequence[Row]) -> list[Act]:
    return [act for row in rows for act in acts_of(row)]


def show(results: list[Measured]) -> None:
    table = Table("call", "calls", "CPU us", "elapsed us", title=f"Embedded signals and trending, {EVENTS} events")
    for one in results:
        table.add_row(one.name, f"{one.calls:,}", f"{one.cpu_us:,.0f}", f"{one.elapsed_us:,.0f}")
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=6000, help="for each figure (default %(default)s)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = asyncio.run(run(Path(name), options.requests))
    if options.json:
        print(msgspec.json.encode([asdict(one) for one in results]).decode())
    else:
        show(results)


if __name__ == "__main__":
    main()
