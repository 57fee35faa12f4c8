"""Packets in a DynamoDB table, one item a user (`pingfeed/adapters/_dynamodb/items.py` describes it).

Reads are eventually consistent, at half the price: for up to a second a read may return the packet that was just
replaced. That is harmless: a packet is up to a tick old anyway, and its candidates are filtered by signals, which are
read consistently. A read never misses an existing packet or returns part of one. If packets share a table with signals,
both are read consistently, as a call has one consistency per table.

Packets are written in batches of 25, several concurrently, at most `?writes_per_second=` write units a second;
unprocessed items are retried with backoff. A new on-demand table takes 4,000 units a second.
"""

import asyncio
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from pingfeed.adapters._dynamodb.connection import SharedConnection, WritePacer, is_transient
from pingfeed.adapters._dynamodb.items import (
    MAX_ITEM_BYTES,
    Item,
    item_bytes,
    packet_item,
    packet_key,
    packet_of,
    write_units,
)
from pingfeed.aws import TableUrl
from pingfeed.core.errors import FormatError, InvalidInput, PingfeedError, Unavailable
from pingfeed.core.retry import Backoff

WRITES_PER_SECOND: Final = 3000.0
"""Write units: three quarters of the capacity of a new on-demand table; the rest is for other writers."""
ITEMS_A_CALL: Final = 25
"""DynamoDB's limit. The other one, 16 MB a call, cannot be reached: 25 items of at most 400 KB are 10 MB."""
CALLS_AT_ONCE: Final = 8
STUCK: Final = 8
"""Calls in a row that write nothing before Unavailable is raised: half a minute."""


class DynamodbCandidateStore:
    """`dynamodb://table`, or `dynamodb://table?writes_per_second=1000`."""

    def __init__(self, url: str, *, backoff: Backoff | None = None) -> None:
        parsed = TableUrl.parse(url, "writes_per_second")
        self._table = parsed.table
        self._pacer = WritePacer(_rate(parsed))
        self._backoff = backoff or Backoff(first_s=0.1, longest_s=10)
        self._dynamodb = SharedConnection()

    async def get(self, user_id: str, now_ms: int) -> bytes | None:
        return packet_of(await self._dynamodb().get(self._table, packet_key(user_id)), now_ms)

    async def put_many(self, packets: Mapping[str, bytes], expires_ms: int) -> None:
        """If it raises, some packets may have been written."""
        items = (_checked(packet_item(user_id, packet, expires_ms)) for user_id, packet in packets.items())
        batches = iter(lambda: list(islice(items, ITEMS_A_CALL)), [])
        writers = (self._write_all(batches) for _ in range(CALLS_AT_ONCE))
        # Wait for all of them: nothing may write after the adapter is closed.
        for outcome in await asyncio.gather(*writers, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def delete(self, user_id: str) -> None:
        await self._dynamodb().delete(self._table, packet_key(user_id))

    async def check(self) -> None:
        await self._dynamodb().get(self._table, packet_key(""))

    async def close(self) -> None:
        await self._dynamodb.close()

    async def _write_all(self, batches: Iterator[list[Item]]) -> None:
        for batch in batches:
            await self._write(batch)

    async def _write(self, items: list[Item]) -> None:
        """Write one batch, retrying unprocessed items."""
        stuck = 0
        while True:
            await self._pacer.take(sum(map(write_units, items)))
            left, error = await self._try(items)
            if not left:
                return
            stuck = stuck + 1 if len(left) == len(items) else 0
            if stuck == STUCK:
                raise error or Unavailable(f"the DynamoDB table {self._table} is throttling writes")
            items = left
            await asyncio.sleep(self._backoff.pause_s(stuck + 1))

    async def _try(self, items: list[Item]) -> tuple[list[Item], PingfeedError | None]:
        """One call: the items that were not written, and the error if the whole call failed."""
        wanted = {self._table: [{"PutRequest": {"Item": item}} for item in items]}
        try:
            answer = await self._dynamodb().call("batch_write_item", self._table, RequestItems=wanted)
        except PingfeedError as error:
            if is_transient(error):  # A time-out may have written some; writing twice is harmless.
                return items, error
            raise
        left = answer.get("UnprocessedItems", {}).get(self._table, [])
        return [request["PutRequest"]["Item"] for request in left], None


def _rate(url: TableUrl) -> float:
    text = url.options.get("writes_per_second", str(WRITES_PER_SECOND))
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 1 <= rate < float("inf"):
        raise InvalidInput(f"has writes_per_second={text!r}, which must be a number from 1")
    return rate


def _checked(item: Item) -> Item:
    if item_bytes(item) > MAX_ITEM_BYTES:
        raise FormatError(f"a packet of {item_bytes(item)} bytes is over DynamoDB's limit of {MAX_ITEM_BYTES}")
    return item
