"""The life of a function's environment: one loop, made once, nothing that runs on, settings that work there."""

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


def test_invocations_share_one_loop_and_what_was_made_at_the_first(world: LambdaWorld) -> None:
    assert body_of(world(events(LIKE)))["accepted"] == 1
    assert body_of(world(events(LIKE)))["duplicates"] == 1
    assert world.built == world.loops
    assert len(world.loops) == 1


def test_nothing_runs_after_an_answer(world: LambdaWorld) -> None:
    before = set(threading.enumerate())
    for event in (events(LIKE, BAD), events(BAD), request("/readyz", method="GET"), request("/docs", method="GET")):
        world(event)
        assert world.running() == []
        assert set(threading.enumerate()) <= before


def test_what_a_request_left_behind_is_waited_for(world: LambdaWorld) -> None:
    done = []

    async def later() -> None:
        await asyncio.sleep(0.02)
        done.append("later")

    def begin() -> None:
        tasks.append(asyncio.get_running_loop().create_task(later()))

    tasks: list[asyncio.Task[None]] = []
    world.signals.before = begin
    world(events(LIKE))
    assert done == ["later"]


def test_what_takes_too_long_after_a_request_is_called_off(world: LambdaWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest_api.lambda_handler.REST_S", 0.02)
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("called off")

    def begin() -> None:
        tasks.append(asyncio.get_running_loop().create_task(forever()))

    tasks: list[asyncio.Task[None]] = []
    world.signals.before = begin
    assert world(events(LIKE))["statusCode"] == 202
    assert ended == ["called off"]
    assert world.running() == []


def test_an_open_door_needs_to_be_asked_for() -> None:
    with lambda_world({**ENVIRON, "PINGFEED_ALLOW_OPEN": "0"}) as world:
        assert world(events(LIKE))["statusCode"] == 500
        assert world.built == []


def test_a_failed_start_is_an_answer_and_a_sentence_and_is_tried_again(
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


def test_a_time_out_that_is_too_short_is_a_failed_start(world: LambdaWorld, capsys: pytest.CaptureFixture[str]) -> None:
    assert world(events(LIKE), Context(remaining_ms=3_000))["statusCode"] == 500
    assert "timeout is under 22 s" in capsys.readouterr().err
    assert world(events(LIKE))["statusCode"] == 202
    assert world(events(LIKE), Context(remaining_ms=3_000))["statusCode"] == 202, "looked at when it is made"


def test_an_event_that_is_no_request_is_an_error_of_the_function(world: LambdaWorld) -> None:
    with pytest.raises(RuntimeError):
        world({"detail-type": "Scheduled Event"})
    assert world(events(LIKE))["statusCode"] == 202


def test_what_was_counted_is_one_line_of_the_log_if_anything_was(world: LambdaWorld) -> None:
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
def test_what_needs_a_disk_is_refused_by_name(variable: str, url: str) -> None:
    settings = load({**ENVIRON, f"PINGFEED_{variable}": url})
    with pytest.raises(SettingsError, match=f"PINGFEED_{variable} is .*a Lambda function loses") as refused:
        build_for_lambda(settings)
    assert refused.value.field == f"PINGFEED_{variable}"
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("signals", ON_LAMBDA["signals_url"])
@pytest.mark.parametrize("trending", ON_LAMBDA["trending_url"])
def test_what_works_there_is_opened_without_a_connection(signals: str, trending: str) -> None:
    urls = {
        "PINGFEED_SIGNALS_URL": f"{signals}://a.table",
        "PINGFEED_TRENDING_URL": "snapshot://" if trending == "snapshot" else f"{trending}://cache",
    }
    services = build_for_lambda(load({**ENVIRON, **urls}))
    assert isinstance(services.delivery, DirectDelivery)
    assert services.publisher is None


def test_importing_it_reads_no_settings_and_starts_nothing() -> None:
    """And neither Arrow nor the database libraries of one machine come with it."""
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
