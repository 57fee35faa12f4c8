"""A process's connection to DynamoDB: one client and one loader per event loop, shared by its adapters.

self._dynamodb = SharedConnection()
item = await self._dynamodb().get("table", "p/ann")      # joins the event loop's connection, or opens it
await self._dynamodb.close()                             # leaves it; the last one closes the client
"""

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from pingfeed.adapters._dynamodb.items import Item
from pingfeed.aws import KEY, AwsClient, translated
from pingfeed.core.breaker import Breaker
from pingfeed.core.errors import PingfeedError, Unavailable
from pingfeed.core.retry import Backoff, until_true

READ_S: Final = 3.0
"""DynamoDB responds in milliseconds or not at all."""
KEYS_A_CALL: Final = 100
TRIES: Final = 5
"""Calls for the same keys while DynamoDB throttles some or all of them."""
GRACE_S: Final = 1.0
"""How long a call may continue without callers: time to open the connection, but calls to a hanging store end."""

Answer = asyncio.Future[Item | None]
BatchGet = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""From BatchGetItem's `RequestItems` to its response; raises PingfeedError."""
BURST_S: Final = 0.1
"""Unused capacity carries over for this long."""
_THROTTLED: Final = frozenset(
    {"ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "Throttling"}
)
_BROKEN: Final = frozenset({"InternalServerError", "InternalFailure", "ServiceUnavailable"})
_CONFLICT: Final = "ConditionalCheckFailedException"


class Connection:
    """One event loop's client and loader."""

    def __init__(self) -> None:
        self._client = AwsClient("dynamodb", read_s=READ_S)
        self._loader = Loader(self._batch_get, Backoff(first_s=0.02, longest_s=0.2))
        self._breaker = Breaker("dynamodb", "DynamoDB", slow=False)
        self.users = 0

    def get(self, table: str, key: str, *, consistent: bool = False) -> Answer:
        """A future of the item, None if absent; gets of one turn of the event loop share a call (`Loader`)."""
        return self._loader.get(table, key, consistent=consistent)

    async def call(self, operation: str, what: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation such as "put_item", translating errors; `what` names the table in their messages."""
        with self._breaker.watching(_is_silent), translated(f"the DynamoDB table {what}"):
            client = await self._client.get()
            answer: dict[str, Any] = await getattr(client, operation)(**parameters)
            return answer

    async def replace(self, table: str, before: Item | None, after: Item, *, by: str) -> bool:
        """Put `after` if the stored item still has the attribute `by` of `before` (or is still absent).

        False if not: another writer got in between.
        """
        condition: dict[str, Any] = {"ConditionExpression": f"attribute_not_exists({KEY})"}
        if before is not None:
            values = {":before": before[by]}
            condition = {"ConditionExpression": f"{by} = :before", "ExpressionAttributeValues": values}
        return await self.attempt("put_item", table, Item=after, **condition) is not None

    async def attempt(self, operation: str, table: str, **parameters: Any) -> dict[str, Any] | None:
        """A call on a table; None if its condition does not hold."""
        try:
            return await self.call(operation, table, TableName=table, **parameters)
        except PingfeedError as error:
            if code_of(error) == _CONFLICT:
                return None
            raise

    async def delete(self, table: str, key: str, *, owner: bytes | None = None) -> Item | None:
        """Remove an item, with `owner` only one that has it as `i`; what it was, None if it was absent."""
        values = {"ExpressionAttributeValues": {":i": {"B": owner}}}
        condition = {} if owner is None else {"ConditionExpression": "i = :i", **values}
        done = await self.attempt("delete_item", table, Key={KEY: {"S": key}}, ReturnValues="ALL_OLD", **condition)
        return done.get("Attributes") if done else None

    async def close(self) -> None:
        """Close the client."""
        await self._loader.close()
        await self._client.close()

    async def _batch_get(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return await self.call("batch_get_item", " and ".join(wanted), RequestItems=wanted)


_connections: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Connection]" = weakref.WeakKeyDictionary()


class SharedConnection:
    """An adapter's handle on its event loop's connection."""

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
        """Leave the connection; the last adapter to leave closes it."""
        joined, self._joined = self._joined, None
        if joined is None:
            return
        joined.users -= 1
        if not joined.users:
            _connections.pop(asyncio.get_running_loop(), None)
            await joined.close()


class Loader:
    """Combines the gets of one turn of the event loop into one BatchGetItem, such as a feed's packet and signals.

    A table is read consistently if any of its gets asks for that (at twice the price). If a call for several tables
    fails permanently, each table is asked again alone, so that one bad table does not affect the others.
    """

    def __init__(self, batch_get: BatchGet, backoff: Backoff) -> None:
        self._batch_get, self._backoff = batch_get, backoff
        self._turn: _Gets | None = None
        self._loads: set[asyncio.Task[None]] = set()

    def get(self, table: str, key: str, *, consistent: bool) -> Answer:
        """The item, None if absent; fails with Unavailable. Must be called on the event loop."""
        loop = asyncio.get_running_loop()
        if self._turn is None:
            self._turn = _Gets()
            loop.call_soon(self._send)
        return self._turn.add(table, key, consistent, loop.create_future())

    async def close(self) -> None:
        """Cancel the calls under way and fail the gets that are not sent yet."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.fail(Unavailable(f"{turn.named} was closed"))
        for load in self._loads:
            load.cancel()
        if self._loads:
            await asyncio.wait(self._loads)

    def _send(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            for asked in turn.calls():
                self._begin(asked)

    def _begin(self, asked: "_Gets") -> None:
        load = asyncio.get_running_loop().create_task(self._load(asked))
        self._loads.add(load)
        load.add_done_callback(self._loads.discard)
        asked.attach(load)

    async def _load(self, asked: "_Gets") -> None:
        try:
            await self._fetch(asked)
        except PingfeedError as error:
            if len(asked.tables) == 1 or not is_permanent(error):
                raise
            for alone in asked.by_table():
                self._begin(alone)

    async def _fetch(self, asked: "_Gets") -> None:
        async def attempt(last: bool) -> bool:
            try:
                asked.take(await self._batch_get(asked.request()))
            except PingfeedError as error:
                if last or not is_throttled(error):
                    raise
            return not asked.open

        if not await until_true(attempt, backoff=self._backoff, tries=TRIES):
            raise Unavailable(f"{asked.named} is throttling reads")


class _Gets:
    """Requested keys by table, each with its waiting callers."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, list[Answer]]] = {}
        self._consistent: set[str] = set()

    def add(self, table: str, key: str, consistent: bool, answer: Answer) -> Answer:
        """Request a key for `answer`; a call may name a key only once, so its callers share it."""
        self.tables.setdefault(table, {}).setdefault(key, []).append(answer)
        if consistent:
            self._consistent.add(table)
        return answer

    @property
    def named(self) -> str:
        """The tables, for an error message."""
        return "the DynamoDB table " + " and ".join(self.tables)

    @property
    def open(self) -> bool:
        """Whether any caller is still waiting."""
        return any(not answer.done() for answer in self._answers())

    def calls(self) -> Iterator["_Gets"]:
        """Split into calls of at most KEYS_A_CALL keys."""
        keys = [(table, key) for table, keys in self.tables.items() for key in keys]
        for start in range(0, len(keys), KEYS_A_CALL):
            yield self._part(keys[start : start + KEYS_A_CALL])

    def by_table(self) -> Iterator["_Gets"]:
        """Split by table."""
        for table, keys in self.tables.items():
            yield self._part([(table, key) for key in keys])

    def _part(self, keys: list[tuple[str, str]]) -> "_Gets":
        part = _Gets()
        for table, key in keys:
            for answer in self.tables[table][key]:
                part.add(table, key, table in self._consistent, answer)
        return part

    def request(self) -> dict[str, Any]:
        """`RequestItems` for the keys that are still open."""
        wanted: dict[str, Any] = {}
        for table, keys in self.tables.items():
            still_open = [key for key, answers in keys.items() if not all(answer.done() for answer in answers)]
            if still_open:
                named = [{KEY: {"S": key}} for key in still_open]
                wanted[table] = {"Keys": named, "ConsistentRead": table in self._consistent}
        return wanted

    def take(self, answer: dict[str, Any]) -> None:
        """Deliver a response to the callers; a key that is neither returned nor unprocessed has no item."""
        for table, keys in self.tables.items():
            found = {item[KEY]["S"]: item for item in answer["Responses"].get(table, [])}
            later = {key[KEY]["S"] for key in answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])}
            for key in keys.keys() - later:
                for waiting in keys[key]:
                    if not waiting.done():
                        waiting.set_result(found.get(key))

    def attach(self, load: "asyncio.Task[None]") -> None:
        """Cancel `load` when its last caller leaves, and fail the callers with the error of `load`."""
        load.add_done_callback(self._ended)
        for answer in self._answers():
            answer.add_done_callback(lambda _: self._left(load))

    def _left(self, load: "asyncio.Task[None]") -> None:
        """A caller timed out and cancelled its get; it may have been the last one."""
        if not self.open and not load.done():
            asyncio.get_running_loop().call_later(GRACE_S, load.cancel)

    def _ended(self, load: "asyncio.Task[None]") -> None:
        error = Unavailable(f"{self.named} was closed") if load.cancelled() else load.exception()
        if error is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Fail the callers that are still waiting."""
        for answer in self._answers():
            if not answer.done():
                answer.set_exception(error)

    def _answers(self) -> Iterator[Answer]:
        return (answer for keys in self.tables.values() for answers in keys.values() for answer in answers)


class WritePacer:
    """A token bucket of write units, stored as the instant at which the units taken so far are paid off."""

    def __init__(
        self,
        units_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._unit_s = 1 / units_per_second
        self._clock, self._sleep = clock, sleep
        self._paid_off = clock()

    async def take(self, units: int) -> None:
        """Return when `units` may be written; first come, first served."""
        begins = max(self._paid_off, self._clock() - BURST_S)
        self._paid_off = begins + units * self._unit_s
        wait_s = begins - self._clock()
        if wait_s > 0:
            await self._sleep(wait_s)


def code_of(error: PingfeedError) -> str | None:
    """AWS's error code; None without a response: a time-out or a broken connection."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code")) if isinstance(response, dict) else None


def _is_silent(error: PingfeedError) -> bool:
    return error.retryable and code_of(error) is None


def is_throttled(error: PingfeedError) -> bool:
    """The request was throttled and not executed."""
    return code_of(error) in _THROTTLED


def is_transient(error: PingfeedError) -> bool:
    """Throttling, a server fault or no response: a retry may succeed. The request may have been executed."""
    code = code_of(error)
    return error.retryable and (code is None or code in _THROTTLED or code in _BROKEN)


def is_permanent(error: PingfeedError) -> bool:
    """A permanent error: an absent table, a missing permission, an invalid request."""
    return code_of(error) is not None and not is_transient(error)
