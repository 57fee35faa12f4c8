"""What `deploy/template.yaml` deploys, used as an app uses it: through its HTTP API, with the roles that it grants.

Only AWS can show SnapStart, canaries, alarms that go off, the budget, the authorizer's RSA keys, and prices.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import boto3
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from deploy.template import QUERIES, TEMPLATE
from pingfeed.core.clock import system_clock
from pingfeed.core.ids import uuid7
from pingfeed.settings import kinds
from simulator.world import user_id
from tests.cloudformation import Stack
from tests.permissions import UNUSED
from tests.real.deployed import TICK_MS, Cloud, Stage, Town, cloud, learned_home, publishing
from tests.servers import ROOT, redis_server, running
from tests.unit.issuer import AUDIENCE, bearer, token

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not {"lease_url", "packet_slot"} <= kinds().keys(), reason="settings of the template are to come"
    ),
    pytest.mark.skipif(not (ROOT / "feed_api" / "lambda_handler.py").exists(), reason="the feed is no function yet"),
]
USER: Final = user_id(1)
CERTIFICATE: Final = "arn:aws:acm:us-east-1:000000000000:certificate/00000000-0000-0000-0000-000000000000"
INSIDE_ANOTHER: Final = {"AWS::ApiGatewayV2::Stage", "AWS::Glue::Table", "AWS::Logs::LogStream"}
"""Types of resources whose name is one within another resource."""


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with cloud(tmp_path_factory.mktemp("cloud")) as made:
        yield made


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned_home(tmp_path_factory.mktemp("learned"))


@pytest.fixture(scope="module")
def town(account: Cloud, learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Town:
    stage = account.stage()
    stage.deploy()
    town = Town(stage, tmp_path_factory.mktemp("tmp"))
    town.settle(learned)
    return town


def act(event_type: str, **fields: Any) -> dict[str, Any]:
    return {"event_type": event_type, "event_id": uuid7(system_clock()), "user_id": USER, **fields}


def today() -> str:
    return f"{datetime.now(UTC):year=%Y/month=%m/day=%d}"


def landed(stage: Stage, day: str = "") -> list[dict[str, Any]]:
    """The events that Firehose has written, or all of a day."""
    keys = [key for key in stage.objects(stage.lake, f"events/{day}") if day or "history-" not in key]
    bodies = [stage.cloud.s3.get_object(Bucket=stage.lake, Key=key)["Body"].read() for key in keys]
    return [row for body in bodies for row in pq.read_table(BytesIO(body)).to_pylist()]


def found(stage: Stage, **fields: Any) -> list[dict[str, Any]]:
    """The landed events with these values, once there are any."""
    deadline = time.monotonic() + 30
    while not (rows := [row for row in landed(stage) if fields.items() <= row.items()]):
        assert time.monotonic() < deadline, f"no event with {fields} has landed"
        time.sleep(0.1)
    return rows


def query(name: str, *values: str) -> str:
    text = (QUERIES / f"{name}.sql").read_text("utf-8")
    for value in values:
        text = text.replace("?", f"'{value}'", 1)
    return text


def test_a_post_lands_as_parquet_by_day(town: Town) -> None:
    sent = act("view", ping_id="p1", watch_time_ratio=0.5)
    town.stage.post(sent)
    (row,) = found(town.stage, event_id=sent["event_id"])
    assert (row["user_id"], row["watch_time_ratio"]) == (USER, 0.5)
    keys = town.stage.objects(town.stage.lake, f"events/{today()}/pingfeed-dev-events-")
    assert keys
    refused = town.stage.web.post("/track-events", json={"events": [act("like")]})
    assert refused.status_code == 422
    assert town.stage.objects(town.stage.lake, "rejected/day=")


def test_an_event_through_each_path_of_ingest_is_accepted(town: Town) -> None:
    assert town.stage.post(act("like", ping_id="p1"), path="/ingest/track-events")["accepted"] == 1
    for path in ("/track-event", "/ingest/track-event"):
        answer = town.stage.web.post(path, json=act("like", ping_id="p1"))
        assert (answer.status_code, answer.json()["accepted"]) == (202, 1), path


def test_callers_without_a_key_are_refused(town: Town) -> None:
    for method, path in (("POST", "/track-events"), ("POST", "/ingest/track-events"), ("GET", "/get-feed")):
        answer = town.stage.web.request(method, path, headers={"Authorization": ""}, params={"user_id": USER})
        assert answer.status_code == 401, path


def test_health_and_documentation_are_open(town: Town) -> None:
    for prefix, title in (("", "feed"), ("/ingest", "ingest")):
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            answer = town.stage.web.get(prefix + path, headers={"Authorization": ""})
            assert answer.status_code == 200, prefix + path
        assert title in answer.json()["info"]["title"].lower()


def test_the_feed_is_ranked_by_the_model_and_logged(town: Town) -> None:
    page = town.stage.feed(USER)
    assert len({item["ping_id"] for item in page["items"]}) == 10
    assert page["model_id"] is not None
    assert page["degraded"] == []
    assert page["tick_ms"] >= system_clock() - 2 * TICK_MS
    (row,) = found(town.stage, event_type="feed_served", request_id=page["request_id"])
    assert row["served_pings"] == [item["ping_id"] for item in page["items"]]
    assert row["model_id"] == page["model_id"]


def test_alarms_watch_what_the_feed_reports(town: Town) -> None:
    """The dimension is the function's name: another stage of the account has alarms of its own."""
    town.stage.feed(USER)
    (line, *_) = [one for one in town.stage.log("feed") if "feed_answers" in one]
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert "feed_answers" in {one["Name"] for one in directive["Metrics"]}
    alarm = Stack.of(TEMPLATE).of_type("AWS::CloudWatch::Alarm")["DegradedAlarm"]
    for metric in (one["MetricStat"]["Metric"] for one in alarm["Metrics"] if "MetricStat" in one):
        assert metric["MetricName"] in ("feed_answers", "feed_incomplete")
        assert metric["Namespace"] == directive["Namespace"]
        (dimension,) = metric["Dimensions"]
        assert [[dimension["Name"]]] == directive["Dimensions"]
        assert (dimension["Value"], line[dimension["Name"]]) == ("FeedFunction", "pingfeed-dev-feed")


def test_a_hide_shows_in_the_next_feed(town: Town) -> None:
    hidden = town.stage.feed(USER, limit=50)["items"][0]["ping_id"]
    town.stage.post(act("hide", ping_id=hidden))
    assert hidden not in {item["ping_id"] for item in town.stage.feed(USER, limit=50)["items"]}


def test_a_tick_writes_packets_and_a_snapshot(town: Town) -> None:
    town.stage.post(act("like", ping_id=town.stage.feed(USER)["items"][0]["ping_id"]))
    done = town.tick()
    assert done["events"] >= 1
    assert done["packets"] >= 1
    assert f"snapshots/{done['tick']}/snapshot.bin" in town.stage.objects(town.stage.artifacts, "snapshots/")


def test_saved_queries_give_the_expected_rows(town: Town) -> None:
    sent = act("comment", user_id="user-of-queries", ping_id="p9")
    town.stage.post(sent)
    found(town.stage, event_id=sent["event_id"])
    # What Firehose writes twice counts once.
    for key in town.stage.objects(town.stage.lake, f"events/{today()}/pingfeed-dev-"):
        town.stage.cloud.s3.copy_object(
            Bucket=town.stage.lake, Key=f"{key}-again", CopySource=f"{town.stage.lake}/{key}"
        )
    day = town.stage.asked(query("daily-engagement"))[-1]
    assert day["day"] == f"{datetime.now(UTC):%Y-%m-%d}"
    rows = {(row["user_id"], row["event_id"]): row for row in landed(town.stage, today())}.values()
    for column, event_type in (("comments", "comment"), ("likes", "like"), ("feeds", "feed_served"), ("hides", "hide")):
        assert int(day[column]) == sum(row["event_type"] == event_type for row in rows), column
    assert int(day["users"]) == len({row["user_id"] for row in rows if row["user_id"]})

    exposure = town.stage.asked(query("creator-exposure"))
    assert sum(float(row["percent_of_places"]) for row in exposure) == pytest.approx(100, abs=1)
    assert exposure[0]["creator_id"].startswith("creator-")

    (mine,) = town.stage.asked(query("one-user", "user-of-queries"))
    assert (mine["event_type"], mine["ping_id"], mine["event_id"]) == ("comment", "p9", sent["event_id"])

    town.stage.web.post("/track-events", json={"events": [act("like")]})
    reasons = {(row["code"], row["field"]): row for row in town.stage.asked(query("rejected-events"))}
    assert reasons["missing_field", "ping_id"]["example"] == "ping_id is required"


def test_buckets_refuse_calls_without_tls(town: Town) -> None:
    s3, given = boto3.client("s3"), town.stage.credentials("tick")
    for bucket in (town.stage.lake, town.stage.artifacts):
        s3.put_bucket_policy(Bucket=bucket, Policy=town.stage.tls_only[bucket])
        with pytest.raises(ClientError, match="AccessDenied"):
            boto3.Session(*given.values()).client("s3").put_object(Bucket=bucket, Key="x", Body=b"")
        s3.delete_bucket_policy(Bucket=bucket)


def test_a_new_column_keeps_the_projection_and_the_old_rows(town: Town) -> None:
    glue = boto3.client("glue")
    before = glue.get_table(DatabaseName="pingfeed_dev", Name="events")["Table"]
    count = "SELECT count(*) AS rows FROM events"
    (before_it,) = town.stage.asked(count)
    mark = "            # end of generated: columns"
    text = TEMPLATE.read_text("utf-8")
    town.stage.deploy(text.replace(mark, f'            - {{Name: mood, Type: "string"}}\n{mark}'))
    after = glue.get_table(DatabaseName="pingfeed_dev", Name="events")["Table"]
    assert after["Parameters"] == before["Parameters"]
    assert after["Parameters"]["projection.enabled"] == "true"
    columns = after["StorageDescriptor"]["Columns"]
    assert [one["Name"] for one in columns] == [
        *(one["Name"] for one in before["StorageDescriptor"]["Columns"]),
        "mood",
    ]
    record = {"Data": json.dumps({"event_id": "mooded", "mood": "good"}).encode()}
    answer = boto3.client("firehose").put_record_batch(DeliveryStreamName="pingfeed-dev-events", Records=[record])
    assert answer["FailedPutCount"] == 0
    found(town.stage, event_id="mooded", mood="good")
    assert town.stage.asked("SELECT mood FROM events WHERE event_id = 'mooded'") == [{"mood": "good"}]
    (after_it,) = town.stage.asked(count)
    assert int(after_it["rows"]) == int(before_it["rows"]) + 1


def test_a_second_stage_touches_nothing_of_the_first(town: Town) -> None:
    first, second = town.stage, town.stage.cloud.stage("two")
    before = first.resources(), contents(first)
    second.deploy()
    shared = set(first.resources().values()) & set(second.resources().values())
    assert {kind for kind, _ in shared} == INSIDE_ANOTHER
    second.post(act("follow", creator_id="creator-0001"))
    assert second.feed(USER)["items"] == [], "its catalogue is empty"
    assert (first.resources(), contents(first)) == before
    second.delete()
    assert (first.resources(), contents(first)) == before
    assert len(first.feed(USER)["items"]) == 10


def contents(stage: Stage) -> Any:
    """Everything that is stored in a stage."""
    items = boto3.client("dynamodb").scan(TableName=stage.stack)["Items"]
    return stage.objects(stage.lake), stage.objects(stage.artifacts), items


def test_delete_keeps_the_data_and_a_new_deployment_takes_it_over(town: Town) -> None:
    stage = town.stage
    hidden = stage.feed(USER, limit=50)["items"][0]["ping_id"]
    stage.post(act("hide", ping_id=hidden))
    kept = contents(stage)
    stage.delete()
    assert contents(stage) == kept
    stage.deploy(TakeOver="yes")
    types = {kind for kind, _ in stage.resources().values()}
    assert not types & {"AWS::S3::Bucket", "AWS::DynamoDB::Table"}
    assert contents(stage) == kept
    page = stage.feed(USER, limit=50)
    assert page["model_id"] is not None
    assert len(page["items"]) >= 10
    assert hidden not in {item["ping_id"] for item in page["items"]}
    sent = act("view", ping_id="p1", watch_time_ratio=1.0)
    stage.post(sent)
    found(stage, event_id=sent["event_id"])
    assert town.tick()["events"] >= 1


def test_roles_may_do_what_they_do_and_little_more(town: Town) -> None:
    """Runs last: MiniStack has checked what the tests before had the functions do."""
    policies = Stack.of(TEMPLATE).of_type("AWS::IAM::ManagedPolicy")
    for policy, function in (("IngestPolicy", "ingest"), ("FeedPolicy", "feed"), ("TickPolicy", "tick")):
        granted = {
            action for one in policies[policy]["PolicyDocument"]["Statement"] for action in listed(one["Action"])
        }
        session = f"pingfeed-dev-{function}"
        denied, allowed = (set(town.stage.cloud.calls(session, answer)) for answer in ("no", "yes"))
        assert denied <= ({"s3:PutObject"} if function == "tick" else set()), "only without TLS"
        assert allowed <= granted
        assert granted - allowed <= UNUSED[policy].keys(), "granted, unused, and no reason in tests/permissions.py"


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_without_compute_the_data_is_there_for_containers(account: Cloud) -> None:
    stage = account.stage("plain")
    stage.deploy(Compute="none", ImageUri="", ApiKeyHashes="")
    kinds_of = {kind for kind, _ in stage.resources().values()}
    assert not [kind for kind in kinds_of if kind.startswith(("AWS::Lambda::", "AWS::ApiGatewayV2::"))]
    record = {"Data": json.dumps({"event_id": "e1", "user_id": "ann"}).encode()}
    boto3.client("firehose").put_record_batch(DeliveryStreamName=stage.outputs["Stream"], Records=[record])
    found(stage, event_id="e1")


def test_the_gateway_checks_tokens_and_a_user_speaks_only_for_itself(account: Cloud, issuer: str) -> None:
    stage = account.stage("jwt")
    domain = {"DomainName": "api.example", "BasePath": "v1", "CertificateArn": CERTIFICATE}
    stage.deploy(Auth="gateway_jwt", JwtIssuer=issuer, JwtAudience=AUDIENCE, **domain)
    mine, body = bearer(token(USER, iss=issuer)), {"events": [act("follow", creator_id="c1")]}
    for headers in ({"Authorization": ""}, bearer(token(USER, iss="https://other.example"))):
        for path in ("/track-events", "/ingest/track-events"):
            assert stage.web.post(path, json=body, headers=headers).status_code == 401
        assert stage.web.get("/get-feed", params={"user_id": USER}, headers=headers).status_code == 401
    for path in ("/docs", "/healthz", "/ingest/docs", "/ingest/healthz"):
        assert stage.web.get(path, headers={"Authorization": ""}).status_code == 200
        assert stage.web.head(path, headers={"Authorization": ""}).status_code == 200
    assert stage.web.post("/track-events", json=body, headers=mine).status_code == 202
    assert stage.web.get("/get-feed", params={"user_id": USER}, headers=mine).status_code == 200
    assert stage.web.get("/get-feed", params={"user_id": "someone-else"}, headers=mine).status_code == 403
    assert stage.outputs["ApiUrl"] == "https://api.example/v1"
    at_domain = {"Host": "api.example", **mine}
    for path in ("/v1/get-feed", "/v1/docs", "/v1/ingest/docs", "/v1/ingest/healthz"):
        assert stage.web.get(path, params={"user_id": USER}, headers=at_domain).status_code == 200, path
    theirs = {"events": [act("follow", creator_id="c1", user_id="someone-else")]}
    assert stage.web.post("/track-events", json=theirs, headers=mine).status_code in (403, 422)


@pytest.fixture
def issuer() -> Iterator[str]:
    """The address of a login server that publishes its keys."""
    with publishing() as url:
        yield url


def test_with_valkey_a_cached_user_costs_no_read_of_the_table_and_nothing_connects_outside(
    learned: Path, tmp_path: Path, issuer: str
) -> None:
    """Only AWS has the VPC. Here the functions' connections show that its endpoints are enough."""
    # This cache and this login server speak no TLS.
    template = TEMPLATE.read_text("utf-8").replace("rediss://", "redis://").replace("^(https:", "^(https?:")
    with (
        running(redis_server(tmp_path / "redis")) as redis,
        cloud(tmp_path / "cloud", REDIS_HOST="127.0.0.1", REDIS_PORT=str(redis.port)) as account,
    ):
        stage = account.stage()
        tokens = {"Auth": "jwt", "JwtIssuer": issuer, "JwtAudience": AUDIENCE, "JwtJwks": f"{issuer}/jwks.json"}
        stage.deploy(template, Signals="valkey", **tokens)
        assert f"redis://127.0.0.1:{redis.port}" in stage.variables("feed").values()
        boto3.client("lambda").invoke(FunctionName="pingfeed-dev-keys")
        assert list(stage.objects(stage.artifacts)) == ["auth/jwks.json"]
        stage.web.headers.update(bearer(token(USER, iss=issuer)))
        Town(stage, tmp_path).settle(learned)
        first = stage.feed(USER)
        assert (first["degraded"], first["model_id"] is None) == ([], False)
        hidden = first["items"][0]["ping_id"]
        stage.post(act("hide", ping_id=hidden))
        before = len(account.calls("pingfeed-dev-feed"))
        page = stage.feed(USER, limit=50)
        assert page["degraded"] == []
        assert hidden not in {item["ping_id"] for item in page["items"]}
        calls = account.calls("pingfeed-dev-feed")[before:]
        assert not [action for action in calls if action.startswith("dynamodb:")]
        sessions = [f"pingfeed-dev-{name}" for name in ("ingest", "feed", "tick")]
        services = {action.partition(":")[0] for session in sessions for action in account.calls(session)}
        endpoints = Stack.of(TEMPLATE, Signals="valkey").of_type("AWS::EC2::VPCEndpoint").values()
        assert services <= {one["ServiceName"].rpartition(".")[2].removeprefix("kinesis-") for one in endpoints}
        ports = account.peers()
        assert redis.port in ports
        assert ports <= {redis.port, account.server.port}
