"""The spool keeps every acknowledged record: through kills, a full disk, a second process, a late ack."""

import asyncio
import fcntl
import os
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
    """All records, delivered or not."""
    return [record for segment in spool.segments() for record in spool.records(segment)]


def _lines(spool: Spool) -> list[bytes]:
    """The lines that are not delivered."""
    return [r.lines for segment in spool.segments() if not segment.delivered for r in spool.records(segment)]


async def _batch(spool: Spool) -> SpooledBatch:
    """The next batch, the open segment closed before."""
    spool.seal()
    batch = await spool.next_batch()
    assert batch is not None
    return batch


async def _deliver_all(spool: Spool) -> list[SpooledBatch]:
    spool.seal()
    found = []
    while (batch := await spool.next_batch()) is not None:
        found.append(batch)
        await spool.ack(batch)
    return found


def _delivered(spool: Spool) -> dict[str, int]:
    """Delivered events by day, as the tally says."""
    days = Tally.of((spool.directory / TALLY).read_bytes()).days
    return {day: found.delivered for day, found in days.items()}


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
    assert again.name == batch.name, "until its ack, the same batch is next"


async def test_an_acked_batch_is_removed_and_counted_once(spool: Spool) -> None:
    await spool.append(b"one", 2, NOW_MS)
    batch = await _batch(spool)
    await spool.append(b"two", 2, NOW_MS)
    for _ in range(2):
        await spool.ack(batch)
    assert _lines(spool) == [b"two"]
    assert spool.depth()[0] == 2
    again = await _reopened(spool)
    assert [record.lines for record in _records(again)] == [b"two"]
    assert again.depth()[0] == 2
    assert _delivered(spool) == {"2026-11-22": 2}
    await again.close()


async def test_a_batch_is_bounded_by_events_and_by_bytes(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_events=10, segment_bytes=300)
    for count, size in ((4, 1), (4, 1), (4, 1), (1, 160), (1, 160), (1, 900), (1, 1)):
        await spool.append(b"x" * size, count, NOW_MS)
    found = [[len(lines) for lines in batch.lines] for batch in await _deliver_all(spool)]
    assert found == [[1, 1], [1, 160], [160], [900], [1]]
    await spool.close()


async def test_a_batch_is_of_one_utc_day_even_where_the_clock_jumps(spool: Spool) -> None:
    midnight = NOW_MS - NOW_MS % DAY_MS
    for received_ms in (midnight - 2, midnight - 1, midnight + 1, midnight, midnight - 1):
        await spool.append(b"x", 1, received_ms)
    found = [(batch.received_ms, batch.events) for batch in await _deliver_all(spool)]
    assert found == [(midnight - 2, 2), (midnight, 2), (midnight - 1, 1)]
    assert _delivered(spool) == {"2026-11-21": 3, "2026-11-22": 2}


async def test_ids_and_names_are_never_reused(spool: Spool) -> None:
    await spool.append(b"x", 1, NOW_MS)
    batch = await _batch(spool)
    await spool.ack(batch)
    again = await _reopened(spool)
    assert again.spool_id == spool.spool_id
    await again.append(b"y", 1, NOW_MS)
    assert [record.id > 1 for record in _records(again)] == [True]
    assert (await _batch(again)).name != batch.name
    await again.close()


async def test_a_new_spool_has_its_own_id(spool: Spool, tmp_path: Path) -> None:
    other = Spool(tmp_path / "other")
    assert other.spool_id != spool.spool_id
    await other.close()


async def test_a_delivered_segment_in_flight_is_not_removed(spool: Spool) -> None:
    held = await spool.append(b"held", 1, NOW_MS, in_flight=True)
    await spool.ack(await _batch(spool))
    assert (spool.depth(), _lines(spool)) == ((0, 0), [])
    assert [record.lines for record in _records(spool)] == [b"held"]
    spool.done(held)
    await spool.sweep()
    assert spool.segments() == []


async def test_a_requeued_segment_stays_until_it_is_applied(spool: Spool) -> None:
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


async def test_rows_of_a_cancelled_append_are_requeued(spool: Spool) -> None:
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


async def test_another_processs_spool_is_busy_and_counted_until_it_is_killed(tmp_path: Path) -> None:
    with _child(HOLDER, tmp_path) as process:
        with pytest.raises(Busy):
            Spool(tmp_path)
        assert wait_landed(tmp_path, NOW_MS, 0) == 5
        process.kill()
        process.wait()
        assert wait_landed(tmp_path, NOW_MS, 60, pause=_must_not_wait) == 5
    again = Spool(tmp_path)
    assert _lines(again) == [b"held elsewhere"]
    await again.close()


async def test_a_spool_opens_while_another_process_checks_its_lock(tmp_path: Path) -> None:
    """`stats.is_held` takes a shared lock for a moment."""
    tmp_path.joinpath(LOCK).touch()
    descriptor = os.open(tmp_path / LOCK, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    checking = threading.Timer(0.1, os.close, [descriptor])
    checking.start()
    await Spool(tmp_path).close()
    checking.join()


async def test_a_full_spool_rejects_appends_until_delivery(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=200)
    await spool.append(b"x" * 60, 1, NOW_MS)
    for _ in range(2):
        with pytest.raises(Unavailable, match="full") as full:
            await spool.append(b"y" * 80, 1, NOW_MS)
        assert full.value.retry_after_s >= 1
    await spool.append(b"z" * 60, 1, NOW_MS)
    spool.max_bytes = 192
    with pytest.raises(Unavailable):
        await spool.check()
    await spool.ack(await _batch(spool))
    await spool.append(b"y" * 80, 1, NOW_MS)
    assert _lines(spool) == [b"y" * 80]
    await spool.close()


async def test_max_bytes_counts_unapplied_segments_also_after_a_restart(tmp_path: Path) -> None:
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


async def test_a_full_disk_is_unavailable_until_it_has_room(spool: Spool) -> None:
    await spool.append(b"before", 1, NOW_MS)
    depth = spool.depth()
    with _disk_full_above(1024):
        with pytest.raises(Unavailable):
            await spool.append(os.urandom(1 << 20), 1, NOW_MS)
        with pytest.raises(Unavailable):
            await spool.check()
    assert (spool.depth(), spool.accepted) == (depth, 1)
    await spool.check()
    await spool.append(b"after", 1, NOW_MS)
    again = await _reopened(spool)
    assert _lines(again) == [b"before", b"after"], "and half a record in between is gone"
    assert again.damage == []
    await again.close()


async def test_a_closed_spool_rejects_appends(spool: Spool) -> None:
    await spool.close()
    await spool.close()
    with pytest.raises(Unavailable):
        await spool.append(b"x", 1, NOW_MS)


def test_a_directory_that_cannot_be_created_is_unavailable(tmp_path: Path) -> None:
    tmp_path.joinpath("file").touch()
    with pytest.raises(Unavailable):
        Spool(tmp_path / "file" / "spool")


def test_an_earlier_versions_spool_is_not_ignored_and_the_lock_is_released(tmp_path: Path) -> None:
    tmp_path.joinpath("spool.sqlite").touch()
    for _ in range(2):
        with pytest.raises(Unavailable, match="earlier version"):
            Spool(tmp_path)


async def test_a_torn_tail_is_quarantined_alone(spool: Spool) -> None:
    """Half a record, as a kill may leave of a write that was never acknowledged."""
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
    quarantined = spool.directory / "damaged" / f"{file.name}-{len(whole)}"
    assert quarantined.read_bytes() == whole[HEADER_BYTES : HEADER_BYTES + 20]
    await again.append(b"on we go", 1, NOW_MS)
    await again.close()


def test_no_spool_has_nothing_to_wait_for(tmp_path: Path) -> None:
    assert wait_landed(tmp_path / "never", NOW_MS, 60, pause=_must_not_wait) == 0
    assert waiting_by_day(tmp_path / "never") == {}


async def test_wait_landed_counts_older_events_of_every_spool_and_changes_nothing(tmp_path: Path) -> None:
    opened = [Spool(tmp_path / name) for name in ("ingest", "feed")]
    for spool in opened:
        await spool.append(b"x", 3, NOW_MS - 1)
        await spool.append(b"y", 5, NOW_MS)
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS, 0) == 6
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS - 1, 60, pause=_must_not_wait) == 0
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS + 1, 0) == 16
    for spool in opened:
        assert _lines(spool) == [b"x", b"y"]
        await spool.append(b"z", 1, NOW_MS)
        await spool.close()


async def test_undelivered_events_are_counted_by_spool_and_day(spool: Spool, tmp_path: Path) -> None:
    for received_ms, count in ((NOW_MS - DAY_MS, 3), (NOW_MS, 5)):
        await spool.append(b"x", count, received_ms)
    assert waiting_by_day(tmp_path) == {spool.spool_id: {"2026-11-21": 3, "2026-11-22": 5}}
    await spool.ack(await _batch(spool))
    assert waiting_by_day(tmp_path) == {spool.spool_id: {"2026-11-22": 5}}


async def test_wait_landed_returns_once_the_last_older_event_is_delivered(tmp_path: Path) -> None:
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


async def test_wait_landed_ignores_delivered_segments_that_wait_for_their_signals(spool: Spool, tmp_path: Path) -> None:
    await spool.append(b"x", 1, NOW_MS - 1, in_flight=True)
    await spool.ack(await _batch(spool))
    assert await asyncio.to_thread(wait_landed, tmp_path, NOW_MS, 60, pause=_must_not_wait) == 0


async def test_a_spool_without_a_process_is_counted_not_waited_for(spool: Spool, tmp_path: Path) -> None:
    await spool.append(b"x", 4, NOW_MS - 1)
    await spool.close()
    assert wait_landed(tmp_path, NOW_MS, 60, pause=_must_not_wait) == 4


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
