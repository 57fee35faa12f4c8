"""A process's way to DynamoDB: one client and one loader for each event loop, shared by the adapters that use it.

    self._dynamodb = SharedConnection()
    item = await self._dynamodb().get("table", "p/ann")      # joins the loop's connection, or opens it
    await self._dynamodb.close()                             # leaves it; the last one closes the client

An adapter's URL is `dynamodb://table`; region and credentials come from the environment (`pingfeed/aws.py`).
"""

import asyncio
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from pingfeed.adapters._dynamodb.answers import is_conflict
from pingfeed.adapters._dynamodb.items import KEY, Item
from pingfeed.adapters._dynamodb.loader import Answer, Loader
from pingfeed.aws import AwsClient, translated
from pingfeed.core.errors import InvalidInput, PingfeedError
from pingfeed.core.retry import Backoff
from pingfeed.core.urls import flaw

READ_S: Final = 3.0
"""DynamoDB answers in milliseconds or not at all."""


@dataclass(frozen=True)
class TableUrl:
    """`dynamodb://table?option=value`."""

    table: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, url: str, *known: str) -> "TableUrl":
        """The parts of a URL; InvalidInput where it names no table, or has an option that is not `known`."""
        if wrong := flaw(url):
            raise InvalidInput(wrong)
        split = urlsplit(url)
        options = dict(parse_qsl(split.query, keep_blank_values=True))
        if unknown := options.keys() - set(known):
            raise InvalidInput(f"has the option {min(unknown)!r}, which is unknown")
        return cls(split.netloc, options)


class Connection:
    """One event loop's client and loader."""

    def __init__(self) -> None:
        self._client = AwsClient("dynamodb", read_s=READ_S)
        self._loader = Loader(self._batch_get, Backoff(first_s=0.02, longest_s=0.2))
        self.users = 0

    def get(self, table: str, key: str, *, consistent: bool = False) -> Answer:
        """The item, None if there is none: at once a future, so that gets of one turn share a call (`Loader`)."""
        return self._loader.get(table, key, consistent=consistent)

    async def call(self, operation: str, what: str, **parameters: Any) -> dict[str, Any]:
        """One call of an operation, such as "put_item", its errors as ours; `what` is named in their sentence."""
        with translated(f"the DynamoDB table {what}"):
            client = await self._client.get()
            answer: dict[str, Any] = await getattr(client, operation)(**parameters)
            return answer

    async def replace(self, table: str, before: Item | None, after: Item, *, by: str) -> bool:
        """Put `after` if the stored item still has the attribute `by` of `before` (or is still absent).

        False if it has not: somebody else wrote in between.
        """
        condition: dict[str, Any] = {"ConditionExpression": f"attribute_not_exists({KEY})"}
        if before is not None:
            values = {":before": before[by]}
            condition = {"ConditionExpression": f"{by} = :before", "ExpressionAttributeValues": values}
        try:
            await self.call("put_item", table, TableName=table, Item=after, **condition)
        except PingfeedError as error:
            if is_conflict(error):
                return False
            raise
        return True

    async def delete(self, table: str, key: str) -> None:
        """Remove an item; absent is fine."""
        await self.call("delete_item", table, TableName=table, Key={KEY: {"S": key}})

    async def close(self) -> None:
        """Let the client go."""
        await self._loader.close()
        await self._client.close()

    async def _batch_get(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return await self.call("batch_get_item", " and ".join(wanted), RequestItems=wanted)


_connections: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Connection]" = weakref.WeakKeyDictionary()


class SharedConnection:
    """An adapter's part in its loop's connection."""

    def __init__(self) -> None:
        self._joined: Connection | None = None

    def __call__(self) -> Connection:
        """The running loop's connection; the first call joins it."""
        if self._joined is None:
            loop = asyncio.get_running_loop()
            if loop not in _connections:
                _connections[loop] = Connection()
            self._joined = _connections[loop]
            self._joined.users += 1
        return self._joined

    async def close(self) -> None:
        """Leave it. The last to leave closes it."""
        joined, self._joined = self._joined, None
        if joined is None:
            return
        joined.users -= 1
        if not joined.users:
            _connections.pop(asyncio.get_running_loop(), None)
            await joined.close()
