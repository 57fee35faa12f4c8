"""The tick as a Lambda function: one tick an invocation, over a disk that may be empty each time."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from batch import lambda_handler
from batch.lambda_handler import METRICS, WARNED_S, run
from pingfeed.core.errors import InvalidInput, SettingsError
from tests.unit.lakes import FIRST, LakeWorld, row

USERS = [f"u{number}" for number in range(6)]


def tick_world(folder: Path) -> LakeWorld:
    """A lake, stores and artifacts in one folder, and a home in another."""
    data = folder / "data"
    urls = {
        "LAKE_URL": f"file://{data}/lake",
        "EVENTS_URL": f"disk://{data}/lake",
        "ARTIFACTS_URL": f"file://{data}/artifacts",
        "CANDIDATES_URL": f"sqlite://{data}/candidates.sqlite",
        "SIGNALS_URL": f"sqlite://{data}/signals.sqlite",
        "HOME": str(folder / "home"),
    }
    data.mkdir(parents=True)
    return LakeWorld(data, {f"PINGFEED_{name}": value for name, value in urls.items()})


def land_some(world: LakeWorld, tick: int) -> None:
    world.at(tick)
    now_ms = world.time.now_ms - 10_000
    events = [row("like", user_id=user, ping_id=f"p{tick % 7}", received_ms=now_ms) for user in USERS]
    world.land([row("ping_created", ping_id=f"p{tick % 7}", creator_id="c1", received_ms=now_ms), *events])


def made(folder: Path, *, wiped: bool) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The artifacts and results of two ticks; `wiped`: the home is emptied before each."""
    world, results = tick_world(folder), []
    for tick in range(FIRST + 1, FIRST + 3):
        land_some(world, tick)
        if wiped:
            shutil.rmtree(folder / "home", ignore_errors=True)
        results.append(run(world.batch, {"everyone": tick % 2 == 0}, 60, lambda _: None))
    files = sorted((folder / "data" / "artifacts").rglob("snapshot.bin"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}, results


def test_a_tick_needs_nothing_that_was_on_its_disk(tmp_path: Path) -> None:
    kept, wiped = made(tmp_path / "kept", wiped=False), made(tmp_path / "wiped", wiped=True)
    assert kept == wiped
    assert len(kept[0]) == 2
    assert [(result["events"], result["packets"] > 0) for result in kept[1]] == [(7, True)] * 2


def test_a_tick_is_one_line_of_metrics_and_one_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world, lines = tick_world(tmp_path), list[str]()
    land_some(world, FIRST + 1)
    with caplog.at_level(logging.INFO):
        result = run(world.batch, {}, 60, lines.append)
    (line,) = map(json.loads, lines)
    names = [metric["Name"] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]]
    assert names == [name for name in METRICS if name != "tick_busy"]
    assert (line["service"], line["tick_events"], line["tick_degraded"]) == ("tick", 7, 0)
    assert line["tick_packets"] == result["packets"]
    assert [record.events for record in caplog.records if record.message == "tick"] == [7]  # type: ignore[attr-defined]


def test_a_busy_tick_is_no_error(tmp_path: Path) -> None:
    world, lines = tick_world(tmp_path), list[str]()
    world.at(FIRST + 1)
    with world.batch.lease():
        result = run(world.batch, {}, 60, lines.append)
    assert "another" in result["busy"]
    assert json.loads(lines[0])["tick_busy"] == 1


@pytest.mark.parametrize("event", [None, [], {"everyone": "yes"}])
def test_another_event_is_one_clear_error(tmp_path: Path, event: Any) -> None:
    with pytest.raises(InvalidInput, match="the event of a tick must be"):
        run(tick_world(tmp_path).batch, event, 60, lambda _: None)


def test_a_tick_that_is_about_to_be_ended_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = tick_world(tmp_path)
    land_some(world, FIRST + 1)
    run(world.batch, {}, WARNED_S - 1, lambda _: None)
    assert "still running 14 s before the function's timeout" in caplog.text


def test_places_on_a_disk_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lambda_handler, "configure_logs", lambda: None)
    with pytest.raises(SettingsError, match="PINGFEED_LAKE_URL is file://, a place that a Lambda function loses"):
        lambda_handler.handler({}, None)
