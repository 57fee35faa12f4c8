"""The spool's folder or its open file is removed under load: no 202 is lost unnoticed, `reconcile` counts what was."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pingfeed.core.clock import day_of, system_clock
from tests.conformance.samples import eventually
from tests.faults.checks import reconcile
from tests.faults.load import Answers, Client
from tests.journeys.conftest import Services
from tests.prove import figure

CLIENTS = 3


def _open_segment(folder: Path) -> None:
    newest = max(folder.glob("*.segment"), key=lambda path: path.name)
    newest.unlink()


@pytest.mark.parametrize("remove", [shutil.rmtree, _open_segment, lambda folder: folder.rename(f"{folder}.away")])
async def test_no_202_is_lost_unnoticed(services: Services, remove: Callable[[Path], object]) -> None:
    day, answers, over = day_of(system_clock()), Answers(), asyncio.Event()
    ingest = await asyncio.to_thread(services.start, "ingest", SINK_FLUSH_SECONDS="2")
    clients = [Client(number, answers, (1, 20)) for number in range(CLIENTS)]
    posting = asyncio.gather(*(client.post_until(ingest.url, over.is_set) for client in clients))
    await eventually(lambda: answers.events > 500)
    await asyncio.to_thread(remove, services.settings.spool_dir / "ingest")
    before = answers.events
    await eventually(lambda: answers.events > before + 500)
    over.set()
    await posting
    assert await asyncio.to_thread(ingest.stop) == 0
    code, said = await asyncio.to_thread(reconcile, services, day)
    figure("spool removed under load", acknowledged=answers.events, landed=said["landed"], missing=said["missing"])
    assert answers.statuses.keys() <= {202, 503}
    assert code == (said["missing"] > 0)
    assert answers.events - said["landed"] <= said["missing"], said
    assert said["landed"] > 400, said
