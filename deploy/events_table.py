"""The Glue table of the raw events: what Firehose converts by, and what Athena reads.

Its columns are `events.COLUMNS`, its partitions the UTC day of arrival. Columns are only ever added.
"""

from typing import Any, Final

from deploy.clients import unless
from pingfeed.aws import translated
from pingfeed.core.events import COLUMNS

TABLE: Final = "events"
PARTITIONS: Final = ("year", "month", "day")
_PARQUET: Final = "org.apache.hadoop.hive.ql.io.parquet"


def ensure_table(glue: Any, database: str, location: str) -> list[str]:
    """Make database and table, or add the columns that the table lacks; a sentence for each thing made."""
    said = []
    with translated(f"the Glue database {database}"), unless("AlreadyExistsException"):
        glue.create_database(DatabaseInput={"Name": database})
        said.append(f"Made the Glue database {database}.")
    wanted = [{"Name": column.name, "Type": column.kind} for column in COLUMNS]
    with translated(f"the Glue table {database}.{TABLE}"):
        with unless("AlreadyExistsException"):
            glue.create_table(DatabaseName=database, TableInput=_table(location, wanted))
            return [*said, f"Made the Glue table {database}.{TABLE} with {len(wanted)} columns."]
        return said + _with_new_columns(glue, database, location, wanted)


def _with_new_columns(glue: Any, database: str, location: str, wanted: list[dict[str, str]]) -> list[str]:
    found = glue.get_table(DatabaseName=database, Name=TABLE)["Table"]["StorageDescriptor"]["Columns"]
    kept = [{"Name": column["Name"], "Type": column["Type"]} for column in found]
    missing = [column for column in wanted if column["Name"] not in {there["Name"] for there in kept}]
    if not missing:
        return []
    glue.update_table(DatabaseName=database, TableInput=_table(location, kept + missing))
    return [f"Added to the Glue table {database}.{TABLE}: {', '.join(column['Name'] for column in missing)}."]


def _table(location: str, columns: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "Name": TABLE,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"classification": "parquet", "EXTERNAL": "TRUE"},
        "PartitionKeys": [{"Name": name, "Type": "string"} for name in PARTITIONS],
        "StorageDescriptor": {
            "Columns": columns,
            "Location": location,
            "InputFormat": f"{_PARQUET}.MapredParquetInputFormat",
            "OutputFormat": f"{_PARQUET}.MapredParquetOutputFormat",
            "SerdeInfo": {"SerializationLibrary": f"{_PARQUET}.serde.ParquetHiveSerDe"},
        },
    }
