"""The counts agree to the event whenever the service is killed; rejected events can be repaired and sent again."""

import asyncio
import json
from typing import Any

import httpx

from pingfeed.settings import url_path
from tests.conformance.samples import eventually
from tests.journeys.conftest import Services
from tests.journeys.test_ingest_kill import BATCH, batch_of, one_round

ROUNDS = 3


def command(services: Services, *words: str) -> tuple[int, str]:
    """A command's exit code and what it printed."""
    ended = services.launch(*words)
    return ended.process.wait(60), ended.log_file.read_text()


def reconciled(services: Services) -> tuple[int, dict[str, Any]]:
    """The exit code, and the counts of two days together: midnight may pass during a test."""
    code, text = command(services, "reconcile", "--days", "2", "--json")
    days = json.loads(text)
    return code, {name: sum((day[name] for day in days), type(days[0][name])()) for name in days[0] if name != "day"}


async def test_the_counts_agree_after_every_kill_and_name_what_was_deleted(services: Services) -> None:
    acknowledged: dict[str, list[str]] = {}
    for number in range(ROUNDS):
        ingest = services.start("ingest", SINK_FLUSH_SECONDS="0.05")
        await one_round(ingest, acknowledged, f"r{number}")
        code, found = reconciled(services)
        assert (code, found["missing"], found["accepted"]) == (0, 0, found["spooled"] + found["delivered"])
        assert found["accepted"] >= BATCH * len(acknowledged)
    assert services.start("ingest").stop() == 0
    code, found = reconciled(services)
    assert (code, found["spooled"], found["missing"]) == (0, 0, 0)
    assert found["landed"] == found["delivered"] == found["accepted"]
    folder = url_path(services.settings.lake_url) / "events"
    deleted = next(folder.rglob("*.parquet"))
    deleted.unlink()
    code, found = reconciled(services)
    assert (code, found["short"]) == (1, [deleted.parent.relative_to(folder.parent).as_posix()])


def test_rejected_events_are_repaired_and_sent_again(services: Services) -> None:
    ingest = services.start("ingest", SINK_FLUSH_SECONDS="0.05")
    bad = {"event_type": "view", "user_id": "u", "ping_id": "p", "watch_time_ratio": -1}
    events = [*batch_of("u"), bad, bad | {"user_id": "v"}]
    httpx.post(f"{ingest.url}/track-events", json={"events": events}).raise_for_status()
    lake = url_path(services.settings.lake_url)
    asyncio.run(eventually(lambda: any(lake.glob("rejected/*/*.jsonl"))))
    code, body = command(services, "rejected", "list", "--code", "out_of_range", "--json")
    assert (code, len(body.splitlines())) == (0, 1)
    repaired = body.replace('"watch_time_ratio":-1', '"watch_time_ratio":1')
    headers = {"Content-Type": "application/json"}
    for accepted, duplicates in ((2, 0), (0, 2)):
        answer = httpx.post(f"{ingest.url}/track-events", content=repaired, headers=headers).json()
        assert (answer["accepted"], answer["duplicates"]) == (accepted, duplicates)
    assert ingest.stop() == 0
    assert reconciled(services)[1]["landed"] == BATCH + 2
