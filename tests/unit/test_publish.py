"""The batch side learns what a spool has accepted: from the lake, soon after it changes, and exactly after the end."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from feed_api.wiring import build as build_feed
from ingest_api.wiring import build as build_ingest
from pingfeed.core.errors import FormatError
from pingfeed.settings import load
from pingfeed.spool import stats
from pingfeed.spool.checkpoint import FILE, Delivered, Tally
from pingfeed.spool.stats import Publisher, SpoolStats, stats_of
from tests.unit.fakes import MemoryArtifacts
from tests.unit.feed_world import until

NOW_MS = 1_795_348_800_000
DAY = "2026-11-22"
SPOOL = "9f3c0a51d2e84b76"
KEY = f"accounts/{SPOOL}.json"
TALLY = Tally(spool_id=SPOOL, service="ingest").acked(7, {DAY: 5}, NOW_MS - 1000)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, int]]:
    """What waits in the spools, by spool and day; a test changes it."""
    found: dict[str, dict[str, int]] = {SPOOL: {DAY: 3}, "another": {DAY: 100}}
    monkeypatch.setattr(stats, "waiting_by_day", lambda _folder: {spool: dict(days) for spool, days in found.items()})
    return found


@pytest.fixture
def folder(tmp_path: Path, waiting: dict[str, dict[str, int]]) -> Path:
    TALLY.write(tmp_path / "ingest" / FILE)
    return tmp_path / "ingest"


def published(store: MemoryArtifacts) -> SpoolStats:
    return SpoolStats.of(store.data[KEY])


def publisher(folder: Path, store: MemoryArtifacts, every_s: float = 3600) -> Publisher:
    return Publisher(folder, store, every_s=every_s, clock=lambda: NOW_MS)


async def true(look: Callable[[], bool]) -> bool:
    return look()


async def test_stats_hold_delivered_and_waiting_events(folder: Path) -> None:
    store = MemoryArtifacts()
    await publisher(folder, store).publish()
    assert published(store) == SpoolStats(
        spool_id=SPOOL,
        service="ingest",
        acked_to=7,
        days={DAY: Delivered(5, NOW_MS - 1000)},
        spooled={DAY: 3},
        published_ms=NOW_MS,
    )
    assert msgspec.json.decode(store.data[KEY]).keys() == {
        *("spool_id", "service", "settled_to", "days", "crc"),
        *("spooled", "published_ms"),
    }
    with pytest.raises(FormatError, match="is not a spool's tally"):
        SpoolStats.of(store.data[KEY].replace(b'"2026-11-22":3', b'"2026-11-22":4'))


async def test_unchanged_stats_are_not_published_again(folder: Path, waiting: dict[str, dict[str, int]]) -> None:
    store, puts = MemoryArtifacts(), list[int]()
    store.before = lambda: puts.append(1)
    one = publisher(folder, store)
    await one.publish()
    await one.publish()
    assert len(puts) == 1
    waiting[SPOOL] = {DAY: 0}
    await one.publish()
    TALLY.acked(8, {DAY: 3}, NOW_MS).write(folder / FILE)
    await one.publish()
    assert len(puts) == 3
    assert (published(store).spooled, published(store).days[DAY].delivered) == ({}, 8)


async def test_stats_are_published_at_the_start_and_after_the_last_delivery(
    folder: Path, waiting: dict[str, dict[str, int]]
) -> None:
    store = MemoryArtifacts()
    one = publisher(folder, store)
    one.start()
    await until(lambda: true(lambda: KEY in store.data))
    waiting.clear()
    TALLY.acked(8, {DAY: 3}, NOW_MS).write(folder / FILE)
    await one.close()
    assert published(store).days[DAY].delivered == 8
    assert store.closed


async def test_a_lake_that_is_down_is_retried_and_does_not_block_close(folder: Path) -> None:
    store = MemoryArtifacts(down="no S3 today")
    one = publisher(folder, store, every_s=0.01)
    one.start()
    await asyncio.sleep(0.05)
    store.down = ""
    await until(lambda: true(lambda: KEY in store.data))
    store.hangs = True
    TALLY.acked(8, {DAY: 3}, NOW_MS).write(folder / FILE)
    await one.close(timeout_s=0.05)
    assert published(store).days[DAY].delivered == 5


async def test_a_spool_without_a_tally_has_no_stats(tmp_path: Path, waiting: dict[str, dict[str, int]]) -> None:
    store = MemoryArtifacts()
    await publisher(tmp_path, store).publish()
    assert store.data == {}


def test_events_delivered_during_the_look_count_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deliver_after_the_first_look(_folder: Path) -> dict[str, dict[str, int]]:
        looked.append(1)
        if len(looked) == 1:
            TALLY.acked(8, {DAY: 3}, NOW_MS).write(folder / FILE)
            return {SPOOL: {DAY: 3}}
        return {}

    looked: list[int] = []
    monkeypatch.setattr(stats, "waiting_by_day", deliver_after_the_first_look)
    account = stats_of(folder, NOW_MS)
    assert account is not None
    assert (account.days[DAY].delivered, account.spooled) == (8, {})


@pytest.mark.parametrize("lake", ["file://{}/lake", "s3://bucket/lake"])
async def test_both_services_publish_into_any_lake(tmp_path: Path, lake: str) -> None:
    environ = {"PINGFEED_LAKE_URL": lake.format(tmp_path), "PINGFEED_EVENTS_URL": "firehose://events"}
    settings = load(environ, cwd=tmp_path)
    for build in (build_ingest, build_feed):
        services = build(settings)
        assert services.publisher is not None
        await services.delivery.close()
        await services.publisher.close()


async def test_stats_in_a_file_lake_are_a_file(folder: Path, tmp_path: Path) -> None:
    services = build_ingest(load({"PINGFEED_HOME": str(tmp_path / "home")}))
    assert services.publisher is not None
    TALLY.write(tmp_path / "home" / "spool" / "ingest" / FILE)
    await services.publisher.publish()
    assert SpoolStats.of((tmp_path / "home" / "lake" / KEY).read_bytes()).days == TALLY.days
    await services.delivery.close()
