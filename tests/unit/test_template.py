"""Rules of `deploy/template.yaml`. `make lint-template` runs linters on it, tests/real/test_deployed.py deploys it."""

import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Any, Final

import pytest

from deploy.template import QUERIES, TEMPLATE, regenerated
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals
from pingfeed.aws import KEY, TTL
from pingfeed.core.events import COLUMNS
from pingfeed.core.signals import Act
from pingfeed.settings import PREFIX, Settings, kinds, load
from tests.cloudformation import Stack
from tests.conformance.samples import NOON_MS
from tests.permissions import UNUSED
from tests.unit.fake_dynamodb import FakeDynamodb

GIVEN: Final = {
    "ImageUri": "image",
    "ApiKeyHashes": "0" * 64,
    "JwtIssuer": "https://login.example/",
    "JwtAudience": "app",
    "JwtJwks": "https://login.example/jwks.json",
    "AlarmEmail": "ops@example.org",
}
AUTHS, SIGNALS = ("api_key", "jwt", "gateway_jwt"), ("dynamodb", "valkey")
LARGEST: Final = {"Auth": "jwt", "Signals": "valkey", "DomainName": "api.example", "CertificateArn": "arn"}
"""The parameters with which most resources exist."""

COMING: Final = {"lease_url", "jwt_jwks_source", "packet_slot"} - kinds().keys()
"""Settings of the template that pingfeed does not have yet. AUTH=gateway_jwt comes with `jwt_jwks_source`."""
NOT_ON_LAMBDA: Final = {
    "spool_dir": "a function has no spool",
    "spool_max_mb": "a function has no spool",
    "sink_flush_seconds": "a function waits for no batch",
    "allow_open": "functions never run with AUTH=none",
    "jwt_secret": "it would stand in the stack's parameters; functions verify tokens with public keys",
    "jwt_algorithms": "the default fits public keys",
    "rate_burst": "the default follows the rate",
    "explore_share": "the default",
    "log_matrix_share": "the default",
    "demo_page": "for one machine",
    "demo_ingest_url": "for one machine",
    "night_hour": "the nightly job is no function",
    "label_window_hours": "of training, which is no function",
    "gate_tolerance": "of training, which is no function",
    "raw_days": "of the nightly job, which is no function",
    "rejected_days": "the bucket's lifecycle rule says it",
}
WILDCARDS: Final = {
    ("LakeBucketPolicy", "s3:*"): "denies everything without TLS",
    ("ArtifactsBucketPolicy", "s3:*"): "denies everything without TLS",
    ("LakeBucketPolicy", "LakeBucket.Arn/*"): "all objects of this one bucket",
    ("ArtifactsBucketPolicy", "ArtifactsBucket.Arn/*"): "all objects of this one bucket",
    ("FirehoseRole", "lake/events/*"): "Firehose names its objects",
    ("FirehoseRole", "lake/errors/*"): "Firehose names its objects",
    ("IngestPolicy", "lake/rejected/*"): "objects are named by day and writer",
    ("ContainerPolicy", "lake/accounts/*"): "each spool has a file named after its id",
    ("FeedPolicy", "artifacts/*"): "models, snapshots and pointers are named by digest and tick",
    ("TickPolicy", "lake/*"): "the batch side writes all of the lake",
    ("TickPolicy", "artifacts/*"): "the batch side writes all artifacts",
    ("S3Endpoint", "lake/*"): "the functions' own policies say which objects",
    ("S3Endpoint", "artifacts/*"): "the functions' own policies say which objects",
    ("IngestRole", "log-group:IngestLogs:*"): "log streams are named by Lambda",
    ("FeedRole", "log-group:FeedLogs:*"): "log streams are named by Lambda",
    ("TickRole", "log-group:TickLogs:*"): "log streams are named by Lambda",
    ("KeysRole", "log-group:KeysLogs:*"): "log streams are named by Lambda",
    ("CanaryRole", "*"): "cloudwatch:DescribeAlarms takes no resource",
    ("VpcPolicy", "*"): "Lambda makes interfaces before they have a name, and the calls that describe take no resource",
}
"""Resource and what it allows (or denies), without the names of account, region and stage -> why it ends in a star."""


def stack(**given: str) -> Stack:
    return Stack.of(TEMPLATE, **GIVEN | given)


def statements(within: Stack) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every statement of a policy, with the resource that has it; trust policies aside."""
    for name, resource in within.resources.items():
        about = resource["Properties"]
        documents = [about.get("PolicyDocument"), *(one["PolicyDocument"] for one in about.get("Policies", []))]
        for document in filter(None, documents):
            yield from ((name, statement) for statement in document["Statement"])


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def short(resource: str) -> str:
    """A resource's ARN without account, region and stage."""
    bucket = re.fullmatch(r"arn:aws:s3:::pingfeed-dev-(lake|artifacts)-000000000000-us-east-1(.*)", resource)
    if bucket:
        return bucket[1] + bucket[2]
    return resource.removeprefix("arn:aws:logs:us-east-1:000000000000:")


def variables(within: Stack, function: str = "FeedFunction") -> dict[str, str]:
    found = within.of_type("AWS::Serverless::Function")[function]["Environment"]["Variables"]
    return {name: str(value) for name, value in found.items()}


def test_generated_blocks_are_current() -> None:
    text = TEMPLATE.read_text("utf-8")
    assert regenerated(text) == text, "run `make template`"
    columns = stack().resources["EventsTable"]["Properties"]["TableInput"]["StorageDescriptor"]["Columns"]
    assert [(one["Name"], one["Type"]) for one in columns] == [(one.name, one.kind) for one in COLUMNS]
    saved = stack().of_type("AWS::Athena::NamedQuery").values()
    files = {path.stem: path.read_text("utf-8") for path in QUERIES.glob("*.sql")}
    assert {one["Name"]: one["QueryString"] for one in saved} == files
    assert sorted(files) == ["creator-exposure", "daily-engagement", "one-user", "rejected-events"]


def test_functions_have_exactly_the_variables_that_settings_reads() -> None:
    given = {name for function in ("FeedFunction", "KeysFunction") for name in variables(stack(**LARGEST), function)}
    assert all(name.startswith(PREFIX) for name in given)
    names = {name.removeprefix(PREFIX).lower() for name in given}
    assert names - kinds().keys() == COMING
    assert kinds().keys() - names == NOT_ON_LAMBDA.keys()


@pytest.mark.parametrize("signals", SIGNALS)
@pytest.mark.parametrize("auth", AUTHS)
def test_settings_accept_the_variables(auth: str, signals: str) -> None:
    made = stack(Auth=auth, Signals=signals)
    assert made.refused() == []
    given = {name: value for name, value in variables(made).items() if name.removeprefix(PREFIX).lower() not in COMING}
    environ = {
        name: re.sub(r"Cache\.\w+\.Address:Cache\.\w+\.Port", "cache:6379", value) for name, value in given.items()
    }
    if "jwt_jwks_source" in COMING:
        environ |= {f"{PREFIX}AUTH": auth.removeprefix("gateway_"), f"{PREFIX}JWT_JWKS": GIVEN["JwtJwks"]}
    settings = load(environ | {"AWS_LAMBDA_FUNCTION_NAME": "feed"})
    assert settings.auth != Settings.auth
    assert settings.events_url == "firehose://pingfeed-dev-events"
    assert settings.signals_url.startswith("rediss:" if signals == "valkey" else "dynamodb:")
    assert bool(settings.cache_url) is (signals == "valkey")
    assert not settings.operator_loopback


@pytest.mark.parametrize("auth", AUTHS)
def test_the_nightly_job_runs_elsewhere_with_the_variables_that_the_docs_name(auth: str) -> None:
    text = (TEMPLATE.parents[1] / "docs" / "aws.md").read_text("utf-8")
    left_out = re.findall(r"`(PINGFEED_\w+)`", text.partition(" except ")[2].partition(".\n")[0])
    given = variables(stack(Auth=auth), "TickFunction")
    assert load({name: value for name, value in given.items() if name not in left_out}).lake_url.startswith("s3://")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ImageUri": ""}, "Compute=lambda needs ImageUri, the tick's image"),
        ({"ApiKeyHashes": ""}, "Auth=api_key needs ApiKeyHashes"),
        ({"Auth": "gateway_jwt", "JwtAudience": ""}, "Auth=jwt and Auth=gateway_jwt need JwtIssuer and JwtAudience"),
        ({"Auth": "jwt", "JwtJwks": ""}, "Auth=jwt needs JwtJwks"),
        ({"DomainName": "api.example"}, "DomainName needs CertificateArn"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(changes: dict[str, str], sentence: str) -> None:
    assert stack(**changes).refused() == [sentence]


def test_auth_none_cannot_be_chosen() -> None:
    assert stack().template["Parameters"]["Auth"]["AllowedValues"] == list(AUTHS)


def test_each_wildcard_has_a_reason() -> None:
    found = set()
    all_of_them = [LARGEST | {"Auth": auth, "Signals": signals} for auth, signals in product(AUTHS, SIGNALS)]
    for parameters in [*all_of_them, {"Compute": "none"}]:
        for name, statement in statements(stack(**parameters)):
            values = [*listed(statement["Action"]), *map(short, listed(statement["Resource"]))]
            found |= {(name, value) for value in values if "*" in value}
    assert found == WILDCARDS.keys()


def test_nothing_is_public() -> None:
    made = stack(**LARGEST)
    buckets = made.of_type("AWS::S3::Bucket")
    assert len(buckets) == 2
    for bucket in buckets.values():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
        assert len(bucket["PublicAccessBlockConfiguration"]) == 4
        assert bucket["BucketEncryption"]
        assert not {"AccessControl", "WebsiteConfiguration"} & bucket.keys()
    for policy in made.of_type("AWS::S3::BucketPolicy").values():
        (statement,) = policy["PolicyDocument"]["Statement"]
        assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert len(made.of_type("AWS::S3::BucketPolicy")) == 2
    assert not made.of_type("AWS::Lambda::Url")
    for function in made.of_type("AWS::Serverless::Function").values():
        assert not {"FunctionUrlConfig", "Events"} & function.keys()
    for permission in made.of_type("AWS::Lambda::Permission").values():
        assert permission["Principal"] == "apigateway.amazonaws.com"
        assert permission["SourceArn"] == "arn:aws:execute-api:us-east-1:000000000000:Api/*"
    assert not made.of_type("AWS::EC2::InternetGateway")
    assert not made.of_type("AWS::EC2::NatGateway")
    assert all(subnet["MapPublicIpOnLaunch"] is False for subnet in made.of_type("AWS::EC2::Subnet").values())


def test_a_service_of_aws_assumes_a_role_for_this_account_only() -> None:
    for name, role in stack(**LARGEST).of_type("AWS::IAM::Role").items():
        (trusted,) = role["AssumeRolePolicyDocument"]["Statement"]
        service = trusted["Principal"]["Service"]
        # Lambda and CodeDeploy assume roles only for resources of the role's own account.
        own = service in ("lambda.amazonaws.com", "codedeploy.amazonaws.com")
        assert own or trusted["Condition"] == {"StringEquals": {"aws:SourceAccount": "000000000000"}}, name


def test_a_role_that_reads_objects_may_list_the_bucket() -> None:
    """An absent key is a 404 only then; otherwise S3 answers 403."""
    made = stack(**LARGEST)
    lists = {
        (name, resource)
        for name, one in statements(made)
        if "s3:ListBucket" in listed(one["Action"])
        for resource in listed(one["Resource"])
    }
    reads = {
        (name, resource.partition("/")[0])
        for name, one in statements(made)
        if "s3:GetObject" in listed(one["Action"])
        for resource in listed(one["Resource"])
    }
    assert reads
    assert reads <= lists


def test_reasons_for_unused_permissions_are_about_granted_ones() -> None:
    """tests/real/test_deployed.py shows that all others are used."""
    for policy, reasons in UNUSED.items():
        granted = {action for name, one in statements(stack()) if name == policy for action in listed(one["Action"])}
        assert reasons.keys() <= granted


async def test_services_may_make_every_call_that_signals_need(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    """Also those of a user with so many decisions that they no longer fit into one item."""
    for first in (0, 500, 1000):
        await signals.apply([Act("ann", "follow", f"c{n}", NOON_MS + n) for n in range(first, first + 500)])
    await signals.read("ann", NOON_MS)
    calls = {"dynamodb:" + "".join(map(str.capitalize, name.split("_"))) for name, _ in fake.calls}
    assert "dynamodb:DeleteItem" in calls
    for policy in ("IngestPolicy", "FeedPolicy"):
        assert calls <= {
            action for name, one in statements(stack()) if name == policy for action in listed(one["Action"])
        }


def test_a_tick_runs_every_15_minutes() -> None:
    schedule = stack().of_type("AWS::Scheduler::Schedule")["TickSchedule"]
    assert (schedule["ScheduleExpression"], schedule["ScheduleExpressionTimezone"]) == ("cron(0/15 * * * ? *)", "UTC")
    assert (schedule.get("State", "ENABLED"), schedule["Target"]["Arn"]) == (
        "ENABLED",
        "TickAlias",
    )
    assert variables(stack(), "TickFunction")[f"{PREFIX}TICK_MINUTES"] == "15"
    minutes = stack().template["Parameters"]["TickMinutes"]["AllowedValues"]
    assert {str(one): 60 * one for one in minutes} == stack().template["Mappings"]["Seconds"]["Tick"]
    assert all(60 % one == 0 and 1440 % one == 0 for one in minutes)


def test_objects_expire_or_move_as_they_should() -> None:
    buckets = stack().of_type("AWS::S3::Bucket")
    lake = {rule.get("Prefix"): rule for rule in buckets["LakeBucket"]["LifecycleConfiguration"]["Rules"]}
    assert lake["events/"]["Transitions"] == [{"StorageClass": "GLACIER_IR", "TransitionInDays": 90}]
    assert lake["events/"]["ObjectSizeGreaterThan"] == str((128 << 10) - 1)
    assert {prefix: rule["ExpirationInDays"] for prefix, rule in lake.items() if "ExpirationInDays" in rule} == {
        "rejected/": 30,
        "quarantine/": 30,
        "athena/": 7,
    }
    assert "VersioningConfiguration" not in buckets["LakeBucket"], "an old version would keep a forgotten user"
    artifacts = buckets["ArtifactsBucket"]
    assert artifacts["VersioningConfiguration"] == {"Status": "Enabled"}
    assert {"NoncurrentDays": 30} in [
        one.get("NoncurrentVersionExpiration") for one in artifacts["LifecycleConfiguration"]["Rules"]
    ]


def test_partitions_are_projected_as_firehose_writes_them() -> None:
    resources = stack().resources
    events = resources["EventsTable"]["Properties"]["TableInput"]
    projection = events["Parameters"]
    assert projection["projection.enabled"] == "true"
    template = projection["storage.location.template"]
    folder = "year=${year}/month=${month}/day=${day}/"
    assert template == "s3://pingfeed-dev-lake-000000000000-us-east-1/events/" + folder
    assert [key["Name"] for key in events["PartitionKeys"]] == re.findall(r"\$\{(\w+)\}", template)
    assert {name: projection[f"projection.{name}.digits"] for name in ("month", "day")} == {"month": "2", "day": "2"}
    target = resources["Stream"]["Properties"]["ExtendedS3DestinationConfiguration"]
    written = dict(zip(("yyyy", "MM", "dd"), ("${year}", "${month}", "${day}"), strict=True))
    prefix = re.sub(r"!\{timestamp:(\w+)\}", lambda found: written[found[1]], target["Prefix"])
    assert prefix == "events/" + folder
    assert target["BufferingHints"]["IntervalInSeconds"] == 300
    assert target["DataFormatConversionConfiguration"]["Enabled"] is True
    assert target["CloudWatchLoggingOptions"]["Enabled"] is True


def test_the_table_is_the_one_that_the_adapters_use() -> None:
    table = stack().resources["Table"]["Properties"]
    assert table["KeySchema"] == [{"AttributeName": KEY, "KeyType": "HASH"}]
    assert table["TimeToLiveSpecification"] == {"AttributeName": TTL, "Enabled": True}
    assert (table["BillingMode"], table["DeletionProtectionEnabled"]) == ("PAY_PER_REQUEST", True)
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": "false"}


def test_data_outlives_the_stack_and_a_new_one_takes_it_over() -> None:
    data = {"LakeBucket", "LakeBucketPolicy", "ArtifactsBucket", "ArtifactsBucketPolicy", "Table"}
    resources = stack().resources
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    assert kept == data == {name for name, one in resources.items() if one.get("UpdateReplacePolicy") == "Retain"}
    taken = stack(TakeOver="yes")
    assert resources.keys() - taken.resources.keys() == data
    bodies = json.dumps([one["Properties"] for one in taken.resources.values()])
    assert not any(f'"{name}"' in bodies or f"{name}.Arn" in bodies for name in data), "refers to what is not created"
    assert taken.resolved(taken.template["Outputs"]["LakeBucket"]["Value"]).startswith("pingfeed-dev-lake-")


def test_without_compute_there_is_no_function_and_no_api() -> None:
    made = stack(Compute="none", ImageUri="", ApiKeyHashes="")
    assert made.refused() == []
    kinds_of = {one["Type"] for one in made.resources.values()}
    assert not [kind for kind in kinds_of if "Serverless" in kind or "Lambda" in kind or "ApiGateway" in kind]
    assert {"AWS::S3::Bucket", "AWS::DynamoDB::Table", "AWS::KinesisFirehose::DeliveryStream"} <= kinds_of
    for_roles = {"IngestPolicy", "FeedPolicy", "TickPolicy", "ContainerPolicy"}
    assert for_roles <= made.resources.keys()
    assert "ContainerPolicy" not in stack().resources


def test_emulators_are_spared_what_they_refuse() -> None:
    kinds_of = {one["Type"] for one in stack(Real="false").resources.values()}
    left_out = {
        "AWS::CodeDeploy::Application",
        "AWS::CodeDeploy::DeploymentGroup",
        "AWS::Budgets::Budget",
        "AWS::Athena::NamedQuery",
    }
    assert not kinds_of & left_out
    assert left_out <= {one["Type"] for one in stack().resources.values()}


def test_only_valkey_brings_a_vpc_and_no_way_out_of_it() -> None:
    network = ("AWS::EC2::", "AWS::ElastiCache::")
    assert not [one for one in stack().resources.values() if one["Type"].startswith(network)]
    made = stack(**LARGEST)
    assert all("VpcConfig" in made.resources[f"{name}Function"]["Properties"] for name in ("Ingest", "Feed", "Tick"))
    assert "VpcConfig" not in made.resources["KeysFunction"]["Properties"], "it fetches keys from elsewhere"
    endpoints = made.of_type("AWS::EC2::VPCEndpoint").values()
    assert sorted((one["VpcEndpointType"], one["ServiceName"].rpartition(".")[2]) for one in endpoints) == [
        ("Gateway", "dynamodb"),
        ("Gateway", "s3"),
        ("Interface", "kinesis-firehose"),
    ]


@pytest.mark.parametrize("auth", AUTHS)
def test_the_gateway_checks_tokens_of_all_routes_but_the_open_ones(auth: str) -> None:
    routes = stack(Auth=auth).of_type("AWS::ApiGatewayV2::Route").values()
    guarded = {one["RouteKey"] for one in routes if one["AuthorizationType"] == "JWT"}
    events = {f"POST {prefix}/track-event{plural}" for prefix in ("", "/ingest") for plural in ("", "s")}
    assert guarded == ({"$default", *events} if auth == "gateway_jwt" else set())
    assert {one["RouteKey"] for one in routes if one["Target"] == "integrations/IngestIntegration"} == {
        *events,
        "ANY /ingest/{proxy+}",
        "OPTIONS /track-event",
        "OPTIONS /track-events",
    }


def test_alarms_reach_the_address_and_say_what_is_wrong() -> None:
    alarms = stack(**LARGEST).of_type("AWS::CloudWatch::Alarm")
    assert all(one["AlarmActions"] == ["Alarms"] and one["AlarmDescription"] for one in alarms.values())
    assert not any(one["AlarmActions"] for one in stack(AlarmEmail="").of_type("AWS::CloudWatch::Alarm").values())
    assert {name.removesuffix("Alarm") for name in alarms} == {
        "ServerErrors",
        "Latency",
        "IngestErrors",
        "FeedErrors",
        "TickErrors",
        "KeysErrors",
        "Throttles",
        "TickMissed",
        "Degraded",
        "Freshness",
        "Delivery",
        "Conversion",
        "CacheMemory",
    }


def test_a_canary_stops_at_errors_of_its_function_and_of_the_api() -> None:
    groups = stack().of_type("AWS::CodeDeploy::DeploymentGroup")
    for name in ("Ingest", "Feed"):
        stops = [one["Name"] for one in groups[f"{name}Canary"]["AlarmConfiguration"]["Alarms"]]
        # A service that cannot start answers 500, which is no error of its function.
        assert stops == [f"{name}ErrorsAlarm", "ServerErrorsAlarm"]
        policy = stack().resources[f"{name}Alias"]["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]
        assert policy == {"ApplicationName": "Canaries", "DeploymentGroupName": f"{name}Canary"}


def test_the_dashboard_is_json_and_names_what_exists() -> None:
    body = stack().of_type("AWS::CloudWatch::Dashboard")["Dashboard"]["DashboardBody"]
    widgets = json.loads(body)["widgets"]
    assert len(widgets) == 8
    assert "${" not in body


def test_logs_do_not_stay_for_ever() -> None:
    made = stack(**LARGEST)
    assert len(made.of_type("AWS::Logs::LogGroup")) == 6
    assert all(group["RetentionInDays"] == 30 for group in made.of_type("AWS::Logs::LogGroup").values())


def test_services_wait_less_than_the_gateway_and_get_what_they_need() -> None:
    functions = stack(**LARGEST).of_type("AWS::Serverless::Function")
    assert functions["IngestFunction"]["Timeout"] == functions["FeedFunction"]["Timeout"] == 25
    assert {name: one["MemorySize"] for name, one in functions.items()} == {
        "IngestFunction": 256,
        "FeedFunction": 1024,
        "TickFunction": 2048,
        "KeysFunction": 256,
    }
    parameters = stack().template["Parameters"]
    assert (parameters["IngestMemory"]["MinValue"], parameters["FeedMemory"]["MinValue"]) == (256, 512)
    assert {name: one["SnapStart"]["ApplyOn"] for name, one in functions.items() if "SnapStart" in one} == {
        "IngestFunction": "PublishedVersions",
        "FeedFunction": "PublishedVersions",
    }


def test_a_function_with_an_alias_publishes_a_version_for_each_release() -> None:
    functions = stack(Release="0f").of_type("AWS::Serverless::Function").values()
    assert [one["AutoPublishCodeSha256"] for one in functions if "AutoPublishAlias" in one] == ["0f"] * 3


def test_a_version_can_be_pinned_while_another_is_published() -> None:
    aliases = stack(FeedVersion="7").of_type("AWS::Lambda::Alias")
    assert {name: one["FunctionVersion"] for name, one in aliases.items()} == {
        "IngestAlias": "IngestFunction.Version.Version",
        "FeedAlias": "7",
        "TickAlias": "TickFunction.Version.Version",
    }
    assert {one["Name"] for one in aliases.values()} == {"live"}
    assert not {"newest"} & {one["Name"] for one in aliases.values()}
