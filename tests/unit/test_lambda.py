"""Ingest as a Lambda function: a 202 means that Firehose has the events; one loop serves all invocations."""

import asyncio
import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ingest_api.lambda_handler import COUNTED, handler
from ingest_api.wiring import build_for_lambda
from pingfeed.core.errors import SettingsError, Unavailable
from pingfeed.settings import load
from pingfeed.spool.inline import DirectDelivery
from tests.http_api import body_of, events, request
from tests.unit.fake_firehose import refuse, take_none, take_some, time_out
from tests.unit.lambda_world import BAD, ENVIRON, FOLLOW, LIKE, Context, LambdaWorld, lambda_world


@pytest.fixture
def world() -> Iterator[LambdaWorld]:
    with lambda_world() as made:
        yield made


def test_accepted_events_are_in_the_stream_and_in_the_signals(world: LambdaWorld) -> None:
    answer = world(events(LIKE, FOLLOW))
    assert (answer["statusCode"], body_of(answer)) == (202, {"accepted": 2, "duplicates": 0, "rejected": []})
    assert [row["event_type"] for row in world.landed()] == ["like", "follow"]
    assert [act.kind for act in world.signals.applied] == ["seen", "like", "follow"]
    assert len(world.trending.counted) == 1


def test_a_base64_gzip_body_is_decoded(world: LambdaWorld) -> None:
    body = gzip.compress(json.dumps({"events": [LIKE]}).encode())
    event = request("/track-events", body, content_encoding="gzip")
    assert event["isBase64Encoded"]
    assert world(event)["statusCode"] == 202
    assert len(world.landed()) == 1


def test_a_body_that_is_not_utf8_is_a_400_and_kept(world: LambdaWorld) -> None:
    answer = world(request("/track-event", b'{"event_type": "\xff'))
    assert (answer["statusCode"], body_of(answer)["error"]["code"]) == (400, "malformed")
    assert [line["body"] for line in world.kept()] == ['{"event_type": "\\xff']


def test_headers_pass_in_and_out(world: LambdaWorld) -> None:
    answer = world(events(LIKE, x_request_id="from-the-app"))
    assert answer["headers"]["x-request-id"] == "from-the-app"
    assert answer["headers"]["x-content-type-options"] == "nosniff"
    assert answer["headers"]["content-type"] == "application/json"
    assert not answer["isBase64Encoded"]


def test_rejected_events_of_a_request_are_one_object_in_the_lake_under_their_day(world: LambdaWorld) -> None:
    answer = world(events(BAD, BAD))
    assert (answer["statusCode"], body_of(answer)["rejected"][0]["code"]) == (422, "missing_field")
    assert list(world.lake.data) == ["rejected/day=2026-11-22/one-1.jsonl"]
    assert [(line["code"], json.loads(line["body"])) for line in world.kept()] == [("missing_field", BAD)] * 2


@pytest.mark.parametrize("trouble", [{"down": "no S3 today"}, {"hangs": True}], ids=["down", "hangs"])
def test_rejected_events_that_the_lake_does_not_take_are_dropped_and_counted(trouble: dict[str, Any]) -> None:
    with lambda_world(within_s=0.05) as world:
        vars(world.lake).update(trouble)
        assert world(events(LIKE, BAD))["statusCode"] == 202
        assert world.lake.cancelled == ("hangs" in trouble)
        assert world.counted()["events_rejected_dropped"] == 1


def test_objects_of_rejected_events_are_limited_per_day() -> None:
    with lambda_world(max_objects=2) as world:
        for _ in range(3):
            world(events(BAD, BAD))
        assert (len(world.lake.data), world.counted()["events_rejected_dropped"]) == (2, 2)
        world.now_ms += 86_400_000
        world(events(BAD))
        assert sorted(world.lake.data)[-1] == "rejected/day=2026-11-23/one-1.jsonl"


@pytest.mark.parametrize(
    "does",
    [refuse("ServiceUnavailableException"), refuse("AccessDeniedException"), take_none, time_out],
    ids=["throttled", "access denied", "takes none", "times out"],
)
def test_a_failing_stream_is_a_503_and_accepts_nothing(world: LambdaWorld, does: Any) -> None:
    world.stream.otherwise = does
    answer = world(events(LIKE))
    assert (answer["statusCode"], body_of(answer)["error"]["code"]) == (503, "unavailable")
    assert int(answer["headers"]["retry-after"]) >= 1
    assert world.landed() == []
    assert world.counted() == {"delivery_failures": 1}
    world.stream.otherwise = None
    assert body_of(world(events(LIKE)))["accepted"] == 1, "it is not a duplicate"


def test_a_hanging_stream_is_a_503_within_the_timeout() -> None:
    with lambda_world(within_s=0.05) as world:

        async def hang(**_: Any) -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

        world.stream.put_record_batch = hang  # type: ignore[method-assign]
        answer = world(events(LIKE))
        assert answer["statusCode"] == 503
        assert int(answer["headers"]["retry-after"]) >= 1
        assert world.running() == []


def test_failed_records_are_retried_within_the_request(world: LambdaWorld) -> None:
    world.stream.script = [take_none, refuse("ServiceUnavailableException")]
    assert world(events(LIKE))["statusCode"] == 202
    assert len(world.landed()) == 1


def test_a_batch_that_is_only_partly_taken_is_a_503(world: LambdaWorld) -> None:
    world.stream.otherwise = take_some(lambda place: place > 0)
    many = [{**LIKE, "event_id": f"0190a000-0000-7000-8000-{n:012}", "note": "x" * 1800} for n in range(500)]
    answer = world(events(*many))
    assert answer["statusCode"] == 503
    assert len(world.stream.put[0]) > 1
    world.stream.otherwise = None
    assert body_of(world(events(*many)))["accepted"] == 500
    assert {row["event_id"] for row in world.landed()} == {one["event_id"] for one in many}


def test_signals_that_are_down_are_a_503(world: LambdaWorld) -> None:
    world.signals.down = "no table"
    assert world(events(LIKE))["statusCode"] == 503
    assert world.counted() == {"signal_failures": 1, "sink_billed_bytes": 5120}


def test_signals_are_retried_after_a_dead_connection(world: LambdaWorld) -> None:
    tries = []

    def once() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise Unavailable("the connection was closed")

    world.signals.before = once
    assert world(events(LIKE))["statusCode"] == 202
    assert [act.kind for act in world.signals.applied] == ["seen", "like"]


def test_a_key_is_required_if_the_settings_say_so() -> None:
    with lambda_world() as world:
        answer = world(events(LIKE, x_api_key=""))
        assert (answer["statusCode"], answer["headers"]["www-authenticate"]) == (401, "Bearer")
        assert world(events(LIKE))["statusCode"] == 202
        assert world(request("/metrics", method="GET"))["statusCode"] == 403


# The execution environment


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


@pytest.mark.parametrize(("seconds", "drain_s", "is_cancelled"), [(0.02, 6, False), (3600, 0.02, True)])
def test_tasks_that_a_request_left_are_awaited_then_cancelled(
    seconds: float, drain_s: float, is_cancelled: bool
) -> None:
    with lambda_world(drain_s=drain_s) as world:
        world(request("/healthz", method="GET"))
        left: list[asyncio.Task[None]] = []
        world.signals.before = lambda: left.append(asyncio.get_running_loop().create_task(asyncio.sleep(seconds)))
        assert world(events(LIKE))["statusCode"] == 202
        assert ([task.cancelled() for task in left], world.running()) == ([is_cancelled], [])


@pytest.mark.parametrize("allowed", ["0", "1"])
def test_a_function_is_never_open(allowed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with lambda_world({**ENVIRON, "PINGFEED_AUTH": "none", "PINGFEED_ALLOW_OPEN": allowed}) as world:
        assert world(events(LIKE))["statusCode"] == 500
        assert world.built == []
    assert "PINGFEED_AUTH is none; a function needs" in capsys.readouterr().err


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


def test_a_function_timeout_that_is_too_short_is_an_error_in_the_log(
    world: LambdaWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not of the first invocation: where the import took too long, Lambda repeats it in that one's time."""
    for _ in range(3):
        assert world(events(LIKE), Context(remaining_ms=3_000))["statusCode"] == 202
    assert capsys.readouterr().err.count("timeout is under 22 s") == 1


def test_a_start_before_the_first_invocation_opens_everything_then(world: LambdaWorld) -> None:
    world.function.start()
    assert len(world.built) == 1
    assert world.running() == []
    assert world(events(LIKE))["statusCode"] == 202
    assert world.built == world.loops


def test_a_start_that_fails_is_repeated_by_the_first_invocation(world: LambdaWorld) -> None:
    auth = world.environ.pop("PINGFEED_AUTH")
    world.function.start()
    world.environ["PINGFEED_AUTH"] = auth
    assert world(events(LIKE))["statusCode"] == 202


def test_stores_that_are_down_do_not_fail_the_start(world: LambdaWorld) -> None:
    world.signals.down = "no table yet"
    world.function.start()
    world.signals.down = ""
    assert world(events(LIKE))["statusCode"] == 202


def test_an_event_that_is_not_an_http_request_raises(world: LambdaWorld) -> None:
    others: list[Any] = [{"detail-type": "Scheduled"}, {"Records": [{"body": "{}"}]}, {"requestContext": {}}, [], None]
    for event in others:
        with pytest.raises(RuntimeError, match="the ingest function answers HTTP requests"):
            world(event)
    assert world.built == []
    assert world(events(LIKE))["statusCode"] == 202


def test_metrics_are_those_of_the_function_so_that_stages_of_an_account_have_their_own(
    world: LambdaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "pingfeed-dev-ingest")
    world(events(LIKE))
    assert json.loads(world.lines[0])["service"] == "pingfeed-dev-ingest"


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


@pytest.mark.parametrize("signals", ["dynamodb", "redis", "rediss"])
@pytest.mark.parametrize("trending", ["snapshot", "redis", "rediss"])
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
