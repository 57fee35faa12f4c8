"""The table that the adapters for DynamoDB need, on MiniStack."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from deploy.tables import ensure, flaws
from pingfeed.adapters._dynamodb.items import packet_item, write_units
from pingfeed.core.errors import InvalidInput, SettingsError, Unavailable
from tests.conformance.place import Place
from tests.conformance.samples import NOON_MS
from tests.servers import free_port

pytestmark = pytest.mark.real


@pytest.fixture
def client(place: Place) -> Iterator[Any]:
    assert place.aws
    client = boto3.client("dynamodb")
    yield client
    client.close()


def test_a_table_is_made_once_and_each_thing_made_is_told(place: Place, client: Any) -> None:
    made = ensure(f"dynamodb://{place.aws}?writes_per_second=10")
    assert [place.aws in sentence for sentence in made] == [True, True]
    assert ensure(f"dynamodb://{place.aws}") == []
    table = client.describe_table(TableName=place.aws)["Table"]
    assert table["TableStatus"] == "ACTIVE"
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    ttl = client.describe_time_to_live(TableName=place.aws)["TimeToLiveDescription"]
    assert ttl == {"TimeToLiveStatus": "ENABLED", "AttributeName": "t"}


def test_what_a_table_lacks_is_added(place: Place, client: Any) -> None:
    ensure(f"dynamodb://{place.aws}")
    off = {"Enabled": False, "AttributeName": "t"}
    client.update_time_to_live(TableName=place.aws, TimeToLiveSpecification=off)
    assert flaws(f"dynamodb://{place.aws}") == ["has TTL turned off"]
    assert len(ensure(f"dynamodb://{place.aws}")) == 1
    assert ensure(f"dynamodb://{place.aws}") == flaws(f"dynamodb://{place.aws}") == []


def test_a_table_that_expires_items_by_another_attribute_is_refused(place: Place, client: Any) -> None:
    ensure(f"dynamodb://{place.aws}")
    for enabled, name in ((False, "t"), (True, "expires")):
        other = {"Enabled": enabled, "AttributeName": name}
        client.update_time_to_live(TableName=place.aws, TimeToLiveSpecification=other)
    with pytest.raises(InvalidInput, match="removes expired items by 'expires', not 't'"):
        ensure(f"dynamodb://{place.aws}")
    assert flaws(f"dynamodb://{place.aws}") == ["removes expired items by 'expires', not 't'"]


def test_a_table_with_another_key_is_refused_and_left_alone(place: Place, client: Any) -> None:
    client.create_table(
        TableName=place.aws,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(InvalidInput, match="another key"):
        ensure(f"dynamodb://{place.aws}")
    assert flaws(f"dynamodb://{place.aws}") == ["has another key than the string 'k'", "has TTL turned off"]
    assert client.describe_time_to_live(TableName=place.aws)["TimeToLiveDescription"]["TimeToLiveStatus"] == "DISABLED"


def test_a_url_without_a_table_is_refused() -> None:
    with pytest.raises(InvalidInput, match="table"):
        ensure("dynamodb://")


def test_no_credentials_and_no_answer_are_told_apart(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.aws
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable, match="does not respond"):
        ensure("dynamodb://pings")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(place.folder))
    with pytest.raises(SettingsError, match="credentials"):
        ensure("dynamodb://pings")


def test_an_item_costs_what_we_reckon(place: Place, client: Any) -> None:
    ensure(f"dynamodb://{place.aws}")
    for size in (0, 900, 980, 985, 990, 995, 1000, 2000, 4096):
        item = packet_item(f"user-{size}", bytes(size), NOON_MS + 1)
        answer = client.put_item(TableName=place.aws, Item=item, ReturnConsumedCapacity="TOTAL")
        assert answer["ConsumedCapacity"]["CapacityUnits"] == write_units(item)


def test_a_head_with_a_list_costs_what_we_reckon(place: Place, client: Any) -> None:
    ensure(f"dynamodb://{place.aws}")
    for size in (0, 300, 480, 490, 495, 500, 1000):
        item: dict[str, Any] = {"k": {"S": f"s/user-{size}"}, "h": {"L": [{"B": bytes(size)}] * 2}, "n": {"N": "12"}}
        answer = client.put_item(TableName=place.aws, Item=item, ReturnConsumedCapacity="TOTAL")
        assert answer["ConsumedCapacity"]["CapacityUnits"] == write_units(item)
