"""Refused events are kept with their reason, the first of a day for good, and never at the cost of a request."""

from pathlib import Path
from typing import Any

import msgspec

from ingest_api.rejected import RejectedLog, line_of
from pingfeed.core.clock import DAY_MS
from pingfeed.core.events import Refusal

NOW_MS = 1_795_348_800_000


def refusal(body: bytes = b'{"event_type":"like"}', code: str = "missing_field") -> Refusal:
    return Refusal(0, None, code, "ping_id", "ping_id is required", body)


def lines_of(folder: Path, day: str) -> list[dict[str, Any]]:
    files = sorted((folder / f"day={day}").glob("*.jsonl"))
    return [msgspec.json.decode(line) for file in files for line in file.read_bytes().splitlines()]


async def test_a_line_says_when_why_and_what(tmp_path: Path) -> None:
    kept = RejectedLog(tmp_path, writer="one")
    await kept.add([refusal()], NOW_MS)
    await kept.close()
    assert lines_of(tmp_path, "2026-11-22") == [
        {
            "received_ms": NOW_MS,
            "code": "missing_field",
            "field": "ping_id",
            "message": "ping_id is required",
            "body": '{"event_type":"like"}',
        }
    ]


async def test_bytes_that_are_no_text_still_make_one_line(tmp_path: Path) -> None:
    kept = RejectedLog(tmp_path, writer="one")
    await kept.add([refusal(b'{"a":"\xff\n\x00"')], NOW_MS)
    await kept.close()
    (line,) = lines_of(tmp_path, "2026-11-22")
    assert line["body"] == '{"a":"\\xff\n\x00"'


async def test_each_day_has_its_own_folder(tmp_path: Path) -> None:
    kept = RejectedLog(tmp_path, writer="one")
    await kept.add([refusal()], NOW_MS)
    await kept.add([refusal(), refusal()], NOW_MS + DAY_MS)
    await kept.close()
    assert [len(lines_of(tmp_path, day)) for day in ("2026-11-22", "2026-11-23")] == [1, 2]


async def test_a_day_keeps_the_first_and_counts_the_rest(tmp_path: Path) -> None:
    size = len(line_of(refusal(code="c0"), NOW_MS))
    kept = RejectedLog(tmp_path, writer="one", max_bytes_a_day=3 * size)
    dropped: list[int] = []
    kept.on_dropped = dropped.append
    for n in range(5):
        await kept.add([refusal(code=f"c{n}")], NOW_MS)
    await kept.close()
    assert [line["code"] for line in lines_of(tmp_path, "2026-11-22")] == ["c0", "c1", "c2"]
    assert dropped == [1, 1]


async def test_the_bound_holds_over_restarts_and_writers(tmp_path: Path) -> None:
    size = len(line_of(refusal(), NOW_MS))
    for writer in ("one", "two", "one"):
        kept = RejectedLog(tmp_path, writer=writer, max_bytes_a_day=2 * size)
        await kept.add([refusal()], NOW_MS)
        await kept.close()
    assert len(lines_of(tmp_path, "2026-11-22")) == 2


async def test_what_could_not_be_written_is_counted(tmp_path: Path) -> None:
    (tmp_path / "rejected").write_text("a file where the folder should be")
    kept = RejectedLog(tmp_path / "rejected", writer="one")
    dropped: list[int] = []
    kept.on_dropped = dropped.append
    await kept.add([refusal(), refusal()], NOW_MS)
    await kept.close()
    assert dropped == [2]


async def test_a_flood_is_counted_not_queued(tmp_path: Path) -> None:
    kept = RejectedLog(tmp_path, writer="one", max_waiting_bytes=10)
    dropped: list[int] = []
    kept.on_dropped = dropped.append
    await kept.add([refusal()], NOW_MS)
    await kept.close()
    assert dropped == [1]
    assert lines_of(tmp_path, "2026-11-22") == []
