"""Ingest's function in Lambda's own runtime client, with Firehose, S3 and DynamoDB (MiniStack) behind it.

Between two invocations its process stands still. How long invocations take is printed, and nothing depends on it.
"""

import shutil
import statistics
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from deploy.stream import ensure
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals
from pingfeed.core.clock import system_clock
from pingfeed.core.ids import uuid7
from pingfeed.settings import SCHEMES
from tests.buckets import bucket_of, mirrored
from tests.conformance.place import Place
from tests.conformance.samples import eventually
from tests.http_api import AUTH, body_of, events
from tests.prove import rounds
from tests.relay import Relay, relay_to
from tests.runtime_api import INIT_S, Environment, environment
from tests.servers import AWS_ENVIRONMENT, Server, lacking

pytestmark = pytest.mark.real

HANDLER = "ingest_api.lambda_handler.handler"
BAD = {"event_type": "like", "user_id": "ann"}
WARM = 30


@pytest.fixture
def relay(session_ministack: Server) -> Iterator[Relay]:
    with relay_to(session_ministack.port) as made:
        yield made


@pytest.fixture
def environ(place: Place, relay: Relay) -> dict[str, str]:
    """The variables of a function over a bucket, a table and a stream of this test's own."""
    if find_spec("awslambdaric") is None:
        lacking("awslambdaric is not installed (it is for Linux)")
    table, lake = place.table, bucket_of(place)
    ensure(f"firehose://{place.aws}", lake, interval_s=60)
    return {
        **AWS_ENVIRONMENT,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}",
        "PINGFEED_EVENTS_URL": f"firehose://{place.aws}",
        "PINGFEED_LAKE_URL": lake,
        "PINGFEED_SIGNALS_URL": f"dynamodb://{table}",
        "PINGFEED_TRENDING_URL": "snapshot://",
        **AUTH,
    }


@pytest.fixture
def function(environ: dict[str, str], tmp_path: Path) -> Iterator[Environment]:
    """An environment that has been imported and not called yet."""
    with environment(HANDLER, tmp_path, environ) as made:
        yield made


def follow(creator: str) -> dict[str, Any]:
    return {"event_type": "follow", "user_id": "ann", "creator_id": creator, "event_id": uuid7(system_clock())}


def landed(place: Place) -> set[str]:
    """The ids of all events that are in the lake by now."""
    lake = mirrored(place)
    tables = [pq.read_table(Path(lake.root) / path) for path in lake.list("events")]
    return {event_id for table in tables for event_id in table["event_id"].to_pylist()}


async def follows(place: Place) -> set[str]:
    """Whom ann follows, as a feed would read it."""
    signals = DynamodbUserSignals(f"dynamodb://{place.table}")
    try:
        return set((await signals.read("ann", system_clock())).state.following())
    finally:
        await signals.close()


async def test_what_it_accepts_is_in_lake_and_signals_and_counted_in_its_log(
    place: Place, function: Environment
) -> None:
    sent = [follow(f"c{number}") for number in range(WARM + 1)]
    cold, *warm = [function.invoke(events(one)) for one in sent]
    assert [body_of(answer.body)["accepted"] for answer in (cold, *warm)] == [1] * len(sent)
    refused = function.invoke(events(BAD))
    assert refused.body["statusCode"] == 422
    median = statistics.median(answer.ms for answer in warm)
    sys.stdout.write(f"\nfirst invocation {cold.ms:.0f} ms; {WARM} more, thawed each time, median {median:.0f} ms\n")

    await eventually(lambda: landed(place) == {one["event_id"] for one in sent}, within_s=60)
    assert await follows(place) == {one["creator_id"] for one in sent}
    assert len(mirrored(place).list("rejected")) == 1
    lines = [line for line in function.log() if "_aws" in line]
    assert len(lines) == len(sent) + 1
    assert sum(line.get("events_accepted", 0) for line in lines) == len(sent)
    assert lines[-1]["events_rejected_by_code"] == {"missing_field": 1}


@pytest.mark.parametrize("how", ["close_all", "reset_all", "silence_all"])
async def test_connections_that_died_while_it_was_frozen_cost_no_request(
    place: Place, function: Environment, relay: Relay, how: str
) -> None:
    assert function.invoke(events(follow("before"), BAD)).body["statusCode"] == 202
    assert getattr(relay, how)() >= 3, "to Firehose, S3 and DynamoDB"
    answer = function.invoke(events(follow("after"), BAD))
    sys.stdout.write(f"\nafter {how} {answer.ms:.0f} ms\n")
    assert answer.body["statusCode"] == 202
    assert await follows(place) == {"before", "after"}
    # Refused events get no second try: where the store is silent they are dropped, and counted.
    warned = {line["logger"] for line in function.log() if line.get("level") in ("error", "warning")}
    assert warned <= ({"ingest_api.rejected"} if how == "silence_all" else set())


async def test_a_restored_snapshot_opens_everything_anew(
    place: Place, environ: dict[str, str], relay: Relay, tmp_path: Path
) -> None:
    with environment(HANDLER, tmp_path, environ, snap_start=True) as function:
        assert relay.silence_all() >= 2, "to Firehose and DynamoDB, opened by the import"
        function.restore()
        answer = function.invoke(events(follow("after"), BAD))
        assert answer.body["statusCode"] == 202
        assert answer.ms < 2_000, "no call waited on a connection of the snapshot"
        opened = [line for line in function.log() if line.get("message") == "settings that apply"]
        assert len(opened) == 2
    assert await follows(place) == {"after"}


async def test_an_outage_is_a_503_and_the_same_request_is_taken_after_it(
    place: Place, function: Environment, relay: Relay
) -> None:
    assert function.invoke(events(follow("before"))).body["statusCode"] == 202
    relay.open = False
    relay.close_all()
    again = events(follow("during"))
    answer = function.invoke(again)
    assert (answer.outcome, answer.body["statusCode"]) == ("response", 503)
    assert int(answer.body["headers"]["retry-after"]) >= 1
    relay.open = True
    assert body_of(function.invoke(again).body)["accepted"] == 1
    assert await follows(place) == {"before", "during"}


async def test_sigterm_ends_it_at_once_and_what_it_acknowledged_is_in_the_lake(
    place: Place, function: Environment
) -> None:
    sent = [follow("last"), follow("one")]
    assert body_of(function.invoke(events(*sent)).body)["accepted"] == 2
    assert function.terminate() == -15
    await eventually(lambda: landed(place) == {one["event_id"] for one in sent}, within_s=60)


@pytest.mark.parametrize("attempt", range(rounds(3, full=20)))
def test_a_cold_start_of_256_mb_is_a_202(environ: dict[str, str], tmp_path: Path, attempt: int) -> None:
    """With the CPU that Lambda gives it. The import has 10 s; most of the work is done there."""
    with environment(HANDLER, tmp_path, environ, memory_mb=256, init_s=INIT_S) as function:
        answer = function.invoke(events(follow(f"c{attempt}")))
        share = function.init_cpu_ms / (function.init_cpu_ms + answer.cpu_ms)
        sys.stdout.write(
            f"\nimport {function.init_ms:,.0f} ms ({function.init_cpu_ms:,.0f} ms CPU, {share:.0%} of the cold start), "
            f"first invocation {answer.ms:,.0f} ms\n"
        )
        assert answer.body["statusCode"] == 202
        assert share >= 0.8


async def test_a_tick_reads_what_landed_and_writes_snapshot_and_packets(
    place: Place, environ: dict[str, str], tmp_path: Path
) -> None:
    """Its home is empty, and gone after each invocation."""
    home = tmp_path / "home"
    urls = {
        "PINGFEED_ARTIFACTS_URL": f"s3://{place.aws}/artifacts",
        "PINGFEED_CANDIDATES_URL": f"dynamodb://{place.table}",
        "PINGFEED_HOME": str(home),
    }
    if "lease_url" in SCHEMES:
        urls["PINGFEED_LEASE_URL"] = f"dynamodb://{place.table}"
    created = {"event_type": "ping_created", "ping_id": "p1", "creator_id": "c1"}
    liked = {"event_type": "like", "user_id": "ann", "ping_id": "p1"}
    with environment(HANDLER, tmp_path, environ) as function:
        assert function.invoke(events(created, liked)).body["statusCode"] == 202
    await eventually(lambda: len(landed(place)) == 2, within_s=60)
    with environment("batch.lambda_handler.handler", tmp_path, environ | urls) as function:
        first = function.invoke({})
        assert (first.outcome, first.body["events"], first.body["packets"]) == ("response", 2, 1), first.body
        shutil.rmtree(home)
        again = function.invoke({"everyone": True})
        assert (again.outcome, again.body["packets"]) == ("response", 1), again.body
        assert function.invoke({"everyone": 5}).outcome == "error"
        metrics = [line for line in function.log() if "_aws" in line]
    assert [line["tick_packets"] for line in metrics] == [1, 1]
