"""The table of a `dynamodb://` URL: one string key, billed per request, expired items removed by TTL.

Candidates and signals need the same kind of table and may share one, because their keys differ.
"""

from typing import Any, Final

from deploy.clients import client, unless
from pingfeed.aws import KEY, TTL, TableUrl, translated
from pingfeed.core.errors import InvalidInput

_KEY_SCHEMA: Final = [{"AttributeName": KEY, "KeyType": "HASH"}]
_ATTRIBUTES: Final = [{"AttributeName": KEY, "AttributeType": "S"}]


def ensure(url: str) -> list[str]:
    """Create the table if it is absent, and turn on TTL; returns a sentence for each change.

    Returns when the table is active. Raises InvalidInput for a URL without a table, or if the table has another key,
    SettingsError without credentials, and Unavailable if DynamoDB does not respond or denies access.
    """
    table = TableUrl.parse(url, "writes_per_second").table
    with translated(f"the DynamoDB table {table}"):
        dynamodb = client("dynamodb")
        return _create_table(dynamodb, table) + _turn_on_ttl(dynamodb, table)


def _create_table(dynamodb: Any, table: str) -> list[str]:
    created = []
    with unless("ResourceInUseException"):  # It exists, or another process is creating it.
        dynamodb.create_table(
            TableName=table,
            KeySchema=_KEY_SCHEMA,
            AttributeDefinitions=_ATTRIBUTES,
            BillingMode="PAY_PER_REQUEST",
        )
        created = [f"created the table {table}"]
    dynamodb.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    for flaw in _key_flaws(dynamodb, table):
        raise InvalidInput(f"names the table {table}, which {flaw}")
    return created


def flaws(url: str) -> list[str]:
    """How the table differs from what `ensure` makes. Changes nothing; raises as that."""
    table = TableUrl.parse(url, "writes_per_second").table
    with translated(f"the DynamoDB table {table}"):
        dynamodb = client("dynamodb")
        by = _ttl(dynamodb, table)
        expires = [] if by == TTL else [f"removes expired items by {by!r}, not {TTL!r}" if by else "has TTL turned off"]
        return [*_key_flaws(dynamodb, table), *expires]


def _key_flaws(dynamodb: Any, table: str) -> list[str]:
    found = dynamodb.describe_table(TableName=table)["Table"]
    fits = found["KeySchema"] == _KEY_SCHEMA and _ATTRIBUTES[0] in found["AttributeDefinitions"]
    return [] if fits else [f"has another key than the string {KEY!r}"]


def _ttl(dynamodb: Any, table: str) -> str:
    """The attribute by which the table removes items; "" if it removes none."""
    found = dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    return str(found["AttributeName"]) if found["TimeToLiveStatus"] in ("ENABLED", "ENABLING") else ""


def _turn_on_ttl(dynamodb: Any, table: str) -> list[str]:
    if by := _ttl(dynamodb, table):
        if by != TTL:
            raise InvalidInput(f"names the table {table}, which removes expired items by {by!r}, not {TTL!r}")
        return []
    dynamodb.update_time_to_live(TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": TTL})
    return [f"turned on removal of expired items in the table {table}"]
