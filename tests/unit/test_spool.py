"""The spool keeps what it acknowledged: through kills, a full disk, a second process, a late release."""

import asyncio
import fcntl
import os
import random
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pingfeed.delivery import spool as spool_module
from pingfeed.delivery.landing import wait_landed
from pingfeed.delivery.spool import FILE, LOCK, Spool
from pingfeed.errors import Busy, Unavailable
from tests.conformance.samples import NOON_MS

NOW_MS = NOON_MS

APPENDER = """
import asyncio, os, sys
from pathlib import Path
from pingfeed.delivery.spool import Spool

async def one(spool, worker):
    number = 0
    while True:
        number += 1
        text = f"{worker}-{number}"
        record_id = await spool.append(text.encode(), 1, 1000 + number)
        os.write(1, f"{record_id} {text}\\n".encode())

async def main():
    spool = Spool(Path(sys.argv[1]))
    os.write(1, b"open\\n")
    await asyncio.gather(*(one(spool, worker) for worker in range(4)))

asyncio.run(main())
"""
HOLDER = """
import asyncio, os, sys
from pathlib import Path
from pingfeed.delivery.spool import Spool

async def main():
    spool = Spool(Path(sys.argv[1]))
    await spool.append(b"held elsewhere", 5, 1000)
    os.write(1, b"open\\n")
    sys.stdin.read()

asyncio.run(main())
"""


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    opened = Spool(tmp_path / "spool")
    yield opened
    await opened.close()


def _lines(spool: Spool) -> list[bytes]:
    return [record.lines for record in spool.pending()]


@contextmanager
def _child(code: str, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has the spool in `folder` open; killed at the end."""
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _disk_full_above(size: int) -> Iterator[None]:
    """The kernel refuses to write past `size` bytes of any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_records_are_pending_oldest_first(spool: Spool) -> None:
    ids = [await spool.append(f"{n}".encode(), n, NOW_MS + n) for n in range(100)]
    records = list(spool.pending())
    assert ids == sorted(set(ids)) == [record.id for record in records]
    assert [(r.lines, r.count, r.received_ms) for r in records] == [
        (f"{n}".encode(), n, NOW_MS + n) for n in range(100)
    ]


async def test_concurrent_appends_get_ids_of_their_own(spool: Spool) -> None:
    ids = await asyncio.gather(*(spool.append(f"{n}".encode(), 1, NOW_MS) for n in range(200)))
    by_id = {record.id: record.lines for record in spool.pending()}
    assert [by_id[record_id] for record_id in ids] == [f"{n}".encode() for n in range(200)]


async def test_a_settled_record_is_gone_for_good(spool: Spool) -> None:
    ids = [await spool.append(b"x%d" % n, 2, NOW_MS) for n in range(5)]
    await spool.settle(ids[2])
    assert _lines(spool) == [b"x3", b"x4"]
    assert spool.depth() == (4, 4)
    assert spool.read(ids[0]) is None
    folder = spool.directory
    await spool.close()
    again = Spool(folder)
    assert _lines(again) == [b"x3", b"x4"]
    assert again.depth() == (4, 4)
    await again.close()


async def test_an_id_is_never_used_again(spool: Spool) -> None:
    first = await spool.append(b"x", 1, NOW_MS)
    await spool.settle(first)
    folder, spool_id = spool.directory, spool.spool_id
    await spool.close()
    again = Spool(folder)
    assert await again.append(b"y", 1, NOW_MS) > first
    assert again.spool_id == spool_id
    await again.close()


async def test_a_new_spool_has_an_identity_of_its_own(spool: Spool, tmp_path: Path) -> None:
    other = Spool(tmp_path / "other")
    assert other.spool_id != spool.spool_id
    await other.close()


async def test_a_held_record_is_never_deleted(spool: Spool) -> None:
    held = await spool.append(b"held", 1, NOW_MS, held=True)
    free = await spool.append(b"free", 1, NOW_MS)
    await spool.settle(free)
    assert _lines(spool) == []
    assert spool.depth() == (0, 0)
    assert [record.id for record in spool.spooled()] == [held]
    await spool.settle(free)
    assert spool.read(held) is not None
    spool.release(held)
    await spool.settle(free)
    assert spool.read(held) is None


async def test_a_delivered_and_held_record_waits_for_its_signals_after_a_restart_but_not_for_delivery(
    spool: Spool,
) -> None:
    held = await spool.append(b"held", 1, NOW_MS, held=True)
    await spool.settle(held)
    folder = spool.directory
    await spool.close()
    again = Spool(folder)
    assert _lines(again) == []
    assert [record.lines for record in again.spooled()] == [b"held"]
    await again.close()


async def test_a_hold_may_come_later_too(spool: Spool) -> None:
    record_id = await spool.append(b"x", 1, NOW_MS)
    spool.hold([record_id])
    await spool.settle(record_id)
    assert [record.id for record in spool.spooled()] == [record_id]


async def test_a_second_spool_in_the_same_directory_is_busy(spool: Spool) -> None:
    with pytest.raises(Busy):
        Spool(spool.directory)
    await spool.append(b"x", 1, NOW_MS)
    folder = spool.directory
    await spool.close()
    again = Spool(folder)
    assert _lines(again) == [b"x"]
    await again.close()


async def test_another_processs_spool_is_busy_until_it_dies(tmp_path: Path) -> None:
    with _child(HOLDER, tmp_path), pytest.raises(Busy):
        Spool(tmp_path)
    again = Spool(tmp_path)
    assert _lines(again) == [b"held elsewhere"]
    await again.close()


async def test_a_look_at_the_lock_makes_nobody_busy(tmp_path: Path) -> None:
    """`landing` takes a shared lock for a moment; a service that starts in that moment must still start."""
    tmp_path.joinpath(LOCK).touch()
    descriptor = os.open(tmp_path / LOCK, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    looking = threading.Timer(0.1, os.close, [descriptor])
    looking.start()
    await Spool(tmp_path).close()
    looking.join()


async def test_a_full_spool_refuses_and_accepts_again_after_delivery(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=100)
    first = await spool.append(b"x" * 60, 1, NOW_MS)
    with pytest.raises(Unavailable) as refused:
        await spool.append(b"y" * 60, 1, NOW_MS)
    assert refused.value.retry_after_s >= 1
    with pytest.raises(Unavailable):
        await spool.append(b"y" * 60, 1, NOW_MS)
    await spool.append(b"z" * 40, 1, NOW_MS)
    with pytest.raises(Unavailable):
        await spool.check()
    await spool.settle(first)
    await spool.append(b"y" * 60, 1, NOW_MS)
    assert _lines(spool) == [b"z" * 40, b"y" * 60]
    await spool.close()


async def test_the_bound_counts_held_records_and_survives_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=100)
    held = await spool.append(b"x" * 60, 1, NOW_MS, held=True)
    await spool.settle(held)
    with pytest.raises(Unavailable):
        await spool.append(b"y" * 60, 1, NOW_MS)
    await spool.close()
    again = Spool(tmp_path, max_bytes=100)
    with pytest.raises(Unavailable):
        await again.append(b"y" * 60, 1, NOW_MS)
    await again.settle(held)
    await again.append(b"y" * 60, 1, NOW_MS)
    await again.close()


async def test_a_refusing_disk_is_unavailable_and_recovers_by_itself(spool: Spool) -> None:
    await spool.append(b"before", 1, NOW_MS)
    depth = spool.depth()
    with _disk_full_above(1 << 16), pytest.raises(Unavailable):
        await spool.append(os.urandom(1 << 20), 1, NOW_MS)
    assert spool.depth() == depth
    await spool.append(b"after", 1, NOW_MS)
    assert _lines(spool) == [b"before", b"after"]


async def test_a_full_database_is_unavailable_and_recovers_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own `database or disk is full`."""
    schema = (*spool_module._SCHEMA, "PRAGMA max_page_count = 64")
    monkeypatch.setattr(spool_module, "_SCHEMA", schema)
    spool = Spool(tmp_path)
    first = await spool.append(os.urandom(150_000), 1, NOW_MS)
    with pytest.raises(Unavailable, match="full"):
        await spool.append(os.urandom(150_000), 1, NOW_MS)
    await spool.settle(first)
    await spool.append(os.urandom(150_000), 1, NOW_MS)
    assert len(_lines(spool)) == 1
    await spool.close()


async def test_a_closed_spool_takes_nothing(spool: Spool) -> None:
    await spool.close()
    await spool.close()
    with pytest.raises(Unavailable):
        await spool.append(b"x", 1, NOW_MS)


def test_a_directory_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    tmp_path.joinpath("file").touch()
    with pytest.raises(Unavailable):
        Spool(tmp_path / "file" / "spool")


def test_a_file_that_is_no_spool_is_unavailable_and_lets_the_directory_go(tmp_path: Path) -> None:
    tmp_path.joinpath(FILE).write_bytes(b"certainly no database" * 100)
    for _ in range(2):
        with pytest.raises(Unavailable):
            Spool(tmp_path)


async def test_every_acknowledged_record_survives_sigkill(tmp_path: Path) -> None:
    acknowledged: dict[int, bytes] = {}
    for _ in range(5):
        wanted = random.randint(1, 150)
        with _child(APPENDER, tmp_path) as process:
            assert process.stdout is not None
            for _ in range(wanted):
                acknowledged |= _acknowledged(process.stdout.readline())
            process.kill()
            for line in process.stdout:  # What was acknowledged before the kill arrived.
                acknowledged |= _acknowledged(line)
    spool = Spool(tmp_path)
    pending = {record.id: record.lines for record in spool.pending()}
    assert acknowledged.items() <= pending.items()
    assert len(acknowledged) >= 5
    await spool.close()


def _acknowledged(line: bytes) -> dict[int, bytes]:
    record_id, _, text = line.strip().partition(b" ")
    return {int(record_id): text}


async def test_a_torn_write_at_the_end_takes_nothing_else_with_it(tmp_path: Path) -> None:
    """What a power cut may leave of a commit that was never acknowledged: half a frame in the log."""
    with _child(APPENDER, tmp_path) as process:
        assert process.stdout is not None
        acknowledged = dict[int, bytes]()
        for _ in range(20):
            acknowledged |= _acknowledged(process.stdout.readline())
        process.kill()
        process.wait()
    with (tmp_path / f"{FILE}-wal").open("ab") as log:
        log.write(os.urandom(3000))
    spool = Spool(tmp_path)
    assert acknowledged.items() <= {record.id: record.lines for record in spool.pending()}.items()
    await spool.append(b"on we go", 1, NOW_MS)
    await spool.close()


def test_nothing_waits_where_there_is_no_spool(tmp_path: Path) -> None:
    assert wait_landed(tmp_path / "never", NOW_MS, 60, pause=_must_not_wait) == 0


async def test_landing_waits_for_older_events_only(spool: Spool, tmp_path: Path) -> None:
    await spool.append(b"x", 3, NOW_MS - 1)
    await spool.append(b"y", 5, NOW_MS)
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS, 0) == 3
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS - 1, 60, pause=_must_not_wait) == 0
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS + 1, 0) == 8


async def test_landing_ends_when_the_last_older_event_is_delivered(spool: Spool, tmp_path: Path) -> None:
    for _ in range(3):
        last = await spool.append(b"x", 1, NOW_MS - 1)
    polls: list[float] = []

    def deliver_meanwhile(seconds: float) -> None:
        polls.append(seconds)
        loop.call_soon_threadsafe(lambda: asyncio.ensure_future(spool.settle(last - 2 + len(polls))))
        time.sleep(0.01)

    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS, 60, pause=deliver_meanwhile) == 0
    assert polls
    assert _lines(spool) == []


async def test_landing_does_not_wait_for_held_records_that_are_delivered(spool: Spool, tmp_path: Path) -> None:
    held = await spool.append(b"x", 1, NOW_MS - 1, held=True)
    await spool.settle(held)
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS, 60, pause=_must_not_wait) == 0


async def test_a_spool_that_nobody_holds_is_counted_not_waited_for(spool: Spool, tmp_path: Path) -> None:
    await spool.append(b"x", 4, NOW_MS - 1)
    await spool.close()
    assert wait_landed(tmp_path, NOW_MS, 60, pause=_must_not_wait) == 4


async def test_a_killed_spools_log_is_read_too(tmp_path: Path) -> None:
    with _child(HOLDER, tmp_path / "ingest") as process:
        assert wait_landed(tmp_path, NOW_MS, 0) == 5
        process.kill()
        process.wait()
        assert wait_landed(tmp_path, NOW_MS, 60, pause=_must_not_wait) == 5


async def test_every_spool_below_the_directory_counts(tmp_path: Path) -> None:
    opened = [Spool(tmp_path / name) for name in ("ingest", "feed")]
    for number, spool in enumerate(opened):
        await spool.append(b"x", 1 + number, NOW_MS - 1)
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS, 0) == 3
    for spool in opened:
        await spool.close()


async def test_looking_changes_nothing(spool: Spool, tmp_path: Path) -> None:
    await spool.append(b"x", 1, NOW_MS - 1)
    await asyncio.to_thread(wait_landed, tmp_path, NOW_MS, 0)
    assert _lines(spool) == [b"x"]
    await spool.append(b"y", 1, NOW_MS)


def test_a_spool_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    tmp_path.joinpath(FILE).write_bytes(b"certainly no database" * 100)
    with pytest.raises(Unavailable):
        wait_landed(tmp_path, NOW_MS, 0)


async def test_the_documented_format_is_what_is_on_disk(spool: Spool) -> None:
    await spool.append(b"lines", 2, NOW_MS)
    connection = sqlite3.connect(spool.directory / FILE)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(record)")]
    assert columns == ["id", "received_ms", "events", "bytes", "delivered", "lines"]
    assert connection.execute("SELECT * FROM record").fetchall() == [(1, NOW_MS, 2, 5, 0, b"lines")]
    assert connection.execute("SELECT * FROM meta").fetchall() == [("spool_id", spool.spool_id)]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def _must_not_wait(_: float) -> None:
    raise AssertionError("there was nothing to wait for")
