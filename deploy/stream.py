"""Delivery of events into the lake on AWS: the Glue table, the role, and the delivery stream that uses both.

Firehose reads JSON (OpenX) and writes Parquet with the columns of the table, which are `events.COLUMNS`, under

    <lake>/events/year=2026/month=11/day=22/        by UTC day of arrival at Firehose
    <lake>/errors/<kind of error>/year=.../         records that could not be converted; the nightly job reads them

Existing resources are kept. Columns that the table lacks are added; a stream that writes elsewhere is an error.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import ClientError

from deploy import clients
from deploy.clients import unless
from pingfeed.aws import Location, translated
from pingfeed.core.errors import InvalidInput, SettingsError, Unavailable
from pingfeed.core.events import COLUMNS
from pingfeed.settings import stream_of

TABLE: Final = "events"
ACTIVE_WITHIN_S: Final = 180.0
_BUFFER_MB: Final = 64
"""The minimum with format conversion."""
_DAY: Final = "year=!{timestamp:yyyy}/month=!{timestamp:MM}/day=!{timestamp:dd}/"
_PARQUET: Final = "org.apache.hadoop.hive.ql.io.parquet"
_TRUST: Final = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "firehose.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}


@dataclass(frozen=True)
class _Names:
    """The names of the resources, all derived from the stream's and the lake's."""

    stream: str
    lake: Location

    @property
    def database(self) -> str:
        """The Glue database: the stream's name in characters that Athena accepts without quotes."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.stream.lower())

    @property
    def role(self) -> str:
        """The role that Firehose assumes."""
        return f"{self.stream}-firehose"[:64]

    @property
    def lake_url(self) -> str:
        """The lake with a slash at its end."""
        return f"s3://{self.lake.bucket}/{self.lake.below('')}"

    @property
    def prefix(self) -> str:
        """The keys of the delivered objects."""
        return self.lake.below("events") + _DAY


def ensure(
    stream_url: str,
    lake_url: str,
    *,
    interval_s: int = 300,
    client: Callable[[str], Any] = clients.client,
    pause: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Create what is missing of database, table, role and stream; returns a sentence for each change.

    The lake's bucket must exist. Firehose writes an object for every 64 MB or `interval_s` (up to 900). Returns when
    the stream is active. Raises SettingsError and Unavailable.
    """
    names = _Names(stream_of(stream_url), _lake(lake_url))
    with translated("AWS"):
        glue, iam, firehose = client("glue"), client("iam"), client("firehose")
    changes = _ensure_table(glue, names)
    if _describe(firehose, names) is None:
        role_arn, created = _ensure_role(iam, names)
        _create_stream(firehose, names, _destination(names, role_arn, interval_s), pause)
        changes += [*created, f"created the delivery stream {names.stream}, which writes to {names.lake_url}"]
    _check_destination(_wait_until_active(firehose, names, pause), names)
    return changes


def _lake(url: str) -> Location:
    try:
        return Location.of(url)
    except InvalidInput as error:
        sentence = "PINGFEED_LAKE_URL must be like s3://bucket/prefix if PINGFEED_EVENTS_URL is a Firehose stream"
        raise SettingsError(sentence, field="PINGFEED_LAKE_URL") from error


def _ensure_table(glue: Any, names: _Names) -> list[str]:
    """The table of raw events, by which Firehose converts and which Athena can read. Columns are only ever added."""
    changes = []
    table = f"{names.database}.{TABLE}"
    with translated(f"the Glue database {names.database}"), unless("AlreadyExistsException"):
        glue.create_database(DatabaseInput={"Name": names.database})
        changes.append(f"created the Glue database {names.database}")
    columns = [{"Name": column.name, "Type": column.kind} for column in COLUMNS]
    with translated(f"the Glue table {table}"):
        with unless("AlreadyExistsException"):
            glue.create_table(DatabaseName=names.database, TableInput=_table(names, columns))
            return [*changes, f"created the Glue table {table} with {len(columns)} columns"]
        found = glue.get_table(DatabaseName=names.database, Name=TABLE)["Table"]["StorageDescriptor"]["Columns"]
        kept = [{"Name": column["Name"], "Type": column["Type"]} for column in found]
        known = {column["Name"] for column in kept}
        missing = [column for column in columns if column["Name"] not in known]
        if missing:
            glue.update_table(DatabaseName=names.database, TableInput=_table(names, kept + missing))
            added = ", ".join(column["Name"] for column in missing)
            changes.append(f"added columns to the Glue table {table}: {added}")
    return changes


def _table(names: _Names, columns: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "Name": TABLE,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"classification": "parquet", "EXTERNAL": "TRUE"},
        "PartitionKeys": [{"Name": name, "Type": "string"} for name in ("year", "month", "day")],
        "StorageDescriptor": {
            "Columns": columns,
            "Location": f"{names.lake_url}events/",
            "InputFormat": f"{_PARQUET}.MapredParquetInputFormat",
            "OutputFormat": f"{_PARQUET}.MapredParquetOutputFormat",
            "SerdeInfo": {"SerializationLibrary": f"{_PARQUET}.serde.ParquetHiveSerDe"},
        },
    }


def _ensure_role(iam: Any, names: _Names) -> tuple[str, list[str]]:
    """The ARN of the role that Firehose assumes, and what was created. Its policy is rewritten each time."""
    created = []
    with translated(f"the role {names.role}"):
        with unless("EntityAlreadyExists"):
            iam.create_role(RoleName=names.role, AssumeRolePolicyDocument=json.dumps(_TRUST))
            created.append(f"created the role {names.role}")
        role_arn = str(iam.get_role(RoleName=names.role)["Role"]["Arn"])
        policy = json.dumps(_policy(names, _partition(role_arn)))
        iam.put_role_policy(RoleName=names.role, PolicyName="deliver", PolicyDocument=policy)
    return role_arn, created


def _partition(role_arn: str) -> str:
    """`aws`, `aws-cn` or `aws-us-gov`, the second part of an ARN: the role, the bucket and the table share it."""
    return role_arn.split(":")[1]


def _policy(names: _Names, partition: str) -> dict[str, Any]:
    """Allow reading the one table and writing to the one bucket."""
    bucket, glue = f"arn:{partition}:s3:::{names.lake.bucket}", f"arn:{partition}:glue:*:*"
    table = [f"{glue}:catalog", f"{glue}:database/{names.database}", f"{glue}:table/{names.database}/{TABLE}"]
    allowed = (
        (("s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"), [bucket]),
        (("s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"), [f"{bucket}/{names.lake.below('')}*"]),
        (("glue:GetTable", "glue:GetTableVersion", "glue:GetTableVersions"), table),
    )
    statements = [{"Effect": "Allow", "Action": actions, "Resource": resources} for actions, resources in allowed]
    return {"Version": "2012-10-17", "Statement": statements}


def _destination(names: _Names, role_arn: str, interval_s: int) -> dict[str, Any]:
    return {
        "RoleARN": role_arn,
        "BucketARN": f"arn:{_partition(role_arn)}:s3:::{names.lake.bucket}",
        "Prefix": names.prefix,
        "ErrorOutputPrefix": f"{names.lake.below('errors')}!{{firehose:error-output-type}}/{_DAY}",
        "BufferingHints": {"SizeInMBs": _BUFFER_MB, "IntervalInSeconds": interval_s},
        "CompressionFormat": "UNCOMPRESSED",
        "DataFormatConversionConfiguration": {
            "Enabled": True,
            "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {}}},
            "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {"Compression": "SNAPPY"}}},
            "SchemaConfiguration": {
                "RoleARN": role_arn,
                "DatabaseName": names.database,
                "TableName": TABLE,
                "VersionId": "LATEST",
            },
        },
    }


def _create_stream(
    firehose: Any, names: _Names, destination: dict[str, Any], pause: Callable[[float], None], tries: int = 12
) -> None:
    """Create the stream; retries because a new role takes a while to be known everywhere."""
    with translated(f"the stream {names.stream}"):
        for left in reversed(range(tries)):
            try:
                firehose.create_delivery_stream(
                    DeliveryStreamName=names.stream,
                    DeliveryStreamType="DirectPut",
                    ExtendedS3DestinationConfiguration=destination,
                )
                return
            except ClientError as error:
                if not left or "assume role" not in str(error).lower():
                    raise
                pause(5)


def _describe(firehose: Any, names: _Names) -> dict[str, Any] | None:
    with translated(f"the stream {names.stream}"), unless("ResourceNotFoundException"):
        found: dict[str, Any] = firehose.describe_delivery_stream(DeliveryStreamName=names.stream)
        return found["DeliveryStreamDescription"]  # type: ignore[no-any-return]
    return None


def _wait_until_active(firehose: Any, names: _Names, pause: Callable[[float], None]) -> dict[str, Any]:
    waited = 0.0
    while True:
        found = _describe(firehose, names) or {}
        status = found.get("DeliveryStreamStatus", "not found yet")
        if status == "ACTIVE":
            return found
        if waited >= ACTIVE_WITHIN_S or status.endswith("_FAILED"):
            raise Unavailable(f"the stream {names.stream} is {status}")
        pause(2)
        waited += 2


def _check_destination(found: dict[str, Any], names: _Names) -> None:
    """Reject an existing stream of this name that delivers elsewhere: it would swallow the events."""
    (target,) = (destination.get("ExtendedS3DestinationDescription", {}) for destination in found["Destinations"])
    bucket, prefix = target.get("BucketARN", "").rpartition(":")[2], target.get("Prefix")
    if (bucket, prefix) != (names.lake.bucket, names.prefix):
        raise SettingsError(
            f"PINGFEED_EVENTS_URL: the stream {names.stream} exists and writes to {bucket}/{prefix}, "
            f"not to the lake {names.lake_url}",
            field="PINGFEED_EVENTS_URL",
        )
