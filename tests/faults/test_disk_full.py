"""A full disk: 202 or 503, never anything lost, and it accepts again by itself once there is room."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from pingfeed.core.clock import system_clock
from pingfeed.spool.stats import wait_landed
from tests.conformance.samples import eventually
from tests.faults.checks import check_all_landed, check_each_once
from tests.faults.firehose_server import firehose
from tests.faults.load import SIZES, Answers, Client, after
from tests.journeys.conftest import Running, Services
from tests.prove import figure
from tests.servers import lacking

DISK_MB = 8
CLIENTS = 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        lacking("no file system can be mounted here (that needs root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_disk_filled_by_the_spool_loses_nothing_and_delivery_makes_room(
    small_disk: Path, services: Services
) -> None:
    since_ms, answers = system_clock(), Answers()
    async with firehose(services.home / "lake") as stream:
        stream.behaviour = "refuse"  # Large requests fail first; small ones use up the rest.
        environ = _environ(services, small_disk)
        services.environ |= stream.environ
        ingest = await asyncio.to_thread(services.start, "ingest", **environ)
        await _post(ingest, answers, lambda: answers.statuses[503] > 50)
        await _post(ingest, answers, lambda: answers.statuses[503] > 100, sizes=(1,))
        full_after = answers.events
        assert not await _is_ready(ingest)
        assert _used_mb(small_disk) <= DISK_MB
        stream.behaviour = "take"
        await eventually(lambda: wait_landed(small_disk, system_clock(), 0) == 0, within_s=120)
        assert await _is_ready(ingest)
        await _post(ingest, answers, lambda: answers.events > full_after + 1000)
        assert await asyncio.to_thread(ingest.stop) == 0
        _check(services, answers, since_ms, "disk full of the spool", environ, full_after)


async def test_a_disk_filled_by_another_process_loses_nothing_and_ingest_recovers(
    small_disk: Path, services: Services
) -> None:
    since_ms, answers = system_clock(), Answers()
    async with firehose(services.home / "lake") as stream:
        environ = _environ(services, small_disk)
        services.environ |= stream.environ
        ingest = await asyncio.to_thread(services.start, "ingest", **environ)
        posting = asyncio.create_task(_post(ingest, answers, lambda: answers.statuses[503] > 50))
        await eventually(lambda: answers.events > 500, within_s=60)
        await asyncio.to_thread(_fill, small_disk / "of-another-process")
        await posting
        full_after = answers.events
        assert not await _is_ready(ingest)
        (small_disk / "of-another-process").unlink()
        await _post(ingest, answers, lambda: answers.events > full_after + 1000)
        assert await _is_ready(ingest)
        assert await asyncio.to_thread(ingest.stop) == 0
        _check(services, answers, since_ms, "disk full of another process's file", environ, full_after)


def _environ(services: Services, disk: Path) -> dict[str, str]:
    return {
        "EVENTS_URL": "firehose://events",
        "LAKE_URL": f"file://{services.home}/lake",
        "SPOOL_DIR": str(disk),
        "SINK_FLUSH_SECONDS": "0.1",
    }


async def _post(ingest: Running, answers: Answers, is_over: Callable[[], bool], sizes: tuple[int, ...] = SIZES) -> None:
    given_up = after(60)
    first = len(answers.acknowledged) + 1000  # Clients of their own, and so ids of their own.
    clients = [Client(first * 10 + number, answers, sizes) for number in range(CLIENTS)]
    await asyncio.gather(*(client.post_until(ingest.url, lambda: is_over() or given_up()) for client in clients))
    assert is_over()


async def _is_ready(ingest: Running) -> bool:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{ingest.url}/readyz")
    assert answer.status_code == 200 or "spool" in answer.json()["degraded"]
    return answer.status_code == 200


def _used_mb(disk: Path) -> float:
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize / (1 << 20)


def _fill(path: Path) -> None:
    """Write until there is no room at all."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _check(
    services: Services, answers: Answers, since_ms: int, name: str, environ: dict[str, str], full_after: int
) -> None:
    assert answers.statuses.keys() == {202, 503}
    assert answers.without_retry_after == 0
    prefixed = {f"PINGFEED_{key}": value for key, value in environ.items()}
    counts = check_all_landed(services, since_ms, answers.events, prefixed)
    clean = check_each_once(services, answers, since_ms, prefixed)
    unavailable = answers.statuses[503]
    figure(
        name,
        full_after_events=full_after,
        unavailable=unavailable,
        landed=counts["landed"],
        missing=counts["missing"],
        **clean,
    )
