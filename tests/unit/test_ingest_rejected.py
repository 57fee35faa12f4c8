"""The first rejected events of a day reach the lake with their reason; they never fail a request."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest_api.rejected import RejectedSpool, line_of
from ingest_api.wiring import build
from pingfeed.core.clock import DAY_MS
from pingfeed.core.events import RejectedEvent
from pingfeed.settings import load
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import REJECTED, stats_of, wait_landed, waiting_by_day
from tests.conformance.samples import eventually
from tests.unit.fakes import MemoryArtifacts

NOW_MS = 1_795_348_800_000
TODAY, TOMORROW = "2026-11-22", "2026-11-23"
Open = Callable[..., RejectedSpool]
Dropped = list[int]


def rejected(code: str = "missing_field", body: bytes = b'{"event_type":"like"}') -> RejectedEvent:
    return RejectedEvent(0, None, code, "ping_id", "ping_id is required", body)


SIZE = len(line_of(rejected("a"), NOW_MS))


@pytest.fixture
def store() -> MemoryArtifacts:
    return MemoryArtifacts()


@pytest.fixture
def dropped() -> Dropped:
    return []


@pytest.fixture
async def opened(tmp_path: Path, store: MemoryArtifacts, dropped: Dropped) -> AsyncIterator[Open]:
    """Opens the spool of one test; started, and closed at the end."""
    made: list[RejectedSpool] = []

    def open_(flush_seconds: float = 3600, max_bytes: int = 1 << 20, **options: Any) -> RejectedSpool:
        spool = Spool(tmp_path / REJECTED, max_bytes=max_bytes)
        made.append(RejectedSpool(spool, store, flush_seconds=flush_seconds, **options))
        made[-1].on_dropped = dropped.append
        made[-1].start()
        return made[-1]

    yield open_
    for one in made:
        await one.close()


def lines(store: MemoryArtifacts, day: str = "") -> list[dict[str, Any]]:
    files = [data for key, data in store.data.items() if key.startswith(f"rejected/day={day}")]
    return [msgspec.json.decode(line) for data in files for line in data.splitlines()]


def codes(store: MemoryArtifacts, day: str = "") -> list[str]:
    return [line["code"] for line in lines(store, day)]


def test_a_line_has_time_reason_and_body_even_if_that_is_not_text() -> None:
    line = line_of(rejected(body=b'{"a":"\xff\n\x00"'), NOW_MS)
    assert line.count(b"\n") == 1
    assert msgspec.json.decode(line) == {
        "received_ms": NOW_MS,
        "code": "missing_field",
        "field": "ping_id",
        "message": "ping_id is required",
        "body": '{"a":"\\xff\n\x00"',
    }


async def test_rejected_events_go_to_the_folder_of_their_day_and_leave_the_spool(
    opened: Open, store: MemoryArtifacts, tmp_path: Path
) -> None:
    kept = opened(flush_seconds=0.01)
    await kept.add([rejected("a"), rejected("b")], NOW_MS)
    await kept.add([rejected("c")], NOW_MS + DAY_MS)
    await eventually(lambda: len(lines(store)) == 3)
    assert (codes(store, TODAY), codes(store, TOMORROW)) == (["a", "b"], ["c"])
    await eventually(lambda: not list((tmp_path / REJECTED).glob("*.segment")))


@pytest.mark.parametrize("trouble", [{"down": "no S3 today"}, {"hangs": True}], ids=["down", "hangs"])
async def test_what_a_failing_lake_does_not_take_is_delivered_by_the_next_start(
    opened: Open, store: MemoryArtifacts, monkeypatch: pytest.MonkeyPatch, trouble: dict[str, Any]
) -> None:
    monkeypatch.setattr("ingest_api.rejected.CLOSE_S", 0.05)
    vars(store).update(trouble)
    kept = opened()
    await kept.add([rejected("a")], NOW_MS)
    await kept.close()
    store.down, store.hangs = "", False
    opened()
    await eventually(lambda: codes(store) == ["a"])


async def test_the_first_of_each_day_are_kept_and_the_rest_counted(
    opened: Open, store: MemoryArtifacts, dropped: Dropped
) -> None:
    kept = opened(max_bytes_a_day=3 * SIZE)
    for code in "abcde":
        await kept.add([rejected(code)], NOW_MS)
    await kept.add([rejected("f")], NOW_MS + DAY_MS)
    await kept.close()
    assert (codes(store), store.closed) == (["a", "b", "c", "f"], True)
    assert dropped == [1, 1]


@pytest.mark.parametrize("down", ["", "no S3 today"], ids=["delivered", "waiting"])
async def test_the_daily_limit_holds_across_restarts(opened: Open, store: MemoryArtifacts, down: str) -> None:
    store.down = down
    for code in "abc":
        kept = opened(max_bytes_a_day=3 * SIZE)
        await kept.add([rejected(code)] * 2, NOW_MS)
        await kept.close()
    store.down = ""
    await opened().close()
    assert 2 <= len(codes(store)) <= 3
    assert codes(store)[:2] == ["a", "a"]


async def test_events_that_do_not_fit_into_the_spool_are_counted(
    opened: Open, store: MemoryArtifacts, dropped: Dropped
) -> None:
    kept = opened(max_bytes=10)
    await kept.add([rejected(), rejected()], NOW_MS)
    await kept.close()
    assert (dropped, lines(store)) == ([2], [])


async def test_a_rejected_event_is_durable_when_add_returns(opened: Open, tmp_path: Path) -> None:
    await opened().add([rejected("a")], NOW_MS)
    (file,) = (tmp_path / REJECTED).glob("*.segment")
    assert line_of(rejected("a"), NOW_MS) in file.read_bytes()


async def test_rejected_events_never_count_as_accepted_ones(
    opened: Open, store: MemoryArtifacts, tmp_path: Path
) -> None:
    store.down = "no S3 today"
    kept = opened()
    await kept.add([rejected("a")], NOW_MS)
    assert waiting_by_day(tmp_path) == {}
    assert wait_landed(tmp_path, NOW_MS + DAY_MS, 60) == 0
    assert stats_of(tmp_path / REJECTED, NOW_MS) is None


async def test_the_wired_service_keeps_them_in_the_lake(tmp_path: Path) -> None:
    services = build(load({"PINGFEED_HOME": str(tmp_path)}))
    services.rejected.start()
    await services.rejected.add([rejected("a")], NOW_MS)
    await services.rejected.close()
    (file,) = (tmp_path / "lake" / "rejected" / f"day={TODAY}").glob("*.jsonl")
    assert msgspec.json.decode(file.read_bytes())["code"] == "a"
    await services.delivery.close()
