"""Takes the log of refused events to the lake where that is no folder of this machine.

In the background, now and then and at the end, each complete file goes to `rejected/day=YYYY-MM-DD/<file>` of the lake
and is removed here only after it is there. What an earlier process left goes with the first round. The same file put
twice is the same object, so a kill at any moment loses no line that was on the disk, and doubles none.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from ingest_api.rejected import RejectedLog
from pingfeed.clock import Clock, system_clock
from pingfeed.delivery.retry import report_end
from pingfeed.errors import PingfeedError
from pingfeed.ports import Artifacts

EVERY_S: Final = 300.0
CLOSE_S: Final = 5.0
_log = logging.getLogger(__name__)


class Shipper:
    """Empties one RejectedLog into a store. Owns the store: `close` closes it.

    shipper.start()
    await shipper.close()    # before the log is closed
    """

    def __init__(
        self, rejected: RejectedLog, store: Artifacts, *, every_s: float = EVERY_S, clock: Clock = system_clock
    ) -> None:
        self._rejected, self._store, self._every_s, self._clock = rejected, store, every_s, clock
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ship, in a task of the running loop."""
        self._task = asyncio.create_task(self._ship_on(), name="shipper of refused events")
        self._task.add_done_callback(report_end)

    async def ship(self) -> None:
        """Take there what is complete now; raises what the store raises, and the rest waits for the next round."""
        for file in await self._rejected.finished(self._clock()):
            data = await asyncio.to_thread(file.read_bytes)
            await self._store.put(f"rejected/{file.parent.name}/{file.name}", data)
            await self._rejected.taken(file)

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Ship what is left, for at most `timeout_s`; what stays is shipped by the next process."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout_s)
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._store.close()

    async def _ship_on(self) -> None:
        """A round now, one after each pause, and a last one."""
        while True:
            last = self._closing.is_set()
            try:
                await self.ship()
            except (PingfeedError, OSError) as error:
                _log.warning("refused events stay here, they will be shipped again: %s", error)
            if last:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._every_s)
