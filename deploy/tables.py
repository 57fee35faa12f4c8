"""The table of a `dynamodb://` URL: one string key, billed by request, TTL removes items some time after their expiry.

Candidates and signals take the same kind of table; they may share one, for their keys differ.
"""

from typing import Any, Final

from deploy import clients
from pingfeed.aws import KEY, TTL, TableUrl, translated
from pingfeed.core.errors import InvalidInput

_KEY_SCHEMA: Final = [{"AttributeName": KEY, "KeyType": "HASH"}]
_ATTRIBUTES: Final = [{"AttributeName": KEY, "AttributeType": "S"}]


def ensure(url: str) -> list[str]:
    """Make the URL's table if it is absent, and let TTL remove what is over; a sentence for each thing made.

    Again, it makes nothing. Returns when the table can be written to. Raises InvalidInput for a URL that names no table
    or one with another key, SettingsError without credentials, and Unavailable where DynamoDB does not answer or does
    not allow it.
    """
    table = TableUrl.parse(url, "writes_per_second").table
    with translated(f"the DynamoDB table {table}"):
        client = clients.client("dynamodb")
        return _made_table(client, table) + _made_ttl(client, table)


def _made_table(client: Any, table: str) -> list[str]:
    made = []
    try:
        client.create_table(
            TableName=table,
            KeySchema=_KEY_SCHEMA,
            AttributeDefinitions=_ATTRIBUTES,
            BillingMode="PAY_PER_REQUEST",
        )
        made = [f"made the table {table}"]
    except client.exceptions.ResourceInUseException:
        pass  # It is there, or somebody else is making it.
    client.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    found = client.describe_table(TableName=table)["Table"]
    if (found["KeySchema"], found["AttributeDefinitions"]) != (_KEY_SCHEMA, _ATTRIBUTES):
        raise InvalidInput(f"names the table {table}, which has another key than the string {KEY!r}")
    return made


def _made_ttl(client: Any, table: str) -> list[str]:
    found = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    if found["TimeToLiveStatus"] in ("ENABLED", "ENABLING"):
        return []
    client.update_time_to_live(TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": TTL})
    return [f"let the table {table} remove what is over, by its attribute {TTL!r}"]
