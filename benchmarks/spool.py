"""Two ways to keep what was accepted, and the floor below both: python -m benchmarks.spool

    segments     the spool (`pingfeed/spool/spool.py`): segment files, group commit
    sqlite       a row an append in a WAL database, synchronous=FULL, coalesced (`pingfeed/adapters/_sqlite.py`)
    write+fsync  one file, one sync an append, nobody waits together

In turn in the same run, with as many callers at once as the row says; each appends again as soon as it has its answer.
"""

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.ingest import body_maker
from pingfeed.adapters._sqlite import Coalescer, Database
from pingfeed.core.events import encode_rows, to_rows
from pingfeed.core.ids import uuid7
from pingfeed.spool.disk import Disk
from pingfeed.spool.spool import Spool

Append = Callable[[bytes, int], Awaitable[object]]
CALLERS: Final = {1: (1, 200), 50: (1, 32), 500: (1, 8)}
SECONDS: Final = 0.7
NOW_MS: Final = 1_795_348_800_000
_TABLE: Final = "CREATE TABLE record (id INTEGER PRIMARY KEY AUTOINCREMENT, events INTEGER, lines BLOB)"


def lines_of(events: int) -> bytes:
    """What a request of that many views is in the spool."""
    _, make_body = body_maker(events, 1)
    decoded: Any = msgspec.json.decode(make_body(0))
    rows, _ = to_rows(decoded.get("events", [decoded]), NOW_MS, uuid7)
    return encode_rows(rows)


async def rate(append: Append, lines: bytes, events: int, callers: int) -> tuple[float, float]:
    """Events a second, and CPU microseconds an append."""
    appended = 0
    end = time.perf_counter() + SECONDS

    async def call() -> None:
        nonlocal appended
        while time.perf_counter() < end:
            await append(lines, events)
            appended += 1

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(call() for _ in range(callers)))
    return appended * events / (time.perf_counter() - began), (time.process_time() - cpu) / appended * 1e6


def _insert(rows: Sequence[tuple[int, bytes]], connection: sqlite3.Connection) -> None:
    connection.executemany("INSERT INTO record (events, lines) VALUES (?, ?)", rows)


async def measure(turns: int) -> dict[tuple[int, int, str], list[tuple[float, float]]]:
    """(events, callers, way) -> a figure for each turn."""
    found: dict[tuple[int, int, str], list[tuple[float, float]]] = {}
    for turn in range(turns):
        with tempfile.TemporaryDirectory() as folder:
            spool = Spool(Path(folder, "spool"), max_bytes=8 << 30)
            database = Database(Path(folder, "sqlite"), [_TABLE], durable=True)
            coalesced = Coalescer(lambda rows, base=database: base.write(partial(_insert, rows)))  # type: ignore[misc]
            disk = Disk()
            file = disk.create(Path(folder, "file"))

            async def bare(lines: bytes, _: int, disk: Disk = disk, file: int = file) -> None:
                disk.write(file, lines)
                disk.sync(file)

            ways: dict[str, Append] = {
                "segments": lambda lines, events, spool=spool: spool.append(lines, events, NOW_MS),  # type: ignore[misc]
                "sqlite": lambda lines, events, append=coalesced: append([(events, lines)]),  # type: ignore[misc]
                "write+fsync": bare,
            }
            for events, several in CALLERS.items():
                lines = lines_of(events)
                for callers in several:
                    for name, append in ways.items():
                        figure = await rate(append, lines, events, callers)
                        if turn:
                            found.setdefault((events, callers, name), []).append(figure)
            disk.close(file)
            await spool.close()
            await database.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=4, help="the first is not counted (default %(default)s)")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(options.turns))
    table = Table("events", "callers", "way", "events/s", "CPU us an append", title="Durable appends")
    for (events, callers, name), figures in found.items():
        events_s, cpu_us = (float(np.median(values)) for values in zip(*figures, strict=True))
        table.add_row(str(events), str(callers), name, f"{events_s:,.0f}", f"{cpu_us:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
