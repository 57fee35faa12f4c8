"""A spool whose files are removed under it: nothing more is acknowledged that is not durable, what was is counted."""

import asyncio
import shutil
from pathlib import Path

import pytest

from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import Unavailable
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import stats_of

NOW_MS = 1_795_348_800_000
LINE = b'{"event_id":"e"}\n'


def _remove_segment(folder: Path) -> None:
    for path in folder.glob("*.segment"):
        path.unlink()


def _move_away(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


@pytest.mark.parametrize("remove", [shutil.rmtree, _remove_segment, _move_away])
async def test_no_event_is_acknowledged_into_a_file_that_was_removed(tmp_path: Path, remove: object) -> None:
    spool = Spool(tmp_path / "ingest", clock=lambda: NOW_MS)
    for _ in range(3):
        await spool.append(LINE, 1, NOW_MS)
    remove(tmp_path / "ingest")  # type: ignore[operator]
    acked, failed = 0, 0
    for _ in range(5):
        try:
            await spool.append(LINE, 1, NOW_MS)
            acked += 1
        except Unavailable:
            failed += 1
    assert (acked, failed) == (4, 1), "one request is told, the next begins another file"
    spool.seal()
    delivered = 0
    while (batch := await spool.next_batch()) is not None:
        delivered += batch.events
        await spool.ack(batch)
    assert delivered == acked
    stats = await asyncio.to_thread(stats_of, tmp_path / "ingest", NOW_MS)
    await spool.close()
    assert stats is not None
    (day,) = stats.days.values()
    assert (day.delivered, day.lost) == (acked, 3)


async def test_a_directory_that_was_removed_stays_locked(tmp_path: Path) -> None:
    from pingfeed.core.errors import Busy

    spool = Spool(tmp_path / "ingest", clock=lambda: NOW_MS)
    await spool.append(LINE, 1, NOW_MS - DAY_MS)
    shutil.rmtree(tmp_path / "ingest")
    with pytest.raises(Unavailable):
        await spool.append(LINE, 1, NOW_MS - DAY_MS)
    with pytest.raises(Busy):
        Spool(tmp_path / "ingest")
    await spool.close()
