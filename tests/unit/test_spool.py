"""The spool keeps what it acknowledged: through kills, a full disk, a second process, a late release."""

import asyncio
import fcntl
import os
import random
import resource
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import Busy, Unavailable
from pingfeed.spool.checkpoint import FILE as TALLY
from pingfeed.spool.checkpoint import LOCK, Tally
from pingfeed.spool.segment import HEADER_BYTES, MAGIC, Record, SpooledBatch, records
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import wait_landed, waiting_by_day
from tests.conformance.samples import NOON_MS

NOW_MS = NOON_MS

APPENDER = """
import asyncio, os, sys
from pathlib import Path
from pingfeed.spool.spool import Spool

async def one(spool, worker):
    number = 0
    while True:
        number += 1
        text = f"{worker}-{number}"
        await spool.append(text.encode(), 1, 1000 + number)
        os.write(1, f"{text}\\n".encode())

async def main():
    spool = Spool(Path(sys.argv[1]))
    os.write(1, b"open\\n")
    await asyncio.gather(*(one(spool, worker) for worker in range(4)))

asyncio.run(main())
"""
HOLDER = """
import asyncio, os, sys
from pathlib import Path
from pingfeed.spool.spool import Spool

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


def _records(spool: Spool) -> list[Record]:
    """Everything that is here, delivered or not."""
    return [record for segment in spool.segments() for record in spool.records(segment)]


def _lines(spool: Spool) -> list[bytes]:
    """What is here and not delivered."""
    return [r.lines for segment in spool.segments() if not segment.delivered for r in spool.records(segment)]


async def _batch(spool: Spool) -> SpooledBatch:
    """The next batch, the open segment closed before."""
    spool.seal()
    batch = await spool.next_batch()
    assert batch is not None
    return batch


async def _reopened(spool: Spool) -> Spool:
    await spool.close()
    return Spool(spool.directory, max_bytes=spool.max_bytes)


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


async def test_records_come_back_oldest_first(spool: Spool) -> None:
    for n in range(100):
        await spool.append(f"{n}".encode(), n, NOW_MS + n)
    records = _records(spool)
    assert [record.id for record in records] == list(range(1, 101))
    assert [(r.lines, r.count, r.received_ms) for r in records] == [
        (f"{n}".encode(), n, NOW_MS + n) for n in range(100)
    ]


async def test_concurrent_appends_share_commits_and_lose_nothing(spool: Spool) -> None:
    await asyncio.gather(*(spool.append(f"{n}".encode(), 1, NOW_MS) for n in range(200)))
    assert sorted(_lines(spool)) == sorted(f"{n}".encode() for n in range(200))
    assert spool.accepted == 200


async def test_a_closed_segment_is_a_batch_and_the_open_one_is_not(spool: Spool) -> None:
    await spool.append(b"one", 2, NOW_MS)
    await spool.append(b"two", 3, NOW_MS + 1)
    assert await spool.next_batch() is None
    batch = await _batch(spool)
    await spool.append(b"later", 1, NOW_MS)
    assert (list(batch.lines), batch.events, batch.received_ms) == ([b"one", b"two"], 5, NOW_MS)
    assert batch.name == f"{spool.spool_id}-{1:012d}-{2:012d}"
    again = await spool.next_batch()
    assert again is not None
    assert again.name == batch.name, "until it is settled, the same is next"


async def test_a_settled_batch_is_gone_for_good_and_counted(spool: Spool) -> None:
    await spool.append(b"one", 2, NOW_MS)
    batch = await _batch(spool)
    await spool.append(b"two", 2, NOW_MS)
    await spool.ack(batch)
    assert _lines(spool) == [b"two"]
    assert spool.depth()[0] == 2
    again = await _reopened(spool)
    assert [record.lines for record in _records(again)] == [b"two"]
    assert again.depth()[0] == 2
    tally = Tally.of((spool.directory / TALLY).read_bytes())
    assert {day: found.delivered for day, found in tally.days.items()} == {"2026-11-22": 2}
    await again.close()


async def test_settling_twice_counts_once(spool: Spool) -> None:
    await spool.append(b"one", 2, NOW_MS)
    batch = await _batch(spool)
    for _ in range(2):
        await spool.ack(batch)
    assert Tally.of((spool.directory / TALLY).read_bytes()).days["2026-11-22"].delivered == 2
    assert spool.depth() == (0, 0)


async def test_a_batch_is_bounded_by_events_and_by_bytes(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_events=10, segment_bytes=300)
    for count, size in ((4, 1), (4, 1), (4, 1), (1, 160), (1, 160), (1, 900), (1, 1)):
        await spool.append(b"x" * size, count, NOW_MS)
    spool.seal()
    found = []
    while (batch := await spool.next_batch()) is not None:
        found.append([len(lines) for lines in batch.lines])
        await spool.ack(batch)
    assert found == [[1, 1], [1, 160], [160], [900], [1]]
    await spool.close()


async def test_a_batch_is_of_one_utc_day_even_where_the_clock_jumps(spool: Spool) -> None:
    midnight = NOW_MS - NOW_MS % DAY_MS
    for received_ms in (midnight - 2, midnight - 1, midnight + 1, midnight, midnight - 1):
        await spool.append(b"x", 1, received_ms)
    spool.seal()
    found = []
    while (batch := await spool.next_batch()) is not None:
        found.append((batch.received_ms, batch.events))
        await spool.ack(batch)
    assert found == [(midnight - 2, 2), (midnight, 2), (midnight - 1, 1)]
    days = Tally.of((spool.directory / TALLY).read_bytes()).days
    assert {day: one.delivered for day, one in days.items()} == {"2026-11-21": 3, "2026-11-22": 2}


async def test_an_id_and_a_name_are_never_used_again(spool: Spool) -> None:
    await spool.append(b"x", 1, NOW_MS)
    batch = await _batch(spool)
    await spool.ack(batch)
    again = await _reopened(spool)
    assert again.spool_id == spool.spool_id
    await again.append(b"y", 1, NOW_MS)
    assert [record.id > 1 for record in _records(again)] == [True]
    assert (await _batch(again)).name != batch.name
    await again.close()


async def test_a_new_spool_has_an_identity_of_its_own(spool: Spool, tmp_path: Path) -> None:
    other = Spool(tmp_path / "other")
    assert other.spool_id != spool.spool_id
    await other.close()


async def test_what_is_being_applied_is_not_removed_though_it_is_delivered(spool: Spool) -> None:
    held = await spool.append(b"held", 1, NOW_MS, in_flight=True)
    await spool.ack(await _batch(spool))
    assert (spool.depth(), _lines(spool)) == ((0, 0), [])
    assert [record.lines for record in _records(spool)] == [b"held"]
    spool.done(held)
    await spool.sweep()
    assert spool.segments() == []


async def test_what_is_postponed_stays_until_it_is_applied(spool: Spool) -> None:
    calls: list[int] = []
    spool.on_requeued = lambda: calls.append(1)
    held = await spool.append(b"held", 1, NOW_MS, in_flight=True)
    spool.requeue(held)
    assert (len(calls), spool.unapplied()) == (1, [held])
    await spool.ack(await _batch(spool))
    assert spool.segments() == [held]
    held.replayed = held.requeued
    await spool.sweep()
    assert spool.segments() == []


async def test_a_delivered_segment_is_applied_after_a_restart_but_not_delivered_again(spool: Spool) -> None:
    await spool.append(b"held", 1, NOW_MS, in_flight=True)
    await spool.ack(await _batch(spool))
    again = await _reopened(spool)
    assert [record.lines for record in _records(again)] == [b"held"]
    assert await again.next_batch() is None
    await again.sweep()
    assert again.segments() == []
    await again.close()


async def test_an_appender_that_is_cancelled_leaves_its_rows_to_be_applied(spool: Spool) -> None:
    appending = asyncio.create_task(spool.append(b"x", 1, NOW_MS, in_flight=True))
    await asyncio.sleep(0)
    appending.cancel()
    await spool.idle()
    assert _lines(spool) == [b"x"]
    assert spool.unapplied() == spool.segments()
    assert spool.accepted == 1


async def test_a_second_spool_in_the_same_directory_is_busy(spool: Spool) -> None:
    with pytest.raises(Busy):
        Spool(spool.directory)
    await spool.append(b"x", 1, NOW_MS)
    again = await _reopened(spool)
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
    spool = Spool(tmp_path, max_bytes=200)
    await spool.append(b"x" * 60, 1, NOW_MS)
    for _ in range(2):
        with pytest.raises(Unavailable, match="full") as refused:
            await spool.append(b"y" * 80, 1, NOW_MS)
        assert refused.value.retry_after_s >= 1
    await spool.append(b"z" * 60, 1, NOW_MS)
    spool.max_bytes = 192
    with pytest.raises(Unavailable):
        await spool.check()
    await spool.ack(await _batch(spool))
    await spool.append(b"y" * 80, 1, NOW_MS)
    assert _lines(spool) == [b"y" * 80]
    await spool.close()


async def test_the_bound_counts_what_waits_for_its_signals_and_survives_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=200)
    await spool.append(b"x" * 60, 1, NOW_MS, in_flight=True)
    await spool.ack(await _batch(spool))
    with pytest.raises(Unavailable):
        await spool.append(b"y" * 80, 1, NOW_MS)
    again = await _reopened(spool)
    with pytest.raises(Unavailable):
        await again.append(b"y" * 80, 1, NOW_MS)
    await again.sweep()
    await again.append(b"y" * 80, 1, NOW_MS)
    await again.close()


async def test_a_refusing_disk_is_unavailable_and_recovers_by_itself(spool: Spool) -> None:
    await spool.append(b"before", 1, NOW_MS)
    depth = spool.depth()
    with _disk_full_above(1 << 16), pytest.raises(Unavailable):
        await spool.append(os.urandom(1 << 20), 1, NOW_MS)
    assert spool.depth() == depth
    assert spool.accepted == 1
    await spool.append(b"after", 1, NOW_MS)
    again = await _reopened(spool)
    assert _lines(again) == [b"before", b"after"], "and half a record in between is gone"
    assert again.damage == []
    await again.close()


async def test_while_the_disk_refuses_a_look_at_it_says_so_and_then_that_it_is_better(spool: Spool) -> None:
    with _disk_full_above(1024):
        with pytest.raises(Unavailable):
            await spool.append(os.urandom(1 << 20), 1, NOW_MS)
        with pytest.raises(Unavailable):
            await spool.check()
    await spool.check()


async def test_a_closed_spool_takes_nothing(spool: Spool) -> None:
    await spool.close()
    await spool.close()
    with pytest.raises(Unavailable):
        await spool.append(b"x", 1, NOW_MS)


def test_a_directory_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    tmp_path.joinpath("file").touch()
    with pytest.raises(Unavailable):
        Spool(tmp_path / "file" / "spool")


def test_an_earlier_versions_spool_is_not_passed_over_and_the_directory_let_go(tmp_path: Path) -> None:
    tmp_path.joinpath("spool.sqlite").touch()
    for _ in range(2):
        with pytest.raises(Unavailable, match="earlier version"):
            Spool(tmp_path)


async def test_every_acknowledged_record_survives_sigkill(tmp_path: Path) -> None:
    acknowledged: set[bytes] = set()
    for _ in range(5):
        wanted = random.randint(1, 150)
        with _child(APPENDER, tmp_path) as process:
            assert process.stdout is not None
            acknowledged |= {process.stdout.readline() for _ in range(wanted)}
            process.kill()
            acknowledged |= set(process.stdout)  # What was acknowledged before the kill arrived.
    spool = Spool(tmp_path)
    assert {line.strip() for line in acknowledged if line.endswith(b"\n")} <= set(_lines(spool))
    assert len(acknowledged) >= 5
    await spool.close()


async def test_a_torn_tail_is_set_aside_and_takes_nothing_else_with_it(spool: Spool) -> None:
    """What a kill may leave of a write that was never acknowledged: half a record."""
    for n in range(20):
        await spool.append(b"%d" % n, 1, NOW_MS)
    file = spool.directory / f"{1:016d}.segment"
    whole = file.read_bytes()
    await spool.close()
    file.write_bytes(whole + whole[HEADER_BYTES : HEADER_BYTES + 20])
    again = Spool(spool.directory)
    assert _lines(again) == [b"%d" % n for n in range(20)]
    [(name, damage)] = again.damage
    assert (name, damage.start, damage.end) == (file.name, len(whole), len(whole) + 20)
    aside = spool.directory / "damaged" / f"{file.name}-{len(whole)}"
    assert aside.read_bytes() == whole[HEADER_BYTES : HEADER_BYTES + 20]
    await again.append(b"on we go", 1, NOW_MS)
    await again.close()


async def test_a_damaged_tally_is_set_aside_and_everything_is_delivered_once_more(spool: Spool) -> None:
    await spool.append(b"x", 1, NOW_MS, in_flight=True)
    await spool.ack(await _batch(spool))
    spool_id = spool.spool_id
    await spool.close()
    tally = spool.directory / TALLY
    tally.write_bytes(tally.read_bytes().replace(b'"delivered":1', b'"delivered":7'))
    again = Spool(spool.directory)
    assert [name for name, _ in again.damage] == [TALLY]
    assert (await _batch(again)).lines == [b"x"]
    assert again.spool_id == spool_id
    await again.close()


def test_nothing_waits_where_there_is_no_spool(tmp_path: Path) -> None:
    assert wait_landed(tmp_path / "never", NOW_MS, 60, pause=_must_not_wait) == 0
    assert waiting_by_day(tmp_path / "never") == {}


async def test_landing_waits_for_older_events_only(spool: Spool, tmp_path: Path) -> None:
    await spool.append(b"x", 3, NOW_MS - 1)
    await spool.append(b"y", 5, NOW_MS)
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS, 0) == 3
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS - 1, 60, pause=_must_not_wait) == 0
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS + 1, 0) == 8


async def test_what_waits_is_told_by_spool_and_day(spool: Spool, tmp_path: Path) -> None:
    for received_ms, count in ((NOW_MS - DAY_MS, 3), (NOW_MS, 5)):
        await spool.append(b"x", count, received_ms)
    assert waiting_by_day(tmp_path) == {spool.spool_id: {"2026-11-21": 3, "2026-11-22": 5}}
    await spool.ack(await _batch(spool))
    assert waiting_by_day(tmp_path) == {spool.spool_id: {"2026-11-22": 5}}


async def test_landing_ends_when_the_last_older_event_is_delivered(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", segment_events=1)
    for _ in range(3):
        await spool.append(b"x", 1, NOW_MS - 1)
    polls: list[float] = []

    async def deliver_one() -> None:
        await spool.ack(await _batch(spool))

    def deliver_meanwhile(seconds: float) -> None:
        polls.append(seconds)
        asyncio.run_coroutine_threadsafe(deliver_one(), loop).result()

    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS, 60, pause=deliver_meanwhile) == 0
    assert len(polls) == 3
    assert _lines(spool) == []
    await spool.close()


async def test_landing_does_not_wait_for_what_is_delivered_and_waits_for_its_signals(
    spool: Spool, tmp_path: Path
) -> None:
    await spool.append(b"x", 1, NOW_MS - 1, in_flight=True)
    await spool.ack(await _batch(spool))
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS, 60, pause=_must_not_wait) == 0


async def test_a_spool_that_nobody_holds_is_counted_not_waited_for(spool: Spool, tmp_path: Path) -> None:
    await spool.append(b"x", 4, NOW_MS - 1)
    await spool.close()
    assert wait_landed(tmp_path, NOW_MS, 60, pause=_must_not_wait) == 4


async def test_a_killed_spool_is_read_too(tmp_path: Path) -> None:
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


def test_a_spool_whose_tally_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    tmp_path.joinpath(TALLY).write_bytes(b"certainly no tally")
    with pytest.raises(Unavailable):
        wait_landed(tmp_path, NOW_MS, 0)


async def test_the_documented_format_is_what_is_on_disk(spool: Spool) -> None:
    await spool.append(b"lines", 2, NOW_MS)
    assert sorted(os.listdir(spool.directory)) == ["0000000000000001.segment", "lock", "tally.json"]
    data = (spool.directory / "0000000000000001.segment").read_bytes()
    assert data[:HEADER_BYTES] == MAGIC + bytes.fromhex(spool.spool_id)
    assert list(records(data)) == [Record(1, b"lines", 2, NOW_MS)]
    assert struct.unpack("<4sQqIIII", data[16:52]) == (
        b"\xf0PFR",
        *(1, NOW_MS, 2, 5, zlib.crc32(b"lines"), zlib.crc32(data[16:48])),
    )


def _must_not_wait(_: float) -> None:
    raise AssertionError("there was nothing to wait for")
