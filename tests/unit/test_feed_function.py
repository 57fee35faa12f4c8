"""The feed as a Lambda function: everything happens inside requests and within their budget, whatever AWS does."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest
from botocore.exceptions import ConnectionClosedError

from deploy.template import TEMPLATE
from feed_api.request_refresh import AGAIN_MS, LOAD_S, POINTER_S, REFRESH_MS
from feed_api.wiring import build_for_lambda
from pingfeed.core.errors import SettingsError
from pingfeed.core.ranker import model_key, pointer_key
from pingfeed.settings import load
from tests.cloudformation import Stack
from tests.http_api import body_of
from tests.unit.feed_function_world import (
    BUDGET_S,
    ENVIRON,
    LATENCY_S,
    FeedFunction,
    Trouble,
    down,
    feed_function,
    fine,
    hanging,
    slow,
    throttled,
)
from tests.unit.feed_world import FEATURES, TICK, ping_ids
from tests.unit.small_model import manifest, train

AFTER_S = 0.02
"""How much later than its budget a feed may be."""
STALE_S = REFRESH_MS / 1000
TROUBLES = [slow, throttled, down, hanging]


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Iterator[FeedFunction]:
    with feed_function(monkeypatch) as made:
        made.handler.start()
        yield made


async def dead() -> None:
    """The connection has died while the environment was frozen."""
    await asyncio.sleep(0)
    raise ConnectionClosedError(endpoint_url="https://aws.example")


def test_a_feed_is_served_by_what_the_import_loaded_and_logged_within_the_request(function: FeedFunction) -> None:
    reads = function.s3.pointers.calls + function.s3.files.calls
    first = function.feed()
    second = function.feed(cursor=first["next_cursor"])
    assert (first["degraded"], first["tick_ms"], len(first["items"])) == (["model"], TICK * 900_000, 10)
    assert not {"p000", *ping_ids(first)} & set(ping_ids(second))
    assert [row["served_pings"] for row in function.landed()] == [ping_ids(first), ping_ids(second)]
    assert function.s3.pointers.calls + function.s3.files.calls == reads
    counted = function.counted()
    assert (counted["feed_answers"], counted["events_accepted"], counted["sink_billed_bytes"]) == (2, 2, 10_240)


def test_packet_and_signals_come_by_one_call_and_act_and_event_go_concurrently(function: FeedFunction) -> None:
    function.feed()
    before = len(function.dynamodb.calls)
    function.feed()
    name, parameters = function.dynamodb.calls[before]
    assert (name, len(parameters["RequestItems"]["table"]["Keys"]) >= 2) == ("batch_get_item", True)
    assert function.took_s < LATENCY_S * (len(function.dynamodb.calls) - before + 0.5), "the put adds no time"


def test_a_hide_shows_in_the_next_feed(function: FeedFunction) -> None:
    hidden = ping_ids(function.feed())[0]
    function.act("hide", hidden)
    assert hidden not in ping_ids(function.feed())


# Slow, throttled, down


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize(
    ("part", "degraded", "dropped"),
    [
        ("dynamodb", ["signals", "candidates", "model"], 0),
        ("reads", ["signals", "candidates", "model"], 0),
        ("writes", ["signals", "model"], 0),
        ("firehose", ["model"], 1),
        ("s3", ["model"], 0),
        ("everything", ["signals", "candidates", "model"], 1),
    ],
)
def test_whatever_is_slow_throttled_or_down_feeds_come_in_time_and_say_what_they_lack(
    function: FeedFunction, trouble: Trouble, part: str, degraded: list[str], dropped: int
) -> None:
    parts = {
        "reads": [function.dynamodb.reads],
        "writes": [function.dynamodb.writes],
        "firehose": [function.firehose.puts],
        "s3": [function.s3.pointers, function.s3.files],
    }
    parts["dynamodb"] = parts["reads"] + parts["writes"]
    parts["everything"] = [service for services in parts.values() for service in services]
    function.feed()
    for service in parts[part]:
        service.trouble = trouble
    for request in range(1, 6):
        function.freeze(STALE_S)
        feed = function.feed()
        assert function.took_s <= BUDGET_S + AFTER_S
        assert (feed["degraded"], len(feed["items"])) == (degraded, 10)
        assert function.counted().get("feed_served_dropped", 0) == dropped * request
    if part in ("s3", "everything"):
        assert function.counted()["feed_refresh_failures"] >= 2
    for service in parts[part]:
        service.trouble = fine
    function.freeze(STALE_S)
    function.feed()
    function.freeze(STALE_S)
    dropped_before = function.counted().get("feed_served_dropped", 0)
    assert function.feed()["degraded"] == ["model"]
    assert function.counted().get("feed_served_dropped", 0) == dropped_before


@pytest.mark.parametrize("part", ["reads", "writes", "puts", "pointers"])
def test_a_connection_that_died_while_frozen_costs_a_feed_nothing(function: FeedFunction, part: str) -> None:
    function.feed()
    for service in (function.dynamodb, function.firehose, function.s3):
        if part in vars(service):
            vars(service)[part].then = [dead]
    function.freeze(STALE_S)
    assert function.feed()["degraded"] == ["model"]
    counted = function.counted()
    assert "feed_served_dropped" not in counted
    assert "feed_served_act_failures" not in counted


def test_an_act_that_hangs_on_a_dead_connection_holds_up_no_later_one(function: FeedFunction) -> None:
    function.dynamodb.writes.then = [hanging]
    assert function.feed()["degraded"] == ["signals", "model"]
    assert function.feed()["degraded"] == ["model"]


# Refreshing


def test_a_new_snapshot_and_a_new_model_are_found_within_a_request_and_serve_the_next(function: FeedFunction) -> None:
    function.publish(TICK + 1)
    function.s3.objects[model_key("m1", "model.txt")] = train().model_to_string().encode()
    function.s3.objects[model_key("m1", "manifest.json")] = manifest()
    function.s3.objects[pointer_key(FEATURES.digest, "model")] = b'{"current":"m1"}'
    assert function.feed()["tick_ms"] == TICK * 900_000, "what was read is fresh for a while"
    function.freeze(STALE_S)
    assert function.feed()["tick_ms"] == TICK * 900_000
    assert function.took_s <= BUDGET_S + AFTER_S
    served = function.feed()
    assert (served["tick_ms"], served["model_id"], served["degraded"]) == ((TICK + 1) * 900_000, "m1", [])


def test_a_new_snapshot_that_takes_longer_than_the_budget_is_paid_for_by_one_response(function: FeedFunction) -> None:
    function.s3.files.trouble = slow
    function.publish(TICK + 1)
    function.freeze(STALE_S)
    assert function.feed()["degraded"] == ["model"]
    assert BUDGET_S + AFTER_S < function.took_s <= BUDGET_S + LOAD_S
    assert function.feed()["tick_ms"] == (TICK + 1) * 900_000
    assert function.took_s <= BUDGET_S


def test_a_load_that_takes_longer_still_goes_on_in_later_requests_which_do_not_wait(function: FeedFunction) -> None:
    function.s3.files.trouble = partial(asyncio.sleep, LOAD_S + 2)
    function.publish(TICK + 1)
    function.freeze(STALE_S)
    function.feed()
    assert function.took_s <= BUDGET_S + LOAD_S
    feeds = 0
    while function.feed()["tick_ms"] == TICK * 900_000:
        assert function.took_s <= BUDGET_S + AFTER_S
        function.freeze(0.1)
        feeds += 1
    assert 40 < feeds < 80


def test_where_no_load_ends_one_response_in_a_while_waits_for_it(function: FeedFunction) -> None:
    function.s3.files.trouble = hanging
    function.publish(TICK + 1)
    late = []
    for _ in range(4 * AGAIN_MS // REFRESH_MS):
        function.freeze(STALE_S)
        assert function.feed()["degraded"] == ["model"]
        assert function.took_s <= BUDGET_S + LOAD_S
        late.append(function.took_s > BUDGET_S + AFTER_S)
    assert 2 <= sum(late) <= 4
    function.s3.files.trouble = fine
    function.freeze(AGAIN_MS / 1000)
    function.feed()
    assert function.feed()["tick_ms"] == (TICK + 1) * 900_000


def test_a_pointer_that_is_always_late_is_read_across_requests(function: FeedFunction) -> None:
    function.s3.pointers.trouble = slow
    function.publish(TICK + 1)
    function.freeze(STALE_S)
    function.feed()
    assert function.took_s <= BUDGET_S
    for _ in range(30):
        function.freeze(0.02)
        function.feed()
        assert function.took_s <= 6 * LATENCY_S, "only the request that began to read it waits for it"
    assert function.feed()["tick_ms"] == (TICK + 1) * 900_000
    assert function.counted()["feed_refresh_failures"] == 1


def test_the_alarms_share_is_of_feeds_that_lack_any_part_but_the_model(function: FeedFunction) -> None:
    """However many parts a feed lacks; before its first training a stage has no model."""
    assert function.feed()["degraded"] == ["model"]
    function.dynamodb.reads.trouble = down
    assert len(function.feed()["degraded"]) == 3
    counted = function.counted()
    assert (counted["feed_answers"], counted["feed_incomplete"], counted["feed_degraded"]) == (2, 1, 4)
    alarm = Stack.of(TEMPLATE, ImageUri="image").of_type("AWS::CloudWatch::Alarm")["DegradedAlarm"]
    watched = {one["MetricStat"]["Metric"]["MetricName"] for one in alarm["Metrics"] if "MetricStat" in one}
    assert watched == {"feed_answers", "feed_incomplete"}


@pytest.mark.parametrize("seconds", [3600, -7200])
def test_an_environment_that_was_frozen_for_long_serves_nothing_old(function: FeedFunction, seconds: int) -> None:
    """Its own clock may have stood still, so that what it read seems fresh by that one; or be set back."""
    function.publish(TICK + 1)
    function.s3.pointers.then = [hanging, hanging]
    function.freeze(STALE_S)
    function.feed()  # What it leaves unfinished hangs on.
    function.wall_s += seconds
    feed = function.feed()
    assert (feed["tick_ms"], feed["degraded"]) == ((TICK + 1) * 900_000, ["model"])
    assert function.took_s <= BUDGET_S + LOAD_S


@pytest.mark.parametrize("trouble", TROUBLES)
def test_after_a_long_freeze_without_s3_only_one_request_in_a_while_waits_a_little(
    function: FeedFunction, trouble: Trouble
) -> None:
    function.s3.pointers.trouble = trouble
    function.wall_s += 3600
    assert function.feed()["degraded"] == ["model"]
    assert function.took_s <= POINTER_S + BUDGET_S
    function.feed()
    assert function.took_s <= BUDGET_S + AFTER_S


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_could_not_be_loaded_at_import_is_loaded_by_the_first_request(
    monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    with feed_function(monkeypatch) as function:
        function.s3.pointers.trouble = trouble
        function.handler.start()
        function.s3.pointers.trouble = fine
        function.freeze(60)
        assert function.feed()["degraded"] == ["model"]


def test_without_s3_at_import_feeds_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    with feed_function(monkeypatch) as function:
        function.s3.pointers.trouble = hanging
        function.handler.start()
        assert function.feed()["degraded"] == ["snapshot", "model"]
        assert function.took_s <= POINTER_S + BUDGET_S
        assert function.feed()["degraded"] == ["snapshot", "model"]
        assert function.took_s <= BUDGET_S


# The environment


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("EVENTS_URL", "disk:///tmp/lake"),
        ("ARTIFACTS_URL", "file:///tmp/artifacts"),
        ("CANDIDATES_URL", "sqlite:///tmp/candidates.sqlite"),
        ("SIGNALS_URL", "sqlite:///tmp/signals.sqlite"),
        ("TRENDING_URL", "sqlite:///tmp/trending.sqlite"),
    ],
)
def test_settings_that_need_a_disk_are_rejected_by_name(variable: str, url: str) -> None:
    with pytest.raises(SettingsError, match=f"PINGFEED_{variable} is .*a Lambda function loses"):
        build_for_lambda(load({**ENVIRON, f"PINGFEED_{variable}": url}))


@pytest.mark.parametrize(
    "cache", [{}, {"SIGNALS": "redis://cache", "TRENDING": "redis://cache", "CACHE": "redis://cache"}]
)
def test_services_open_without_a_connection(cache: dict[str, str]) -> None:
    services = build_for_lambda(load({**ENVIRON, **{f"PINGFEED_{name}_URL": url for name, url in cache.items()}}))
    assert services.in_request
    assert services.publisher is None


def test_importing_the_handler_reads_no_settings_and_starts_nothing() -> None:
    """Nor does it import Arrow, LightGBM's package or the database libraries of one machine."""
    script = (
        "import sys, threading, feed_api.lambda_handler\n"
        "assert threading.active_count() == 1\n"
        "print(*sorted({'pyarrow', 'sqlite3', 'boto3', 'aioboto3', 'redis', 'uvicorn', 'lightgbm'} & set(sys.modules)))"
    )
    environ = {"PINGFEED_NO_SUCH": "1", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize(("stage", "base"), [("$default", ""), ("dev", ""), ("$default", "/v1")])
def test_its_routes_answer_under_a_stage_and_a_base_path(
    monkeypatch: pytest.MonkeyPatch, stage: str, base: str
) -> None:
    with feed_function(monkeypatch) as function:
        function.environ["PINGFEED_ROOT_PATH"] = base
        before = base if stage == "$default" else f"/{stage}{base}"
        assert body_of(function.get(f"{before}/healthz", stage)) == {"status": "ok"}
        ready = function.get(f"{before}/readyz", stage)
        assert (ready["statusCode"], body_of(ready)["degraded"]) == (200, ["model"])
        assert f"{before}/openapi.json" in function.get(f"{before}/docs", stage)["body"]
        assert len(body_of(function.get(f"{before}/get-feed", stage, user_id="u"))["items"]) == 10
