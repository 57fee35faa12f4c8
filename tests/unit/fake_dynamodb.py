"""DynamoDB in memory, behind aioboto3's client: it asserts the limits that emulators let pass, and fails as AWS does.

`then(operation, *faults)` says what happens to the next calls of an operation, one fault a call; after that they
succeed. A fault may do the call's work, a part of it, or nothing, before it raises or returns.
"""
# ruff: noqa: N803 - parameters have the names that AWS gave them

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError

Item = dict[str, dict[str, Any]]
Work = Callable[..., dict[str, Any]]
Fault = Callable[[Work], Awaitable[dict[str, Any]]]
KB = 1024


def refused(code: str) -> Fault:
    """Nothing is done, and AWS returns an error."""

    async def fault(_: Work) -> dict[str, Any]:
        raise error(code)

    return fault


async def done(work: Work) -> dict[str, Any]:
    """No fault, between two faults."""
    return work()


async def silent(_: Work) -> dict[str, Any]:
    """Nothing is done, and no answer comes."""
    raise ReadTimeoutError(endpoint_url="https://dynamodb.example")


async def lost(work: Work) -> dict[str, Any]:
    """All is done, and no answer comes."""
    work()
    raise ReadTimeoutError(endpoint_url="https://dynamodb.example")


def partial(count: int) -> Fault:
    """Only the first `count` of a batch are done."""

    async def fault(work: Work) -> dict[str, Any]:
        return work(count)

    return fault


def after(others: Callable[[], Awaitable[None]]) -> Fault:
    """Another writer is faster: `others` run first, then the call."""

    async def fault(work: Work) -> dict[str, Any]:
        await others()
        return work()

    return fault


@dataclass
class Hanging:
    """A call that hangs until it is given up; `given_up` counts."""

    begun: int = 0
    given_up: int = 0

    async def __call__(self, _: Work) -> dict[str, Any]:
        self.begun += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        return {}


def error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "as AWS says it"}}, "Operation")


@dataclass
class FakeDynamodb:
    """Tables by name, items by key."""

    tables: dict[str, dict[str, Item]]
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    opened: int = 0
    at_once: int = 0
    """The most calls that were under way at one time."""
    _under_way: int = 0
    _faults: dict[str, deque[Fault]] = field(default_factory=dict)

    def then(self, operation: str, *faults: Fault) -> None:
        self._faults.setdefault(operation, deque()).extend(faults)

    def count(self, operation: str) -> int:
        return sum(name == operation for name, _ in self.calls)

    async def batch_get_item(self, *, RequestItems: dict[str, Any]) -> dict[str, Any]:
        keys = [(table, key["k"]["S"]) for table, wanted in RequestItems.items() for key in wanted["Keys"]]
        assert all(wanted["Keys"] for wanted in RequestItems.values())
        assert 1 <= len(keys) <= 100
        assert len(keys) == len(set(keys)), "DynamoDB rejects a key that is asked for twice"

        def work(count: int = len(keys)) -> dict[str, Any]:
            answer: dict[str, Any] = {"Responses": {table: [] for table in RequestItems}, "UnprocessedKeys": {}}
            size = 0
            for number, (table, key) in enumerate(keys):
                item = self._table(table).get(key)
                size += size_of(item) if item else 0
                if number >= count or size > 16 * KB * KB:
                    later = answer["UnprocessedKeys"].setdefault(table, {**RequestItems[table], "Keys": []})
                    later["Keys"].append({"k": {"S": key}})
                elif item:
                    answer["Responses"][table].append(item)
            return answer

        return await self._call("batch_get_item", {"RequestItems": RequestItems}, work)

    async def batch_write_item(self, *, RequestItems: dict[str, Any]) -> dict[str, Any]:
        puts = [(table, r["PutRequest"]["Item"]) for table, requests in RequestItems.items() for r in requests]
        keys = [(table, item["k"]["S"]) for table, item in puts]
        assert 1 <= len(puts) <= 25
        assert len(keys) == len(set(keys)), "DynamoDB rejects a key that is put twice"
        assert sum(size_of(checked(item)) for _, item in puts) <= 16 * KB * KB

        def work(count: int = len(puts)) -> dict[str, Any]:
            left: dict[str, Any] = {}
            for number, (table, item) in enumerate(puts):
                if number < count:
                    self._table(table)[item["k"]["S"]] = item
                else:
                    left.setdefault(table, []).append({"PutRequest": {"Item": item}})
            return {"UnprocessedItems": left}

        return await self._call("batch_write_item", {"RequestItems": RequestItems}, work)

    async def put_item(self, *, TableName: str, Item: Item, **condition: Any) -> dict[str, Any]:
        key = checked(Item)["k"]["S"]

        def work() -> dict[str, Any]:
            before = self._table(TableName).get(key)
            if not holds(before, **condition):
                raise error("ConditionalCheckFailedException")
            self._table(TableName)[key] = Item
            return {}

        return await self._call("put_item", {"TableName": TableName, "Item": Item}, work)

    async def update_item(
        self,
        *,
        TableName: str,
        Key: Item,
        UpdateExpression: str,
        ReturnValues: str = "NONE",
        ExpressionAttributeValues: Mapping[str, Any],
        ConditionExpression: str = "",
    ) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            before = self._table(TableName).get(Key["k"]["S"])
            if not holds(before, ConditionExpression, ExpressionAttributeValues):
                raise error("ConditionalCheckFailedException")
            item = checked(updated(before or Key, UpdateExpression, ExpressionAttributeValues))
            self._table(TableName)[item["k"]["S"]] = item
            return {"Attributes": item} if ReturnValues == "ALL_NEW" else {}

        return await self._call("update_item", {"TableName": TableName, "Key": Key}, work)

    async def delete_item(
        self, *, TableName: str, Key: Item, ReturnValues: str = "NONE", **condition: Any
    ) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            if not holds(self._table(TableName).get(Key["k"]["S"]), **condition):
                raise error("ConditionalCheckFailedException")
            before = self._table(TableName).pop(Key["k"]["S"], None)
            return {"Attributes": before} if before and ReturnValues == "ALL_OLD" else {}

        return await self._call("delete_item", {"TableName": TableName, "Key": Key}, work)

    async def _call(self, operation: str, parameters: dict[str, Any], work: Work) -> dict[str, Any]:
        self.calls.append((operation, parameters))
        faults = self._faults.get(operation)
        fault = faults.popleft() if faults else None
        self._under_way += 1
        self.at_once = max(self.at_once, self._under_way)
        try:
            await asyncio.sleep(0)  # as the network would, let others run
            return await fault(work) if fault else work()
        finally:
            self._under_way -= 1

    def _table(self, name: str) -> dict[str, Item]:
        if name not in self.tables:
            raise error("ResourceNotFoundException")
        return self.tables[name]


def checked(item: Item) -> Item:
    assert all(len(value) == 1 for value in item.values())
    assert 1 <= len(item["k"]["S"].encode()) <= 2048
    assert set(item.get("t", {"N": ""})) == {"N"}
    assert size_of(item) <= 400 * KB, f"DynamoDB rejects an item of {size_of(item)} bytes"
    return item


def size_of(item: Item) -> int:
    """At least what DynamoDB counts: a number has at most 21 bytes."""
    return sum(len(name) + _size_of(value) for name, value in item.items())


def _size_of(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    if kind == "L":
        return 3 + sum(1 + _size_of(entry) for entry in content)
    return 21 if kind == "N" else len(content)


def holds(
    before: Item | None, ConditionExpression: str = "", ExpressionAttributeValues: Mapping[str, Any] = {}
) -> bool:
    """Conditions of AND, OR and parentheses over three forms; a comparison with an absent attribute is false."""
    if not ConditionExpression:
        return True

    def compared(match: re.Match[str]) -> str:
        own, operator, given = (before or {}).get(match[1]), match[2], ExpressionAttributeValues[match[3]]
        if own is None or own.keys() != given.keys():
            return "False"
        return str(own == given if operator == "=" else float(own["N"]) <= float(given["N"]))

    found = re.sub(r"attribute_not_exists\((\w)\)", lambda m: str(m[1] not in (before or {})), ConditionExpression)
    found = re.sub(r"\b(\w) (=|<=) (:\w+)", compared, found)
    words = found.replace("AND", "and").replace("OR", "or")
    assert re.fullmatch(r"(True|False|and|or|[() ])*", words), f"the fake does not know {ConditionExpression}"
    return bool(eval(words))


def updated(before: Item, expression: str, values: Mapping[str, Any]) -> Item:
    """SET of values, list_append and if_not_exists, then ADD of numbers. All read the item as it was."""
    sets, _, adds = expression.removeprefix("SET ").partition(" ADD ")
    item = dict(before)

    def value_of(text: str) -> Any:
        if match := re.fullmatch(r"if_not_exists\((\w), (.+)\)", text):
            return before.get(match[1]) or value_of(match[2])
        if match := re.fullmatch(r"list_append\((.+), (:\w+)\)", text):
            return {"L": [*value_of(match[1])["L"], *values[match[2]]["L"]]}
        return values[text] if text.startswith(":") else before[text]

    for name, text in re.findall(r"(\w) = ((?:[^,()]|\((?:[^()]|\([^()]*\))*\))+)", sets):
        item[name] = value_of(text)
    for name, text in re.findall(r"(\w) (:\w+)", adds):
        item[name] = {"N": str(int(before.get(name, {"N": "0"})["N"]) + int(values[text]["N"]))}
    return item
