"""Refused events reach a lake that is no folder of this machine: all of them, once, and never at a request's cost."""

from pathlib import Path

import msgspec

from ingest_api.rejected import RejectedLog, line_of
from ingest_api.ship import Shipper
from ingest_api.wiring import build
from pingfeed.core.clock import DAY_MS
from pingfeed.core.events import Refusal
from pingfeed.settings import load
from tests.unit.fakes import MemoryArtifacts
from tests.unit.feed_world import until

NOW_MS = 1_795_348_800_000
TODAY, TOMORROW = "2026-11-22", "2026-11-23"


def refusal(code: str) -> Refusal:
    return Refusal(0, None, code, "ping_id", "ping_id is required", b"{}")


def shipped(store: MemoryArtifacts) -> list[str]:
    """The codes of all lines in the store, in the order in which files came."""
    return [msgspec.json.decode(line)["code"] for data in store.data.values() for line in data.splitlines()]


def days(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.jsonl"))


def shipper(log: RejectedLog, store: MemoryArtifacts, now_ms: int = NOW_MS, every_s: float = 3600) -> Shipper:
    return Shipper(log, store, every_s=every_s, clock=lambda: now_ms)


async def test_what_was_refused_goes_to_the_days_folder_of_the_lake_and_leaves_this_machine(tmp_path: Path) -> None:
    log, store = RejectedLog(tmp_path, writer="one"), MemoryArtifacts()
    await log.add([refusal("a"), refusal("b")], NOW_MS)
    await log.add([refusal("c")], NOW_MS + DAY_MS)
    await shipper(log, store).ship()
    assert sorted(store.data) == [f"rejected/day={TODAY}/one.jsonl", f"rejected/day={TOMORROW}/one.jsonl"]
    assert shipped(store) == ["a", "b", "c"]
    assert left(tmp_path) == []
    await log.close()


async def test_what_comes_after_a_round_goes_with_the_next_in_a_file_of_its_own(tmp_path: Path) -> None:
    log, store = RejectedLog(tmp_path, writer="one"), MemoryArtifacts()
    for code in ("a", "b", "c"):
        await log.add([refusal(code)], NOW_MS)
        await shipper(log, store).ship()
    await shipper(log, store).ship()
    assert len(store.data) == 3
    assert shipped(store) == ["a", "b", "c"]
    await log.close()


async def test_what_an_earlier_process_left_is_shipped_at_the_start(tmp_path: Path) -> None:
    killed = RejectedLog(tmp_path, writer="killed")
    await killed.add([refusal("before")], NOW_MS)
    await killed.close()
    log, store = RejectedLog(tmp_path, writer="next"), MemoryArtifacts()
    background = shipper(log, store)
    background.start()
    await until(lambda: _true(left(tmp_path) == []))
    assert shipped(store) == ["before"]
    await background.close()
    await log.close()


async def _true(value: bool) -> bool:
    return value


async def test_closing_ships_what_waits(tmp_path: Path) -> None:
    log, store = RejectedLog(tmp_path, writer="one"), MemoryArtifacts()
    background = shipper(log, store)
    background.start()
    await log.add([refusal("last")], NOW_MS)
    await background.close()
    await log.close()
    assert shipped(store) == ["last"]
    assert store.closed


async def test_a_lake_that_is_down_loses_nothing_and_does_not_hold_the_end_up(tmp_path: Path) -> None:
    log, store = RejectedLog(tmp_path, writer="one"), MemoryArtifacts(down="no S3 today")
    background = shipper(log, store, every_s=0.01)
    background.start()
    await log.add([refusal("a")], NOW_MS)
    await until(lambda: _true(bool(left(tmp_path))))
    store.hangs = True
    await background.close(timeout_s=0.05)
    await log.close()
    assert len(left(tmp_path)) == 1
    again, up = RejectedLog(tmp_path, writer="two"), MemoryArtifacts()
    await shipper(again, up).ship()
    assert shipped(up) == ["a"]
    await again.close()


async def test_a_kill_between_the_put_and_the_removal_doubles_nothing(tmp_path: Path) -> None:
    log, store = RejectedLog(tmp_path, writer="one"), MemoryArtifacts()
    await log.add([refusal("a")], NOW_MS)
    (file,) = await log.finished(NOW_MS)
    await store.put(f"rejected/{file.parent.name}/{file.name}", file.read_bytes())
    await shipper(log, store).ship()
    assert shipped(store) == ["a"]
    await log.close()


async def test_a_day_keeps_no_more_for_having_been_shipped(tmp_path: Path) -> None:
    size = len(line_of(refusal("c0"), NOW_MS))
    store, dropped = MemoryArtifacts(), list[int]()
    for number in range(4):
        log = RejectedLog(tmp_path, writer=f"w{number}", max_bytes_a_day=3 * size)
        log.on_dropped = dropped.append
        await log.add([refusal(f"c{number}")], NOW_MS)
        await shipper(log, store).ship()
        await log.close()
    assert shipped(store) == ["c0", "c1", "c2"]
    assert dropped == [1]


async def test_days_that_cannot_be_shipped_are_bounded_together_and_room_comes_back(tmp_path: Path) -> None:
    size = len(line_of(refusal("c0"), NOW_MS))
    log, store, dropped = RejectedLog(tmp_path, writer="one", max_bytes=2 * size), MemoryArtifacts(), list[int]()
    log.on_dropped = dropped.append
    for day in range(3):
        await log.add([refusal(f"c{day}")], NOW_MS + day * DAY_MS)
    await shipper(log, store).ship()
    assert dropped == [1]
    await log.add([refusal("c3")], NOW_MS + 2 * DAY_MS)
    await shipper(log, store).ship()
    assert shipped(store) == ["c0", "c1", "c3"]
    await log.close()


async def test_the_folder_of_a_day_that_is_over_and_shipped_goes(tmp_path: Path) -> None:
    log, store = RejectedLog(tmp_path, writer="one"), MemoryArtifacts()
    await log.add([refusal("a")], NOW_MS)
    await shipper(log, store).ship()
    assert days(tmp_path) == [f"day={TODAY}"]
    await shipper(log, store, NOW_MS + DAY_MS).ship()
    assert days(tmp_path) == []
    await log.add([refusal("late")], NOW_MS)
    await shipper(log, store, NOW_MS + DAY_MS).ship()
    assert shipped(store) == ["a", "late"]
    await log.close()


async def test_only_a_lake_elsewhere_has_its_refused_events_shipped(tmp_path: Path) -> None:
    for url, ships in ((f"file://{tmp_path}/lake", False), ("s3://bucket/lake", True)):
        environ = {"PINGFEED_LAKE_URL": url, "PINGFEED_EVENTS_URL": "firehose://events"}
        services = build(load(environ, cwd=tmp_path / url[:2]))
        assert (services.shipper is not None) == ships
        await services.rejected.add([refusal("a")], NOW_MS)
        await services.delivery.close()
        await services.rejected.close()
    assert left(tmp_path / "lake" / "rejected") != []
    assert left(tmp_path / "s3" / "var" / "pingfeed" / "spool" / "ingest" / "rejected") != []


async def test_what_a_kill_left_beside_the_log_stops_no_shipping(tmp_path: Path) -> None:
    log, store = RejectedLog(tmp_path, writer="one"), MemoryArtifacts()
    await log.add([refusal("a")], NOW_MS)
    await shipper(log, store).ship()
    (tmp_path / f"day={TODAY}" / "..shipped.0abc").write_bytes(b"1")
    await log.add([refusal("b")], NOW_MS + DAY_MS)
    await shipper(log, store, NOW_MS + DAY_MS).ship()
    assert shipped(store) == ["a", "b"]
    assert days(tmp_path) == [f"day={TOMORROW}"], "the leftover went too"

    (tmp_path / f"day={TOMORROW}" / "notes.txt").write_text("somebody's")
    await log.add([refusal("c")], NOW_MS + 2 * DAY_MS)
    await shipper(log, store, NOW_MS + 2 * DAY_MS).ship()
    assert shipped(store) == ["a", "b", "c"]
    assert (tmp_path / f"day={TOMORROW}" / "notes.txt").exists()
    await log.close()
