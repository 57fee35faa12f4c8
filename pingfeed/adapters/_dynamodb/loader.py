"""Gets that share a call: all that are issued in one turn of the event loop go out as one BatchGetItem.

A feed asks for a user's packet and for the user's signals in the same moment, from two adapters that know nothing of
each other; both ask here, and one call answers both. A table is read consistently where one of its gets wants that (it
costs twice as much). What is wrong with one table is not the other's trouble: where a call for several is refused, each
is asked again alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from pingfeed.adapters._dynamodb.answers import is_refused, is_throttled
from pingfeed.adapters._dynamodb.items import KEY, Item
from pingfeed.core.errors import PingfeedError, Unavailable
from pingfeed.core.retry import Backoff

KEYS_A_CALL: Final = 100
TRIES: Final = 5
"""Calls for the same keys while DynamoDB answers for some of them, or none, that it is asked too much."""
GRACE_S: Final = 1.0
"""How long a call may go on that nobody waits for. To break it off at once would break its connection, and a service
with little time a request would never have made one; without an end, calls would gather where a store hangs."""

Answer = asyncio.Future[Item | None]
BatchGet = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""BatchGetItem's `RequestItems` to its answer; raises errors of ours."""


class Loader:
    """The gets of one event loop; `batch_get` carries a call."""

    def __init__(self, batch_get: BatchGet, backoff: Backoff) -> None:
        self._batch_get, self._backoff = batch_get, backoff
        self._turn: _Asked | None = None
        self._loads: set[asyncio.Task[None]] = set()

    def get(self, table: str, key: str, *, consistent: bool) -> Answer:
        """The item of the table, None if there is none; fails with Unavailable. Must be called on the loop."""
        loop = asyncio.get_running_loop()
        if self._turn is None:
            self._turn = _Asked()
            loop.call_soon(self._send)
        return self._turn.add(table, key, consistent, loop.create_future())

    async def close(self) -> None:
        """Give up what is under way, and what would be in a moment."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.fail(Unavailable(f"{turn.named} was let go"))
        for load in self._loads:
            load.cancel()
        if self._loads:
            await asyncio.wait(self._loads)

    def _send(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            for asked in turn.calls():
                self._begin(asked)

    def _begin(self, asked: "_Asked") -> None:
        load = asyncio.get_running_loop().create_task(self._load(asked))
        self._loads.add(load)
        load.add_done_callback(self._loads.discard)
        asked.carried_by(load)

    async def _load(self, asked: "_Asked") -> None:
        try:
            await self._fetch(asked)
        except PingfeedError as error:
            if len(asked.tables) == 1 or not is_refused(error):
                raise
            for alone in asked.by_table():
                self._begin(alone)

    async def _fetch(self, asked: "_Asked") -> None:
        for failures in range(1, TRIES + 1):
            try:
                asked.take(await self._batch_get(asked.request()))
            except PingfeedError as error:
                if failures == TRIES or not is_throttled(error):
                    raise
            if not asked.open:
                return
            if failures < TRIES:
                await asyncio.sleep(self._backoff.pause_s(failures))
        raise Unavailable(f"{asked.named} takes no more reads now")


class _Asked:
    """Keys that are asked for, by table, with those who wait for each."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, list[Answer]]] = {}
        self._consistent: set[str] = set()

    def add(self, table: str, key: str, consistent: bool, answer: Answer) -> Answer:
        """Ask for a key on behalf of `answer`; a call may not name a key twice, so whoever wants it shares it."""
        self.tables.setdefault(table, {}).setdefault(key, []).append(answer)
        if consistent:
            self._consistent.add(table)
        return answer

    @property
    def named(self) -> str:
        """For an error's sentence."""
        return "the DynamoDB table " + " and ".join(self.tables)

    @property
    def open(self) -> bool:
        """Whether anybody still waits."""
        return any(not answer.done() for answer in self._answers())

    def calls(self) -> Iterator["_Asked"]:
        """As many as it takes for each to have at most KEYS_A_CALL keys."""
        keys = [(table, key) for table, keys in self.tables.items() for key in keys]
        for start in range(0, len(keys), KEYS_A_CALL):
            yield self._part(keys[start : start + KEYS_A_CALL])

    def by_table(self) -> Iterator["_Asked"]:
        """One for each table."""
        for table, keys in self.tables.items():
            yield self._part([(table, key) for key in keys])

    def _part(self, keys: list[tuple[str, str]]) -> "_Asked":
        part = _Asked()
        for table, key in keys:
            for answer in self.tables[table][key]:
                part.add(table, key, table in self._consistent, answer)
        return part

    def request(self) -> dict[str, Any]:
        """`RequestItems` for what is still open."""
        return {
            table: {
                "Keys": [{KEY: {"S": key}} for key, answers in keys.items() if not all(map(_done, answers))],
                "ConsistentRead": table in self._consistent,
            }
            for table, keys in self.tables.items()
            if not all(_done(answer) for answers in keys.values() for answer in answers)
        }

    def take(self, answer: dict[str, Any]) -> None:
        """Give what came to those who wait; a key that is neither there nor unprocessed has no item."""
        for table, keys in self.tables.items():
            found = {item[KEY]["S"]: item for item in answer["Responses"].get(table, [])}
            later = {key[KEY]["S"] for key in answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])}
            for key in keys.keys() - later:
                for waiting in keys[key]:
                    if not waiting.done():
                        waiting.set_result(found.get(key))

    def carried_by(self, load: "asyncio.Task[None]") -> None:
        """Let `load` end with the last who waits, and those who wait with an error of `load`."""
        load.add_done_callback(self._ended)
        for answer in self._answers():
            answer.add_done_callback(lambda _: self._left(load))

    def _left(self, load: "asyncio.Task[None]") -> None:
        """Nobody waits any more, perhaps: callers whose time is over cancel their gets."""
        if not self.open and not load.done():
            asyncio.get_running_loop().call_later(GRACE_S, load.cancel)

    def _ended(self, load: "asyncio.Task[None]") -> None:
        error = Unavailable(f"{self.named} was let go") if load.cancelled() else load.exception()
        if error is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Give the error to those who still wait."""
        for answer in self._answers():
            if not answer.done():
                answer.set_exception(error)

    def _answers(self) -> Iterator[Answer]:
        return (answer for keys in self.tables.values() for answers in keys.values() for answer in answers)


def _done(answer: Answer) -> bool:
    return answer.done()
