"""Refused events of a Lambda function: each request's lines are one object, put into the lake before the answer.

    rejected/day=YYYY-MM-DD/<writer>-<n>.jsonl    the lines of `rejected.py`; a writer is one execution environment

A writer keeps so many objects a day, and the first ones: a client gone wild must not fill a bucket with small objects,
nor hide the first mistake. A store that refuses or hangs costs the request `WITHIN_S` at most, and then the refusals.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from ingest_api.rejected import line_of
from pingfeed.core.clock import day_of
from pingfeed.core.errors import PingfeedError
from pingfeed.core.events import Refusal
from pingfeed.ports import Artifacts

MAX_OBJECTS_A_DAY: Final = 100
WITHIN_S: Final = 4.0
_log = logging.getLogger(__name__)


class RejectedObjects:
    """Puts refusals into a store; satisfies `RejectedEvents`. Owns the store: `close` closes it."""

    def __init__(
        self, store: Artifacts, *, writer: str, max_objects_a_day: int = MAX_OBJECTS_A_DAY, within_s: float = WITHIN_S
    ) -> None:
        self._store, self._writer = store, writer
        self._max, self._within_s = max_objects_a_day, within_s
        self._day, self._put = "", 0
        self.on_dropped: Callable[[int], None] = lambda _count: None

    async def add(self, refusals: Sequence[Refusal], received_ms: int) -> None:
        """Keep refusals of one moment; on return they are in the store, or dropped."""
        day = day_of(received_ms)
        if day != self._day:
            self._day, self._put = day, 0
        if self._put == self._max:
            self.on_dropped(len(refusals))
            return
        self._put += 1
        key = f"rejected/day={day}/{self._writer}-{self._put}.jsonl"
        try:
            async with asyncio.timeout(self._within_s):
                await self._store.put(key, b"".join(line_of(refusal, received_ms) for refusal in refusals))
        except (PingfeedError, TimeoutError) as error:
            _log.warning("refused events could not be kept", extra={"reason": str(error) or "the store hangs"})
            self.on_dropped(len(refusals))

    async def close(self) -> None:
        """Close the store; nothing waits."""
        await self._store.close()
