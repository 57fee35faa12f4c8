"""The feed's function in Lambda's own runtime client, with Firehose, S3 and DynamoDB (MiniStack) behind it.

Between two invocations its process stands still. The emulator needs 50 ms for a put, so the budget is a generous one;
what happens within it is tested in simulated time (tests/unit/test_feed_function.py).
"""

import statistics
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pyarrow.parquet as pq
import pytest

from deploy.stream import ensure
from pingfeed.adapters.artifacts_s3 import S3Artifacts
from pingfeed.adapters.candidates_dynamodb import DynamodbCandidateStore
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals
from pingfeed.core.clock import DAY_MS, system_clock
from pingfeed.core.ranker import Pointer, model_key, pointer_key
from pingfeed.core.signals import Act
from tests.buckets import bucket_of, mirrored
from tests.conformance.place import Place
from tests.conformance.samples import eventually
from tests.http_api import AUTH, body_of, request
from tests.relay import Relay, relay_to
from tests.runtime_api import Answer, Environment, environment
from tests.servers import AWS_ENVIRONMENT, Server, lacking
from tests.unit.feed_world import FEATURES, FULL_PACKET, LISTS, TICK, catalogue, ping_ids, put_snapshot, snapshot_bytes
from tests.unit.small_model import manifest, train

pytestmark = pytest.mark.real

HANDLER = "feed_api.lambda_handler.handler"
BUDGET_MS = 500
LATE_MS = 1000
"""How much more a feed may take on a busy machine before a test fails; the figures are printed."""
WARM = 30


@pytest.fixture
def relay(session_ministack: Server) -> Iterator[Relay]:
    with relay_to(session_ministack.port) as made:
        yield made


async def publish(place: Place, tick: int, model: str = "") -> None:
    """A snapshot of the tick, and a model."""
    objects: dict[str, bytes] = {}
    put_snapshot(objects, snapshot_bytes(catalogue(200), LISTS, tick), tick)
    objects[pointer_key(FEATURES.digest, "snapshot")] = msgspec.json.encode(Pointer(str(tick)))
    if model:
        objects[model_key(model, "model.txt")] = train().model_to_string().encode()
        objects[model_key(model, "manifest.json")] = manifest(model_id=model)
        objects[pointer_key(FEATURES.digest, "model")] = msgspec.json.encode(Pointer(model))
    artifacts = S3Artifacts(bucket_of(place))
    for key, data in objects.items():
        await artifacts.put(key, data)
    await artifacts.close()


@pytest.fixture
async def signals(place: Place) -> AsyncIterator[DynamodbUserSignals]:
    """The users' signals, as ingest writes them."""
    store = DynamodbUserSignals(f"dynamodb://{place.table}")
    await store.mark_complete()
    yield store
    await store.close()


@pytest.fixture
async def function(
    place: Place, relay: Relay, signals: DynamodbUserSignals, tmp_path: Path
) -> AsyncIterator[Environment]:
    """An environment that has been imported, over stores of this test's own: a snapshot, a model and ann's packet."""
    if find_spec("awslambdaric") is None:
        lacking("awslambdaric is not installed (it is for Linux)")
    table, lake = place.table, bucket_of(place)
    ensure(f"firehose://{place.aws}", lake, interval_s=60)
    await publish(place, TICK, "m1")
    candidates = DynamodbCandidateStore(f"dynamodb://{table}")
    await candidates.put_many({"ann": FULL_PACKET}, system_clock() + DAY_MS)
    await candidates.close()
    environ = {
        **AWS_ENVIRONMENT,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}",
        "PINGFEED_EVENTS_URL": f"firehose://{place.aws}",
        "PINGFEED_LAKE_URL": lake,
        "PINGFEED_ARTIFACTS_URL": lake,
        "PINGFEED_CANDIDATES_URL": f"dynamodb://{table}",
        "PINGFEED_SIGNALS_URL": f"dynamodb://{table}",
        "PINGFEED_TRENDING_URL": "snapshot://",
        "PINGFEED_FEED_BUDGET_MS": str(BUDGET_MS),
        "PINGFEED_TICK_MINUTES": "1",
        "PINGFEED_LOG_MATRIX_SHARE": "0",
        **AUTH,
    }
    with environment(HANDLER, tmp_path, environ) as made:
        yield made


def ask(function: Environment, **query: Any) -> tuple[Answer, dict[str, Any]]:
    """A feed of ann, which must be a 200."""
    event = request("/get-feed", method="GET") | {"rawQueryString": urlencode({"user_id": "ann", **query})}
    answer = function.invoke(event)
    assert (answer.outcome, answer.body["statusCode"]) == ("response", 200), answer.body
    return answer, body_of(answer.body)


def landed(place: Place) -> set[str]:
    """The ids of all served requests that are in the lake by now."""
    lake = mirrored(place)
    tables = [pq.read_table(Path(lake.root) / path) for path in lake.list("events")]
    return {request_id for table in tables for request_id in table["request_id"].to_pylist()}


async def test_a_feed_is_ranked_by_the_model_and_lands_and_a_hide_shows_in_the_next(
    place: Place, function: Environment, signals: DynamodbUserSignals
) -> None:
    cold, first = ask(function)
    assert (first["degraded"], first["model_id"], first["tick_ms"]) == ([], "m1", TICK * 60_000)
    hidden = ping_ids(first)[0]
    await signals.apply([Act("ann", "hide", hidden, system_clock())])
    warm = [ask(function) for _ in range(WARM)]
    assert not any(hidden in ping_ids(feed) for _, feed in warm)
    took = statistics.median(answer.ms for answer, _ in warm)
    sys.stdout.write(f"\nfirst invocation {cold.ms:.0f} ms; {WARM} more, thawed each time, median {took:.0f} ms\n")

    served = {feed["request_id"] for _, feed in [(cold, first), *warm]}
    counted = [line for line in function.log() if "_aws" in line]
    dropped = sum(line.get("feed_served_dropped", 0) for line in counted)
    await eventually(lambda: len(landed(place) & served) >= len(served) - dropped, within_s=60)
    assert sum(line["feed_answers"] for line in counted) == len(served)
    assert dropped <= 1, "of a busy machine"


async def test_a_new_snapshot_and_model_serve_the_requests_after_they_are_found(
    place: Place, function: Environment
) -> None:
    ask(function)
    await publish(place, TICK + 1, "m2")
    # The function's clock cannot be moved: what it read is fresh for 15 s.
    feeds: list[dict[str, Any]] = []

    def is_new() -> bool:
        feeds.append(ask(function)[1])
        return (feeds[-1]["tick_ms"], feeds[-1]["model_id"]) == ((TICK + 1) * 60_000, "m2")

    await eventually(is_new, within_s=60)
    assert feeds[-1]["degraded"] == []


async def test_connections_that_died_while_it_was_frozen_fail_no_feed(function: Environment, relay: Relay) -> None:
    for how in ("close_all", "reset_all", "silence_all"):
        assert ask(function)[1]["degraded"] == []
        assert getattr(relay, how)() >= 2, "to Firehose and DynamoDB"
        answer, feed = ask(function)
        sys.stdout.write(f"\nafter {how} {answer.ms:.0f} ms, degraded {feed['degraded']}\n")
        assert answer.ms < BUDGET_MS + LATE_MS
        # Only a time-out tells that a connection is silent.
        assert feed["degraded"] == (["signals", "candidates"] if how == "silence_all" else [])
    assert ask(function)[1]["degraded"] == []


async def test_while_aws_is_unreachable_or_silent_feeds_are_served_and_say_what_they_lack(
    function: Environment, relay: Relay, session_ministack: Server
) -> None:
    ask(function)
    relay.open = False
    relay.close_all()
    down = [ask(function) for _ in range(3)]
    relay.open = True
    ask(function)
    session_ministack.pause()
    try:
        silent = [ask(function) for _ in range(3)]
    finally:
        session_ministack.resume()
    for name, answers in {"unreachable": down, "silent": silent}.items():
        sys.stdout.write(f"\n{name}: {', '.join(f'{answer.ms:.0f}' for answer, _ in answers)} ms of {BUDGET_MS}\n")
        assert all(answer.ms < BUDGET_MS + LATE_MS for answer, _ in answers)
        assert all(feed["degraded"] == ["signals", "candidates"] and len(feed["items"]) == 10 for _, feed in answers)
    await eventually(lambda: ask(function)[1]["degraded"] == [], within_s=10)


async def test_killed_right_after_an_answer_it_has_lost_nothing_of_that_feed(
    place: Place, function: Environment, signals: DynamodbUserSignals
) -> None:
    feed = ask(function)[1]
    function.process.kill()
    state = (await signals.read("ann", system_clock())).state
    assert [served.pings for served in state.session.served] == [ping_ids(feed)]
    await eventually(lambda: feed["request_id"] in landed(place), within_s=60)
