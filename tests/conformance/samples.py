"""Rows and batches for the suites; SQLite files read from outside, full disks, and waiting for something."""

import asyncio
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pingfeed.adapters._sqlite import Database
from pingfeed.core.clock import to_ms
from pingfeed.core.events import Row, encode_rows

NOON_MS = to_ms(datetime(2026, 11, 22, 12, tzinfo=UTC))


def like(number: int, *, user: str = "ann", received_ms: int = NOON_MS) -> Row:
    """An accepted like; `number` makes its event id and its ping id."""
    return {
        "event_id": f"00000000-0000-7000-8000-{number:012d}",
        "event_type": "like",
        "user_id": user,
        "ping_id": f"ping-{number}",
        "country": "DE",
        "received_ms": received_ms,
        "timestamp_ms": received_ms,
    }


@dataclass(frozen=True)
class SampleBatch:
    """Satisfies `ports.Batch`."""

    name: str
    lines: Sequence[bytes]
    received_ms: int


def batch(name: str, *rows: Row, received_ms: int = NOON_MS) -> SampleBatch:
    """A batch with one record a row."""
    return SampleBatch(name, [encode_rows([row]) for row in rows], received_ms)


async def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until `condition` holds; an AssertionError if it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)


def sql(path: Path, *statements: str) -> list[Any]:
    """The rows that the last statement gives; all are one transaction of another connection."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


@contextmanager
def disk_full_above(size: int) -> Iterator[None]:
    """No file of this process grows over `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def statements_of(database: Database) -> list[str]:
    """The statements that the writer executes from now on."""
    await database.write(lambda _: None)
    statements: list[str] = []
    database._writer.set_trace_callback(statements.append)
    return statements
