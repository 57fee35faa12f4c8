"""Ingest as a Lambda function: a 202 means that Firehose has the events; if it does not take them, a 503."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pingfeed.core.errors import Unavailable
from tests.http_api import body_of, events, request
from tests.unit.fake_firehose import refuse, take_none, take_some, time_out
from tests.unit.lambda_world import BAD, ENVIRON, FOLLOW, LIKE, LambdaWorld, lambda_world

KEY = "k" * 32


@pytest.fixture
def world() -> Iterator[LambdaWorld]:
    with lambda_world() as made:
        yield made


def test_accepted_events_are_in_the_stream_and_in_the_signals(world: LambdaWorld) -> None:
    answer = world(events(LIKE, FOLLOW))
    assert (answer["statusCode"], body_of(answer)) == (202, {"accepted": 2, "duplicates": 0, "rejected": []})
    assert [row["event_type"] for row in world.landed()] == ["like", "follow"]
    assert [act.kind for act in world.signals.applied] == ["seen", "engaged", "follow"]
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
    assert [act.kind for act in world.signals.applied] == ["seen", "engaged"]


def test_a_key_is_required_if_the_settings_say_so() -> None:
    key = {"PINGFEED_AUTH": "api_key", "PINGFEED_API_KEY_HASHES": hashlib.sha256(KEY.encode()).hexdigest()}
    with lambda_world({**ENVIRON, **key, "PINGFEED_ALLOW_OPEN": "0"}) as world:
        answer = world(events(LIKE))
        assert (answer["statusCode"], answer["headers"]["www-authenticate"]) == (401, "Bearer")
        assert world(events(LIKE, x_api_key=KEY))["statusCode"] == 202
        assert world(request("/metrics", method="GET", x_api_key=KEY))["statusCode"] == 403
