"""Delivery of events into the lake on AWS: the Glue table, the role and the delivery stream that uses it.

The table's columns are `events.COLUMNS`; Firehose reads JSON (OpenX) and writes Parquet by it, under

    <lake>/events/year=2026/month=11/day=22/        the UTC day of arrival at Firehose
    <lake>/errors/<kind of error>/year=.../         what did not convert; read by the nightly job

Existing resources are kept: missing columns are added, and a stream that writes elsewhere is an error.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from deploy import clients
from deploy.clients import unless
from deploy.events_table import TABLE, ensure_table
from pingfeed.aws import translated
from pingfeed.core.errors import SettingsError, Unavailable
from pingfeed.settings import stream_of

BUFFER_MB: Final = 64
"""The least that format conversion allows."""
ACTIVE_WITHIN_S: Final = 180.0
_DAY: Final = "year=!{timestamp:yyyy}/month=!{timestamp:MM}/day=!{timestamp:dd}/"
_ALLOWED: Final = {
    "bucket": ("s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"),
    "objects": ("s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"),
    "table": ("glue:GetTable", "glue:GetTableVersion", "glue:GetTableVersions"),
}


@dataclass(frozen=True)
class Layout:
    """Where a stream reads its schema and writes its objects."""

    stream: str
    bucket: str
    prefix: str
    """Of the lake in its bucket: empty, or with a slash at its end."""

    @property
    def database(self) -> str:
        """The Glue database: the stream's name in the letters that Athena takes without quotes."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.stream.lower())

    @property
    def role(self) -> str:
        """The name of the role that Firehose takes on."""
        return f"{self.stream}-firehose"[:64]


def ensure(
    stream_url: str,
    lake_url: str,
    *,
    role_arn: str | None = None,
    interval_s: int = 300,
    buffer_mb: int = BUFFER_MB,
    client: Callable[[str], Any] = clients.client,
    pause: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Make what is missing of database, table, role and stream; a sentence for each thing made, none if all was there.

    The lake's bucket must be there. `role_arn` names a role that may do what `_policy` lists; without it one is made.
    An object is written when `buffer_mb` (64 to 128) have come or `interval_s` (up to 900) have passed; objects under
    128 KB never move to colder storage. Returns when the stream is active. Raises SettingsError, Unavailable.
    """
    layout = _layout(stream_url, lake_url)
    with translated("AWS"):
        glue, iam, firehose = client("glue"), client("iam"), client("firehose")
    said = ensure_table(glue, layout.database, f"s3://{layout.bucket}/{layout.prefix}events/")
    if _described(firehose, layout) is None:
        if role_arn is None:
            role_arn, made = _ensure_role(iam, layout)
            said += made
        _create_stream(firehose, layout, _destination(layout, role_arn, interval_s, buffer_mb), pause)
        said.append(f"Made the delivery stream {layout.stream}, which writes to s3://{layout.bucket}/{layout.prefix}.")
    _check_destination(_until_active(firehose, layout, pause), layout)
    return said


def _layout(stream_url: str, lake_url: str) -> Layout:
    split = urlsplit(lake_url)
    if split.scheme != "s3" or not split.netloc:
        raise SettingsError(
            "PINGFEED_LAKE_URL must be like s3://bucket/prefix where PINGFEED_EVENTS_URL is a stream of Firehose",
            field="PINGFEED_LAKE_URL",
        )
    prefix = split.path.strip("/")
    return Layout(stream_of(stream_url), split.netloc, f"{prefix}/" if prefix else "")


def _ensure_role(iam: Any, layout: Layout) -> tuple[str, list[str]]:
    """The ARN of the role that Firehose takes on, and what was made; its policy is written anew each time."""
    said = []
    with translated(f"the role {layout.role}"):
        with unless("EntityAlreadyExists"):
            iam.create_role(RoleName=layout.role, AssumeRolePolicyDocument=json.dumps(_TRUST))
            said.append(f"Made the role {layout.role}.")
        role_arn = str(iam.get_role(RoleName=layout.role)["Role"]["Arn"])
        policy = json.dumps(_policy(layout, _partition(role_arn)))
        iam.put_role_policy(RoleName=layout.role, PolicyName="deliver", PolicyDocument=policy)
        return role_arn, said


_TRUST: Final = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "firehose.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}


def _partition(role_arn: str) -> str:
    """`aws`, `aws-cn`, `aws-us-gov`: the second part of an ARN. Role, bucket and table lie in the same one."""
    return role_arn.partition(":")[2].partition(":")[0]


def _policy(layout: Layout, partition: str) -> dict[str, Any]:
    """What Firehose may do: read the one table, write to the one bucket.

    Every ARN names the role's own partition: the stream's bucket must be named exactly, and a policy may be too.
    """
    bucket, glue = _bucket_arn(layout, partition), f"arn:{partition}:glue:*:*"
    resources = {
        "bucket": [bucket],
        "objects": [f"{bucket}/{layout.prefix}*"],
        "table": [f"{glue}:catalog", f"{glue}:database/{layout.database}", f"{glue}:table/{layout.database}/{TABLE}"],
    }
    statements = [
        {"Effect": "Allow", "Action": list(actions), "Resource": resources[part]} for part, actions in _ALLOWED.items()
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def _bucket_arn(layout: Layout, partition: str) -> str:
    return f"arn:{partition}:s3:::{layout.bucket}"


def _destination(layout: Layout, role_arn: str, interval_s: int, buffer_mb: int) -> dict[str, Any]:
    return {
        "RoleARN": role_arn,
        "BucketARN": _bucket_arn(layout, _partition(role_arn)),
        "Prefix": f"{layout.prefix}events/{_DAY}",
        "ErrorOutputPrefix": f"{layout.prefix}errors/!{{firehose:error-output-type}}/{_DAY}",
        "BufferingHints": {"SizeInMBs": buffer_mb, "IntervalInSeconds": interval_s},
        "CompressionFormat": "UNCOMPRESSED",
        "DataFormatConversionConfiguration": {
            "Enabled": True,
            "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {}}},
            "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {"Compression": "SNAPPY"}}},
            "SchemaConfiguration": {
                "RoleARN": role_arn,
                "DatabaseName": layout.database,
                "TableName": TABLE,
                "VersionId": "LATEST",
            },
        },
    }


def _create_stream(
    firehose: Any, layout: Layout, destination: dict[str, Any], pause: Callable[[float], None], tries: int = 12
) -> None:
    """Create the stream; a role that was made a moment ago is not known everywhere yet."""
    with translated(f"the stream {layout.stream}"):
        for left in reversed(range(tries)):
            try:
                firehose.create_delivery_stream(
                    DeliveryStreamName=layout.stream,
                    DeliveryStreamType="DirectPut",
                    ExtendedS3DestinationConfiguration=destination,
                )
                return
            except ClientError as error:
                if not left or "assume role" not in str(error).lower():
                    raise
                pause(5)


def _described(firehose: Any, layout: Layout) -> dict[str, Any] | None:
    with translated(f"the stream {layout.stream}"), unless("ResourceNotFoundException"):
        found: dict[str, Any] = firehose.describe_delivery_stream(DeliveryStreamName=layout.stream)
        return found["DeliveryStreamDescription"]  # type: ignore[no-any-return]
    return None


def _until_active(firehose: Any, layout: Layout, pause: Callable[[float], None]) -> dict[str, Any]:
    waited = 0.0
    while True:
        found = _described(firehose, layout) or {}
        status = found.get("DeliveryStreamStatus", "not there yet")
        if status == "ACTIVE":
            return found
        if waited >= ACTIVE_WITHIN_S or status.endswith("_FAILED"):
            raise Unavailable(f"the stream {layout.stream} is {status}")
        pause(2)
        waited += 2


def _check_destination(found: dict[str, Any], layout: Layout) -> None:
    """A stream of this name that somebody made for something else must not swallow events."""
    (there,) = (destination.get("ExtendedS3DestinationDescription", {}) for destination in found["Destinations"])
    writes = (there.get("BucketARN", "").rpartition(":")[2], there.get("Prefix"))
    if writes != (layout.bucket, f"{layout.prefix}events/{_DAY}"):
        raise SettingsError(
            f"PINGFEED_EVENTS_URL: the stream {layout.stream} is there and writes to {'/'.join(map(str, writes))}, "
            f"not to the lake s3://{layout.bucket}/{layout.prefix}",
            field="PINGFEED_EVENTS_URL",
        )
