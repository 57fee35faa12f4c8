"""Delivery: everything between an accepted request and the sink, that is the spool, its deliverer and the replay.

`accept` returns when the rows are durable and their signals applied. If applying fails the rows are accepted all the
same: their segment stays in the spool, delivered or not, and is replayed in the background until that succeeds. After a
crash the next start applies everything that is still spooled. So signals never lag behind what has left the spool.
"""

from collections.abc import Sequence
from typing import Final

from pingfeed.core.errors import PingfeedError
from pingfeed.core.events import Row, encode_rows
from pingfeed.core.retry import Backoff
from pingfeed.ports import EventSink, SinkCounters
from pingfeed.spool.deliverer import Deliverer
from pingfeed.spool.replay import Apply, Replay
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import Counters

CLOSE_S: Final = 10.0


class Delivery:
    """One process's way to the sink. Owns the spool and the sink: `close` closes both.

    delivery = Delivery(Spool(settings.spool_dir / "ingest"), sink, apply=apply, flush_seconds=10)
    await delivery.start()          # before serving
    await delivery.accept(rows)     # 202 once this returns; Unavailable is a 503: nothing was accepted
    await delivery.close()
    """

    def __init__(
        self,
        spool: Spool,
        sink: EventSink,
        *,
        apply: Apply,
        flush_seconds: float,
        backoff: Backoff | None = None,
    ) -> None:
        self._spool, self._sink, self._apply = spool, sink, apply
        self._counters = Counters()
        backoff = backoff or Backoff()
        self._deliverer = Deliverer(spool, sink, flush_seconds=flush_seconds, counters=self._counters, backoff=backoff)
        self._replay = Replay(spool, apply, counters=self._counters, backoff=backoff, caught_up=self._deliverer.notice)

    @property
    def counters(self) -> Counters:
        """The counters as they are now; the same object every time."""
        self._counters.accepted = self._spool.accepted
        self._counters.spooled_events, self._counters.spooled_bytes = self._spool.depth()
        self._counters.spooled_damage = len(self._spool.damage)
        self._counters.unapplied = len(self._spool.unapplied())
        return self._counters

    @property
    def sink_counters(self) -> SinkCounters:
        """The sink's counters as they are now."""
        return self._sink.counters

    async def start(self) -> None:
        """Apply everything that is still spooled, then start to deliver. Await it before serving.

        If the signals' store is down, serving may start all the same: spooled rows stay and are applied later.
        """
        await self._replay.run_all()
        self._replay.start()
        self._deliverer.start()

    async def accept(self, rows: Sequence[Row]) -> None:
        """Make rows of one UTC day of arrival durable and apply their signals; Unavailable: none was accepted.

        Cancelling the caller (a client that hangs up, a deadline) undoes nothing: durable rows are applied in the
        background.
        """
        if not rows:
            return
        segment = await self._spool.append(encode_rows(rows), len(rows), rows[0]["received_ms"], in_flight=True)
        try:
            await self._apply(rows)
        except PingfeedError as error:
            self._replay.failed(error)
            self._spool.requeue(segment)
        except BaseException:  # Cancelled, or a bug: durable all the same.
            self._spool.requeue(segment)
            raise
        else:
            self._spool.done(segment)

    async def check(self) -> None:
        """Raise Unavailable if rows would not be accepted now, or would not be delivered."""
        self._deliverer.check()
        self._replay.check()
        await self._spool.check()

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Apply and deliver the rest, each for at most `timeout_s`; close spool and sink."""
        await self._spool.idle()
        await self._replay.close(timeout_s)
        await self._deliverer.close(timeout_s)
        await self._spool.close()
        await self._sink.close()
