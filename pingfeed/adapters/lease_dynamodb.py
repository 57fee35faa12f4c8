"""The lease as an item of a DynamoDB table, changed on condition only.

k    lease/lake
o    who holds it
e    until when (epoch ms), 0 once it is released
f    its number, which only grows: so the item has no TTL and stays
"""

import os
import socket
import threading
from contextlib import suppress
from typing import Any, Final

from pingfeed.aws import KEY, Conflict, TableUrl, sync_client, translated
from pingfeed.core.clock import Clock, system_clock, to_iso
from pingfeed.core.errors import Busy

_ITEM: Final = {KEY: {"S": "lease/lake"}}
_ATTEMPTS: Final = 4


class DynamodbLease:
    """`dynamodb://table`."""

    def __init__(self, url: str, clock: Clock = system_clock) -> None:
        self._table = TableUrl.parse(url).table
        self._clock = clock
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._opening = threading.Lock()
        self._opened: Any = None

    def acquire(self, seconds: float, floor: int = 0) -> int:
        item = self._read()
        if said := self._said(item):
            raise Busy(said)
        fence = max(int(item["f"]["N"]) if item else 0, floor) + 1
        seen = {":f": item["f"], ":e": item["e"]} if item else {}
        self._put(fence, seconds, "f = :f AND e = :e" if item else f"attribute_not_exists({KEY})", seen)
        return fence

    def renew(self, fence: int, seconds: float) -> None:
        self._put(fence, seconds, "f = :f", {":f": {"N": str(fence)}})

    def release(self, fence: int) -> None:
        with suppress(Busy):
            self.renew(fence, 0)

    def holder(self) -> str:
        return self._said(self._read())

    def _said(self, item: dict[str, Any] | None) -> str:
        until_ms = int(item["e"]["N"]) if item else 0
        if item is None or until_ms <= self._clock():
            return ""
        return f"held by {item['o']['S']} until {to_iso(until_ms)} (number {item['f']['N']})"

    def _read(self) -> dict[str, Any] | None:
        with translated(f"the table {self._table}"):
            found: dict[str, Any] = self._client.get_item(TableName=self._table, Key=_ITEM, ConsistentRead=True)
            return found.get("Item")

    def _put(self, fence: int, seconds: float, condition: str, seen: dict[str, Any]) -> None:
        until_ms = self._clock() + int(seconds * 1000) if seconds else 0
        item = {**_ITEM, "o": {"S": self._owner}, "e": {"N": str(until_ms)}, "f": {"N": str(fence)}}
        values = {"ExpressionAttributeValues": seen} if seen else {}
        try:
            with translated(f"the table {self._table}"):
                self._client.put_item(TableName=self._table, Item=item, ConditionExpression=condition, **values)
        except Conflict as error:
            if self._read() != item:  # If the call was retried, the first attempt may have succeeded.
                raise Busy("another process has taken the lease") from error

    @property
    def _client(self) -> Any:
        with self._opening:
            if self._opened is None:
                self._opened = sync_client("dynamodb", f"the table {self._table}", attempts=_ATTEMPTS)
            return self._opened
