"""Delivery of events into the lake on AWS: the Glue table, the role, and the delivery stream that uses both.

Firehose reads JSON (OpenX) and writes Parquet with the columns of the table, which are `events.COLUMNS`, under

    <lake>/events/year=2026/month=11/day=22/        by UTC day of arrival at Firehose
    <lake>/errors/<kind of error>/year=.../         records that could not be converted; the nightly job reads them

Athena finds the days by partition projection, without a crawler. Existing resources are kept. What a table lacks
(columns, projection) is added, and its other parameters stay; a stream or table of another shape is an error. Names of
roles carry stream and region, as roles belong to the whole account.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
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
INTERVAL_S: Final = 300
_BUFFER_MB: Final = 64
"""The minimum with format conversion."""
_DAY: Final = "year=!{timestamp:yyyy}/month=!{timestamp:MM}/day=!{timestamp:dd}/"
_PARQUET: Final = "org.apache.hadoop.hive.ql.io.parquet"
_PARTITIONS: Final = ("year", "month", "day")
_SERDE: Final = f"{_PARQUET}.serde.ParquetHiveSerDe"
_COLUMNS: Final = {column.name: column.kind for column in COLUMNS}
_PROJECTED: Final = "projection.enabled"
_KEPT: Final = ("Name", "Description", "Owner", "Retention", "TableType", "PartitionKeys")
"""What `update_table` takes unchanged of what `get_table` returns."""
_ROLE_LETTERS: Final = 64


@dataclass(frozen=True)
class _Names:
    """The names of the resources, all derived from the stream's and the lake's."""

    stream: str
    lake: Location
    region: str = ""

    @property
    def database(self) -> str:
        """The Glue database: the stream's name in characters that Athena accepts without quotes."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.stream.lower())

    @property
    def role(self) -> str:
        """The role that Firehose assumes; a name that is too long ends in a digest instead."""
        name = f"{self.stream}-{self.region}-firehose"
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        return name if len(name) <= _ROLE_LETTERS else f"{name[: _ROLE_LETTERS - 13]}-{digest}"

    @property
    def location(self) -> str:
        """The folder of the table."""
        return f"{self.lake_url}events/"

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
    interval_s: int = INTERVAL_S,
    client: Callable[[str], Any] = clients.client,
    pause: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Create what is missing of database, table, role and stream; returns a sentence for each change.

    The lake's bucket must exist. Firehose writes an object for every 64 MB or `interval_s` (up to 900). Returns when
    the stream is active. Raises SettingsError, also for a stream or table of another shape, and Unavailable.
    """
    with translated("AWS"):
        glue, iam, firehose, sts = (client(service) for service in ("glue", "iam", "firehose", "sts"))
    names = _Names(stream_of(stream_url), _lake(lake_url), firehose.meta.region_name)
    found = _describe(firehose, names)
    if found is not None:
        table = f"{names.database}.{TABLE}"
        _reject(f"the stream {names.stream}", _stream_flaws(found, names, interval_s, table))
    changes = _ensure_table(glue, names)
    if found is None:
        role_arn, created = _ensure_role(iam, sts, names)
        _create_stream(firehose, names, _destination(names, role_arn, interval_s), pause)
        changes += [*created, f"created the delivery stream {names.stream}, which writes to {names.lake_url}"]
    _wait_until_active(firehose, names, pause)
    return changes


def flaws(stream_url: str, lake_url: str, *, client: Callable[[str], Any] = clients.client) -> list[str]:
    """How the stream and the table that it uses differ from what `ensure` makes. Changes nothing; raises as that."""
    with translated("AWS"):
        glue, firehose = client("glue"), client("firehose")
    names = _Names(stream_of(stream_url), _lake(lake_url))
    found = _describe(firehose, names)
    if found is None:
        return ["does not exist"]
    said = [f"it {flaw}" for flaw in _stream_flaws(found, names, INTERVAL_S)]
    schema = _schema(found)
    if not schema:
        return said
    name = f"{schema['DatabaseName']}.{schema['TableName']}"
    with translated(f"the Glue table {name}"):
        table = glue.get_table(DatabaseName=schema["DatabaseName"], Name=schema["TableName"])["Table"]
    lacks = _completed(table, names)[1]
    found_in_table = [*_table_flaws(table, names), *([f"lacks {', '.join(lacks)}"] if lacks else [])]
    return [*said, *(f"its table {name} {flaw}" for flaw in found_in_table)]


def _reject(what: str, flaws: Iterator[str]) -> None:
    if flaw := next(flaws, None):
        raise SettingsError(f"PINGFEED_EVENTS_URL: {what} exists and {flaw}", field="PINGFEED_EVENTS_URL")


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
    with translated(f"the Glue table {table}"):
        with unless("AlreadyExistsException"):
            glue.create_table(DatabaseName=names.database, TableInput=_table(names))
            return [*changes, f"created the Glue table {table} with {len(_COLUMNS)} columns"]
        found = glue.get_table(DatabaseName=names.database, Name=TABLE)["Table"]
        _reject(f"the Glue table {table}", _table_flaws(found, names))
        completed, lacks = _completed(found, names)
        if lacks:
            glue.update_table(DatabaseName=names.database, TableInput=completed)
            changes.append(f"added to the Glue table {table}: {', '.join(lacks)}")
    return changes


def _table(names: _Names) -> dict[str, Any]:
    return {
        "Name": TABLE,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"classification": "parquet", "EXTERNAL": "TRUE", **_projection(names)},
        "PartitionKeys": [{"Name": name, "Type": "string"} for name in _PARTITIONS],
        "StorageDescriptor": {
            "Columns": [{"Name": name, "Type": kind} for name, kind in _COLUMNS.items()],
            "Location": names.location,
            "InputFormat": f"{_PARQUET}.MapredParquetInputFormat",
            "OutputFormat": f"{_PARQUET}.MapredParquetOutputFormat",
            "SerdeInfo": {"SerializationLibrary": _SERDE},
        },
    }


def _projection(names: _Names) -> dict[str, str]:
    """How Athena finds the partitions: by these ranges, without a crawler."""
    ranges = {"year": "2020,2060", "month": "1,12", "day": "1,31"}
    folders = "".join(f"{name}=${{{name}}}/" for name in ranges)
    return {
        _PROJECTED: "true",
        **{f"projection.{name}.type": "integer" for name in ranges},
        **{f"projection.{name}.range": between for name, between in ranges.items()},
        **{f"projection.{name}.digits": "2" for name in ("month", "day")},
        "storage.location.template": names.location + folders,
    }


def _table_flaws(found: Mapping[str, Any], names: _Names) -> Iterator[str]:
    """Why an existing table is of no use to us; what it lacks can be added (`_completed`)."""
    storage = found["StorageDescriptor"]
    if storage.get("Location", "").rstrip("/") != names.location.rstrip("/"):
        yield f"lies at {storage.get('Location')}, not at {names.location}"
    if tuple(key["Name"] for key in found.get("PartitionKeys", ())) != _PARTITIONS:
        yield f"is not partitioned by {', '.join(_PARTITIONS)}"
    if storage.get("SerdeInfo", {}).get("SerializationLibrary") != _SERDE:
        yield "is not a table of Parquet files"
    kinds = {column["Name"]: column.get("Type") for column in storage["Columns"]}
    wrong = [
        f"{name} {kinds[name]} instead of {kind}" for name, kind in _COLUMNS.items() if kinds.get(name, kind) != kind
    ]
    if wrong:
        yield f"has columns of another type: {', '.join(wrong)}"


def _completed(found: Mapping[str, Any], names: _Names) -> tuple[dict[str, Any], list[str]]:
    """An existing table with what it lacks, and the names of that. What was set by hand stays, also a projection."""
    storage, parameters = found["StorageDescriptor"], found.get("Parameters", {})
    known = {column["Name"] for column in storage["Columns"]}
    columns = [{"Name": name, "Type": kind} for name, kind in _COLUMNS.items() if name not in known]
    projection = {} if _PROJECTED in parameters else _projection(names)
    table = {
        **{name: found[name] for name in _KEPT if found.get(name)},
        "Parameters": {**projection, **parameters},
        "StorageDescriptor": {**storage, "Columns": [*storage["Columns"], *columns]},
    }
    return table, [*(column["Name"] for column in columns), *(["partition projection"] if projection else [])]


def _ensure_role(iam: Any, sts: Any, names: _Names) -> tuple[str, list[str]]:
    """The ARN of the role that Firehose assumes, and what was created. Its policy is rewritten each time."""
    created = []
    with translated(f"the role {names.role}"):
        account = sts.get_caller_identity()["Account"]
        with unless("EntityAlreadyExists"):
            iam.create_role(RoleName=names.role, AssumeRolePolicyDocument=json.dumps(_trust(account)))
            created.append(f"created the role {names.role}")
        role_arn = str(iam.get_role(RoleName=names.role)["Role"]["Arn"])
        policy = json.dumps(_policy(names, _partition(role_arn), account))
        iam.put_role_policy(RoleName=names.role, PolicyName="deliver", PolicyDocument=policy)
    return role_arn, created


def _trust(account: str) -> dict[str, Any]:
    """Let Firehose assume the role, for streams of this account only."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "firehose.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": account}},
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def _partition(role_arn: str) -> str:
    """`aws`, `aws-cn` or `aws-us-gov`, the second part of an ARN: the role, the bucket and the table share it."""
    return role_arn.split(":")[1]


def _policy(names: _Names, partition: str, account: str) -> dict[str, Any]:
    """Allow reading the one table and writing to the one bucket."""
    bucket, glue = f"arn:{partition}:s3:::{names.lake.bucket}", f"arn:{partition}:glue:{names.region}:{account}"
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


def _wait_until_active(firehose: Any, names: _Names, pause: Callable[[float], None]) -> None:
    waited = 0.0
    while True:
        found = _describe(firehose, names) or {}
        status = found.get("DeliveryStreamStatus", "not found yet")
        if status == "ACTIVE":
            return
        if waited >= ACTIVE_WITHIN_S or status.endswith("_FAILED"):
            raise Unavailable(f"the stream {names.stream} is {status}")
        pause(2)
        waited += 2


def _target(found: Mapping[str, Any]) -> dict[str, Any]:
    """The S3 destination of a stream."""
    destinations = found.get("Destinations") or [{}]
    return destinations[0].get("ExtendedS3DestinationDescription") or {}


def _schema(found: Mapping[str, Any]) -> dict[str, Any]:
    """Where a stream finds the table by which it converts; empty if it does not convert."""
    conversion = _target(found).get("DataFormatConversionConfiguration") or {}
    return (conversion.get("SchemaConfiguration") or {}) if conversion.get("Enabled") else {}


def _stream_flaws(found: Mapping[str, Any], names: _Names, interval_s: int, table: str = "") -> Iterator[str]:
    """Why an existing stream of this name would lose the events, or deliver them as nothing here reads them."""
    target = _target(found)
    bucket, prefix = target.get("BucketARN", "").rpartition(":")[2], target.get("Prefix")
    if (bucket, prefix) != (names.lake.bucket, names.prefix):
        yield f"writes to {bucket}/{prefix}, not to the lake {names.lake_url}"
    schema = _schema(found)
    used = f"{schema.get('DatabaseName')}.{schema.get('TableName')}"
    if not schema:
        yield "does not convert events to Parquet"
    elif table and used != table:
        yield f"converts by the Glue table {used}, not by {table}"
    hints = target.get("BufferingHints") or {}
    if (hints.get("SizeInMBs"), hints.get("IntervalInSeconds")) != (_BUFFER_MB, interval_s):
        held = f"{hints.get('SizeInMBs')} MB or {hints.get('IntervalInSeconds')} s"
        yield f"buffers {held}, not {_BUFFER_MB} MB or {interval_s} s"
