"""Provisioning of the delivery stream, against responses that an emulator does not give."""

import json
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError

from deploy.stream import ensure
from pingfeed.core.errors import SettingsError, Unavailable
from pingfeed.core.events import COLUMNS

STREAM, LAKE = "firehose://Pingfeed-events", "s3://bucket/deep/lake/"


def aws_error(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Call")


@dataclass
class FakeAws:
    """Glue, IAM and Firehose in one: keeps what is created."""

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


def test_new_columns_are_added_to_the_table_and_none_is_removed(aws: FakeAws) -> None:
    columns = aws.table["StorageDescriptor"]["Columns"]
    aws.table["StorageDescriptor"]["Columns"] = [*columns[:-2], {"Name": "of_before", "Type": "string"}]
    (said,) = ensure_in(aws)
    assert said == "added columns to the Glue table pingfeed_events.events: interests, seq"
    names = [column["Name"] for column in aws.table["StorageDescriptor"]["Columns"]]
    assert names == [*(column.name for column in COLUMNS[:-2]), "of_before", "interests", "seq"]


def test_the_role_may_write_to_this_lake_and_read_this_table_only(aws: FakeAws) -> None:
    assert "arn:aws:s3:::bucket/deep/lake/*" in aws.policy
    assert "table/pingfeed_events/events" in aws.policy
    assert '"Resource": "*"' not in aws.policy


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
