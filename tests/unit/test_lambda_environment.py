"""A function's execution environment: one loop for all invocations, no leftover work, checked settings."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from ingest_api.lambda_handler import COUNTED, handler
from ingest_api.wiring import ON_LAMBDA, build_for_lambda
from pingfeed.core.errors import SettingsError
from pingfeed.settings import load
from pingfeed.spool.inline import DirectDelivery
from tests.http_api import body_of, events, request
from tests.unit.lambda_world import BAD, ENVIRON, FOLLOW, LIKE, Context, LambdaWorld, lambda_world


@pytest.fixture
def world() -> Iterator[LambdaWorld]:
    with lambda_world() as made:
        yield made


def test_invocations_share_one_loop_and_one_app(world: LambdaWorld) -> None:
    assert body_of(world(events(LIKE)))["accepted"] == 1
    assert body_of(world(events(LIKE)))["duplicates"] == 1
    assert world.built == world.loops
    assert len(world.loops) == 1


def test_nothing_runs_after_a_response(world: LambdaWorld) -> None:
    before = set(threading.enumerate())
    for event in (events(LIKE, BAD), events(BAD), request("/readyz", method="GET"), request("/docs", method="GET")):
        world(event)
        assert world.running() == []
        assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(("seconds", "outcome"), [(0.02, "done"), (3600, "cancelled")])
def test_tasks_that_a_request_left_are_awaited_then_cancelled(
    world: LambdaWorld, monkeypatch: pytest.MonkeyPatch, seconds: float, outcome: str
) -> None:
    monkeypatch.setattr("ingest_api.lambda_handler.REST_S", 6 if outcome == "done" else 0.02)
    outcomes: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        try:
            await asyncio.sleep(seconds)
            outcomes.append("done")
        except asyncio.CancelledError:
            outcomes.append("cancelled")
            raise

    world.signals.before = lambda: tasks.append(asyncio.get_running_loop().create_task(later()))
    assert world(events(LIKE))["statusCode"] == 202
    assert (outcomes, world.running()) == ([outcome], [])


def test_open_access_must_be_allowed_explicitly() -> None:
    with lambda_world({**ENVIRON, "PINGFEED_ALLOW_OPEN": "0"}) as world:
        assert world(events(LIKE))["statusCode"] == 500
        assert world.built == []


def test_a_failed_start_is_a_500_with_a_log_line_and_is_retried(
    world: LambdaWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    right = world.environ.pop("PINGFEED_LAKE_URL")
    answer = world(events(LIKE))
    assert (answer["statusCode"], body_of(answer)["error"]["code"]) == (500, "internal")
    assert body_of(answer)["request_id"] == answer["headers"]["x-request-id"]
    assert "PINGFEED_LAKE_URL is not set" in capsys.readouterr().err
    world.environ["PINGFEED_LAKE_URL"] = right
    assert world(events(LIKE))["statusCode"] == 202
    assert len(world.loops) == 1


def test_a_function_timeout_that_is_too_short_fails_the_start(
    world: LambdaWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world(events(LIKE), Context(remaining_ms=3_000))["statusCode"] == 500
    assert "timeout is under 22 s" in capsys.readouterr().err
    assert world(events(LIKE))["statusCode"] == 202
    assert world(events(LIKE), Context(remaining_ms=3_000))["statusCode"] == 202, "checked at the start only"


def test_an_event_that_is_not_an_http_request_raises(world: LambdaWorld) -> None:
    with pytest.raises(RuntimeError):
        world({"detail-type": "Scheduled Event"})
    assert world(events(LIKE))["statusCode"] == 202


def test_counters_that_changed_are_one_log_line(world: LambdaWorld) -> None:
    world(events(LIKE, FOLLOW, BAD, {**LIKE, "user_id": ""}))
    line = json.loads(world.lines[0])
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("pingfeed", [["service"]])
    assert {"Name": "events_accepted", "Unit": "Count"} in directive["Metrics"]
    assert {"Name": "sink_billed_bytes", "Unit": "Bytes"} in directive["Metrics"]
    assert {metric["Name"] for metric in directive["Metrics"]} == world.counted().keys() <= set(COUNTED)
    assert (line["service"], line["_aws"]["Timestamp"]) == ("ingest", world.now_ms)
    assert (line["events_accepted"], line["events_rejected"], line["sink_billed_bytes"]) == (2, 2, 5120)
    assert sum(line["events_rejected_by_code"].values()) == 2

    world(request("/healthz", method="GET"))
    assert len(world.lines) == 1
    world(events(LIKE))
    assert world.counted() == {"events_duplicate": 1}


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("EVENTS_URL", "disk:///tmp/lake"),
        ("LAKE_URL", "file:///tmp/lake"),
        ("SIGNALS_URL", "sqlite:///tmp/signals.sqlite"),
        ("TRENDING_URL", "sqlite:///tmp/trending.sqlite"),
    ],
)
def test_settings_that_need_a_disk_are_rejected_by_name(variable: str, url: str) -> None:
    settings = load({**ENVIRON, f"PINGFEED_{variable}": url})
    with pytest.raises(SettingsError, match=f"PINGFEED_{variable} is .*a Lambda function loses") as rejected:
        build_for_lambda(settings)
    assert rejected.value.field == f"PINGFEED_{variable}"
    assert "\n" not in rejected.value.message


@pytest.mark.parametrize("signals", ON_LAMBDA["signals_url"])
@pytest.mark.parametrize("trending", ON_LAMBDA["trending_url"])
def test_services_open_without_a_connection(signals: str, trending: str) -> None:
    urls = {
        "PINGFEED_SIGNALS_URL": f"{signals}://a.table",
        "PINGFEED_TRENDING_URL": "snapshot://" if trending == "snapshot" else f"{trending}://cache",
    }
    services = build_for_lambda(load({**ENVIRON, **urls}))
    assert isinstance(services.delivery, DirectDelivery)
    assert services.publisher is None


def test_importing_the_handler_reads_no_settings_and_starts_nothing() -> None:
    """Nor does it import Arrow or the database libraries of one machine."""
    script = (
        "import asyncio, sys, threading, ingest_api.lambda_handler\n"
        "assert threading.active_count() == 1\n"
        "assert asyncio.get_event_loop_policy()._local._loop is None\n"
        "print(*sorted({'pyarrow', 'sqlite3', 'boto3', 'aioboto3', 'redis', 'uvicorn'} & set(sys.modules)))"
    )
    environ = {"PINGFEED_NO_SUCH": "1", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    assert callable(handler)
