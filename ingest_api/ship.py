"""Takes the log of refused events to the lake where that is no folder of this machine.

In the background, now and then and at the end, each complete file goes to `rejected/day=YYYY-MM-DD/<file>` of the lake
and is removed here only after it is there. What an earlier process left goes with the first round. The same file put
twice is the same object, so a kill at any moment loses no line that was on the disk, and doubles none.
"""

import asyncio

from ingest_api.rejected import RejectedLog
from pingfeed.core.clock import Clock, system_clock
from pingfeed.ports import Artifacts
from pingfeed.spool.rounds import CLOSE_S, EVERY_S, Rounds


class Shipper:
    """Empties one RejectedLog into a store. Owns the store: `close` closes it.

    shipper.start()
    await shipper.close()    # before the log is closed
    """

    def __init__(
        self, rejected: RejectedLog, store: Artifacts, *, every_s: float = EVERY_S, clock: Clock = system_clock
    ) -> None:
        self._rejected, self._store, self._clock = rejected, store, clock
        failed = "refused events stay here, they will be shipped again"
        self._rounds = Rounds("shipper of refused events", self.ship, failed=failed, every_s=every_s)

    def start(self) -> None:
        """Begin to ship, in a task of the running loop."""
        self._rounds.start()

    async def ship(self) -> None:
        """Take there what is complete now; raises what the store raises, and the rest waits for the next round."""
        for file in await self._rejected.finished(self._clock()):
            data = await asyncio.to_thread(file.read_bytes)
            await self._store.put(f"rejected/{file.parent.name}/{file.name}", data)
            await self._rejected.taken(file)

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Ship what is left, for at most `timeout_s`; what stays is shipped by the next process."""
        await self._rounds.close(timeout_s)
        await self._store.close()
