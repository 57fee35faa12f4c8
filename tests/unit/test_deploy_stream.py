"""Provisioning of the delivery stream, against responses that an emulator does not give."""

import copy
import json
import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError

from deploy.stream import ensure, flaws
from pingfeed.core.errors import SettingsError, Unavailable
from pingfeed.core.events import COLUMNS

STREAM, LAKE = "firehose://Pingfeed-events", "s3://bucket/deep/lake/"


def aws_error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Call")


@dataclass
class FakeAws:
    """Glue, IAM, STS and Firehose in one: keeps what is created."""

    region: str = "eu-west-1"
    statuses: list[str] = field(default_factory=lambda: ["ACTIVE"])
    """The status of the stream on each call; the last one repeats."""
    partition: str = "aws"
    role_unknown: int = 0
    """How many times creating the stream fails because the role is not known yet."""
    databases: list[str] = field(default_factory=list)
    table: dict[str, Any] = field(default_factory=dict)
    role: dict[str, Any] = field(default_factory=dict)
    policy: str = ""
    stream: dict[str, Any] = field(default_factory=dict)
    pauses: list[float] = field(default_factory=list)

    def __call__(self, service: str) -> "FakeAws":
        return self

    @property
    def meta(self) -> Any:
        return SimpleNamespace(region_name=self.region)

    def get_caller_identity(self) -> dict[str, Any]:
        return {"Account": "123456789012"}

    def create_database(self, *, DatabaseInput: dict[str, Any]) -> None:  # noqa: N803
        if self.databases:
            raise aws_error("AlreadyExistsException")
        self.databases.append(DatabaseInput["Name"])

    def create_table(self, *, DatabaseName: str, TableInput: dict[str, Any]) -> None:  # noqa: N803
        if self.table:
            raise aws_error("AlreadyExistsException")
        self.table = TableInput

    def get_table(self, **_: Any) -> dict[str, Any]:
        return {"Table": self.table}

    def update_table(self, *, DatabaseName: str, TableInput: dict[str, Any]) -> None:  # noqa: N803
        self.table = TableInput

    def create_role(self, **role: Any) -> None:
        if self.role:
            raise aws_error("EntityAlreadyExists")
        self.role = role

    def put_role_policy(self, *, PolicyDocument: str, **_: Any) -> None:  # noqa: N803
        self.policy = PolicyDocument

    def get_role(self, *, RoleName: str) -> dict[str, Any]:  # noqa: N803
        return {"Role": {"Arn": f"arn:{self.partition}:iam::1:role/{RoleName}"}}

    def create_delivery_stream(self, **stream: Any) -> None:
        if self.role_unknown:
            self.role_unknown -= 1
            raise aws_error("InvalidArgumentException", "Firehose is unable to assume role arn:aws:iam::1:role/x.")
        self.stream = stream

    def describe_delivery_stream(self, **_: Any) -> dict[str, Any]:
        if not self.stream:
            raise aws_error("ResourceNotFoundException")
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        destination = self.stream["ExtendedS3DestinationConfiguration"]
        found = {"DeliveryStreamStatus": status, "Destinations": [{"ExtendedS3DestinationDescription": destination}]}
        return {"DeliveryStreamDescription": found}


def ensure_in(aws: FakeAws, lake: str = LAKE, **options: Any) -> list[str]:
    return ensure(STREAM, lake, client=aws, pause=aws.pauses.append, **options)


def destination(aws: FakeAws) -> dict[str, Any]:
    found: dict[str, Any] = aws.stream["ExtendedS3DestinationConfiguration"]
    return found


@pytest.fixture
def aws() -> FakeAws:
    """AWS after the stream was provisioned."""
    aws = FakeAws()
    ensure_in(aws)
    return aws


def test_everything_is_created_once_with_a_sentence_each() -> None:
    aws = FakeAws()
    assert len(ensure_in(aws)) == 4
    assert ensure_in(aws) == []


def test_the_table_has_every_column_and_is_partitioned_by_the_day(aws: FakeAws) -> None:
    storage = aws.table["StorageDescriptor"]
    assert [(c["Name"], c["Type"]) for c in storage["Columns"]] == [(c.name, c.kind) for c in COLUMNS]
    assert storage["Location"] == "s3://bucket/deep/lake/events/"
    assert [key["Name"] for key in aws.table["PartitionKeys"]] == ["year", "month", "day"]
    assert aws.databases == ["pingfeed_events"]


def test_the_stream_converts_by_the_table_below_the_lakes_prefix() -> None:
    aws = FakeAws()
    ensure_in(aws, interval_s=60)
    destination = aws.stream["ExtendedS3DestinationConfiguration"]
    day = "year=!{timestamp:yyyy}/month=!{timestamp:MM}/day=!{timestamp:dd}/"
    assert destination["Prefix"] == f"deep/lake/events/{day}"
    assert destination["ErrorOutputPrefix"] == f"deep/lake/errors/!{{firehose:error-output-type}}/{day}"
    assert destination["BufferingHints"] == {"SizeInMBs": 64, "IntervalInSeconds": 60}
    assert destination["CompressionFormat"] == "UNCOMPRESSED", "conversion allows no other"
    schema = destination["DataFormatConversionConfiguration"]["SchemaConfiguration"]
    assert (schema["DatabaseName"], schema["TableName"]) == ("pingfeed_events", "events")


def test_what_the_table_lacks_is_added_and_what_was_set_by_hand_stays(aws: FakeAws) -> None:
    columns = aws.table["StorageDescriptor"]["Columns"]
    aws.table["StorageDescriptor"]["Columns"] = [*columns[:-2], {"Name": "of_before", "Type": "string"}]
    aws.table |= {"Parameters": {"by": "hand"}, "Owner": "me", "CreateTime": "not an input", "VersionId": "7"}
    assert flaws_of(aws) == ["its table pingfeed_events.events lacks interests, seq, partition projection"]
    (said,) = ensure_in(aws)
    assert said == "added to the Glue table pingfeed_events.events: interests, seq, partition projection"
    names = [column["Name"] for column in aws.table["StorageDescriptor"]["Columns"]]
    assert names == [*(column.name for column in COLUMNS[:-2]), "of_before", "interests", "seq"]
    assert {"by": "hand", "projection.enabled": "true"}.items() <= aws.table["Parameters"].items()
    assert aws.table["Owner"] == "me"
    assert not {"CreateTime", "VersionId"} & aws.table.keys()
    assert ensure_in(aws) == flaws_of(aws) == []


def test_a_new_column_keeps_a_projection_that_was_set_by_hand(aws: FakeAws) -> None:
    by_hand = {"projection.enabled": "false", "projection.year.range": "2026,2027"}
    aws.table["Parameters"] = by_hand
    aws.table["StorageDescriptor"]["Columns"].pop()
    assert ensure_in(aws) == ["added to the Glue table pingfeed_events.events: seq"]
    assert aws.table["Parameters"] == by_hand


def test_athena_finds_the_days_that_the_stream_writes(aws: FakeAws) -> None:
    parameters = aws.table["Parameters"]
    day = "year=${year}/month=${month}/day=${day}/"
    assert parameters["storage.location.template"] == f"s3://bucket/deep/lake/events/{day}"
    prefix = destination(aws)["Prefix"]
    assert re.sub(r"!{timestamp:\w+}", "", prefix) == re.sub(r"\${\w+}", "", f"deep/lake/events/{day}")
    assert (parameters["projection.month.digits"], parameters["projection.day.digits"]) == ("2", "2")


def change(aws: FakeAws, path: str, value: Any) -> None:
    """Set what a path such as "table.StorageDescriptor.Location" names."""
    first, *between, last = path.split(".")
    found = {"table": aws.table, "to": destination(aws)}[first]
    for name in between:
        found = found[name]
    found[last] = value


CONVERSION = "to.DataFormatConversionConfiguration"
WRONG = [
    ("to.BucketARN", "arn:aws:s3:::other", "writes to other/deep/lake/events"),
    ("to.Prefix", "raw/", "writes to bucket/raw/, not to the lake s3://bucket/deep/lake/"),
    (f"{CONVERSION}.Enabled", False, "does not convert events to Parquet"),
    (CONVERSION, None, "does not convert events to Parquet"),
    ("to.BufferingHints", {"SizeInMBs": 64, "IntervalInSeconds": 900}, "buffers 64 MB or 900 s, not 64 MB or 300 s"),
    ("table.StorageDescriptor.Location", "s3://bucket/old/", "lies at s3://bucket/old/, not at s3://bucket/deep"),
    ("table.PartitionKeys", [{"Name": "day", "Type": "string"}], "is not partitioned by year, month, day"),
    ("table.StorageDescriptor.SerdeInfo", {"SerializationLibrary": "json"}, "is not a table of Parquet files"),
    ("table.StorageDescriptor.Columns", [{"Name": "seq", "Type": "string"}], "of another type: seq string instead of"),
]


@pytest.mark.parametrize(("path", "value", "said"), WRONG)
def test_an_existing_thing_of_another_shape_is_rejected_unchanged_and_reported(
    aws: FakeAws, path: str, value: Any, said: str
) -> None:
    change(aws, path, value)
    before = copy.deepcopy((aws.table, aws.stream, aws.policy))
    assert any(said in flaw for flaw in flaws_of(aws))
    with pytest.raises(SettingsError, match=r"PINGFEED_EVENTS_URL: the .* exists and") as caught:
        ensure_in(aws)
    assert said in caught.value.message
    assert (aws.table, aws.stream, aws.policy) == before


def test_a_stream_that_converts_by_another_table_is_rejected_but_no_drift(aws: FakeAws) -> None:
    change(aws, f"{CONVERSION}.SchemaConfiguration.DatabaseName", "pingfeed_dev")
    with pytest.raises(SettingsError, match=r"by the Glue table pingfeed_dev.events, not by pingfeed_events.events"):
        ensure_in(aws)
    assert flaws_of(aws) == []


def flaws_of(aws: FakeAws) -> list[str]:
    return flaws(STREAM, LAKE, client=aws)


def test_a_stream_that_does_not_exist_is_reported() -> None:
    assert flaws_of(FakeAws()) == ["does not exist"]


def test_streams_of_two_regions_and_stages_have_a_role_each() -> None:
    roles = set()
    for region in ("eu-west-1", "us-east-1"):
        for stream in ("pingfeed-dev-events", "pingfeed-prod-events", "x" * 63 + "a", "x" * 63 + "b"):
            aws = FakeAws(region=region)
            ensure(f"firehose://{stream}", LAKE, client=aws, pause=aws.pauses.append)
            roles.add(aws.role["RoleName"])
    assert len(roles) == 8
    assert "pingfeed-dev-events-eu-west-1-firehose" in roles
    assert max(map(len, roles)) <= 64


def test_the_role_may_write_to_this_lake_and_read_this_table_only_for_streams_of_this_account(aws: FakeAws) -> None:
    assert "arn:aws:s3:::bucket/deep/lake/*" in aws.policy
    assert "arn:aws:glue:eu-west-1:123456789012:table/pingfeed_events/events" in aws.policy
    assert '"Resource": "*"' not in aws.policy
    (trust,) = json.loads(aws.role["AssumeRolePolicyDocument"])["Statement"]
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
def test_every_arn_has_the_partition_of_the_role(partition: str) -> None:
    aws = FakeAws(partition=partition)
    ensure_in(aws)
    resources = [arn for statement in json.loads(aws.policy)["Statement"] for arn in statement["Resource"]]
    destination = aws.stream["ExtendedS3DestinationConfiguration"]
    assert len(resources) == 5
    for arn in [*resources, destination["BucketARN"], destination["RoleARN"]]:
        assert arn.startswith(f"arn:{partition}:")


def test_it_waits_until_the_new_role_is_known_and_the_stream_is_active() -> None:
    aws = FakeAws(role_unknown=3, statuses=["CREATING", "CREATING", "ACTIVE"])
    ensure_in(aws)
    assert aws.stream
    assert aws.pauses == [5, 5, 5, 2, 2]


@pytest.mark.parametrize(("status", "pauses"), [("CREATING_FAILED", 0), ("CREATING", 90)])
def test_a_stream_that_does_not_become_active_is_an_error(status: str, pauses: int) -> None:
    aws = FakeAws(statuses=[status])
    with pytest.raises(Unavailable, match=f"the stream Pingfeed-events is {status}"):
        ensure_in(aws)
    assert len(aws.pauses) == pauses


@pytest.mark.parametrize(
    ("lake", "named"),
    [("s3://bucket/other", "EVENTS_URL"), ("file:///lake", "LAKE_URL"), ("s3:///prefix", "LAKE_URL")],
)
def test_a_stream_that_writes_elsewhere_and_a_lake_that_is_no_bucket_are_rejected(
    aws: FakeAws, lake: str, named: str
) -> None:
    with pytest.raises(SettingsError, match=f"PINGFEED_{named}"):
        ensure_in(aws, lake)


def test_a_missing_permission_is_reported_without_the_text_from_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    aws, denied = FakeAws(), aws_error("AccessDeniedException", "User: arn:aws:iam::1:user/secret is not authorized")
    monkeypatch.setattr(aws, "create_table", Mock(side_effect=denied))
    with pytest.raises(Unavailable, match="AccessDeniedException") as caught:
        ensure_in(aws)
    assert "secret" not in caught.value.message
