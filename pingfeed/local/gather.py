"""Calls that come while another is under way go on together, as one call.

Where each call costs a row, a statement, a lock beside what it holds, many small ones are dear and one large one is
not. Nobody waits for company: the first call goes at the end of its turn of the loop, the next when that is done.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")
MAX_ITEMS: Final = 20_000
"""In one call, or those of a single one that holds more."""


class Gathered(Generic[_T]):
    """`call`, for items of many callers at once: what it raises all of them get. For one event loop."""

    def __init__(self, call: Callable[[Sequence[_T]], Awaitable[None]]) -> None:
        self._call = call
        self._waiting: list[tuple[Sequence[_T], asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, items: Sequence[_T]) -> None:
        """Return once `call` has returned for these items, in the order of the callers."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                group = self._next_group()
                outcome: Exception | None = None
                try:
                    await self._call([item for items, _ in group for item in items])
                except Exception as error:  # noqa: BLE001 - raised where the call was made
                    outcome = error
                for _, future in group:
                    _settle(future, outcome)
        finally:
            self._running = None

    def _next_group(self) -> list[tuple[Sequence[_T], "asyncio.Future[None]"]]:
        size = taken = 0
        for items, _ in self._waiting:
            size += len(items)
            if taken and size > MAX_ITEMS:
                break
            taken += 1
        group, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return group


def _settle(future: "asyncio.Future[None]", outcome: Exception | None) -> None:
    if future.done():  # Its caller has gone.
        return
    if outcome is None:
        future.set_result(None)
    else:
        future.set_exception(outcome)
