"""Log a served feed: apply the `served` act before the response, write `feed_served` to the spool after it.

The chain's next page filters by the act, so the response waits for it as long as the budget lasts. The event becomes
durable a moment later: one task writes everything that waits to the spool at once, and is drained on shutdown. A
response never waits for a disk and never fails because of one: if the spool rejects the event, it is lost, counted and
logged.

Without a spool (Lambda) the event is put concurrently with the act, and the response waits for both as long as the
budget lasts. An event that was not put by then is counted as dropped; an act that was not applied degrades the feed.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Coroutine, Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np

from feed_api.metrics import FeedMetrics
from feed_api.state import FeedState
from pingfeed.core.acts import acts_of
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import PingfeedError
from pingfeed.core.events import FeedServed, Row, served_row
from pingfeed.core.features import REALTIME, Float32, language_name, place_name
from pingfeed.core.ids import IdMaker
from pingfeed.core.retry import twice
from pingfeed.ports import UserSignals
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.inline import DirectDelivery

log = logging.getLogger(__name__)

MAX_WAITING: Final = 20_000
"""Rows that may wait in memory for the spool: about a minute of a busy process whose disk stalls."""
DRAIN_S: Final = 5.0


class ServedActs:
    """Applies each `served` act once: before the response, or from the spool if that was too late."""

    def __init__(self, signals: UserSignals) -> None:
        self._signals = signals
        self._applied: dict[str, None] = {}
        self.failing = False
        """Whether the latest write failed: then what the user does is not in the signals either."""

    async def apply_now(self, row: Row) -> None:
        """Apply one row's act now; `apply` will skip it."""
        await self._write([row])
        self._applied[row["request_id"]] = None
        if len(self._applied) > MAX_WAITING:  # The spool rejected its row, or applied it first.
            del self._applied[next(iter(self._applied))]

    async def apply(self, rows: Sequence[Row]) -> None:
        """Apply the spooled rows (`delivery.Apply`) that were not applied yet; repeating one is harmless but slower."""
        late = [row for row in rows if row["request_id"] not in self._applied]
        if late:
            await self._write(late)
        for row in rows:
            self._applied.pop(row["request_id"], None)

    async def _write(self, rows: Sequence[Row]) -> None:
        try:
            await self._signals.apply([act for row in rows for act in acts_of(row)])
        except PingfeedError as error:
            self.failing = error.retryable
            raise
        self.failing = False


class ServedLog:
    """Logs every feed of this process."""

    def __init__(
        self,
        delivery: Delivery | DirectDelivery,
        acts: ServedActs,
        metrics: FeedMetrics,
        make_id: IdMaker,
        log_matrix_share: float,
    ) -> None:
        self._delivery, self._acts, self._metrics = delivery, acts, metrics
        self._make_id, self._log_matrix_share = make_id, log_matrix_share
        self._waiting: list[Row] = []
        self._running: set[asyncio.Task[Any]] = set()
        self._acting: dict[str, asyncio.Task[Any]] = {}
        self._writer: asyncio.Task[None] | None = None

    async def __call__(self, state: FeedState) -> None:
        """Apply the act within the budget, and queue the event."""
        if not state.order:
            return
        row = served_row(feed_served(state, self._make_id, self._log_matrix_share))
        if isinstance(self._delivery, DirectDelivery):
            await self._put(state, row, self._delivery)
            return
        if not state.request.cheap:  # The act of a cheap feed is applied from the spool, with others.
            act = self._act(state.request.user_id, self._apply(row))
            await asyncio.wait([act], timeout=state.deadline.act_s())
            if not act.done():
                self._metrics.act_failures.inc()
        if self._acts.failing:
            state.degraded.add("signals")
        self._spool(row)

    async def settle(self, state: FeedState) -> None:
        """Wait for the act of the user's page before, if it is late, so that this page does not repeat that one."""
        if act := self._acting.get(state.request.user_id):
            await asyncio.wait([act], timeout=state.deadline.act_s())

    async def drain(self, timeout_s: float = DRAIN_S) -> None:
        """Wait until every event is in the spool (or rejected by it), for at most `timeout_s`."""
        end = time.monotonic() + timeout_s
        while self._running and (left_s := end - time.monotonic()) > 0:
            await asyncio.wait(self._running, timeout=left_s)
        for task in self._running:
            task.cancel()
        if self._waiting:
            self._lose(len(self._waiting), "the service stopped before the spool accepted it")

    async def _put(self, state: FeedState, row: Row, delivery: DirectDelivery) -> None:
        if late := self._acting.get(state.request.user_id):
            late.cancel()  # It may hang on a dead connection, and acts of one user wait for each other.
        act = self._act(state.request.user_id, _succeeds(twice(lambda: self._acts.apply_now(row))))
        put = self._start(_succeeds(delivery.accept([row])))
        await asyncio.wait([act, put], timeout=state.deadline.left_s())
        if not (act.done() and act.result()):
            self._metrics.act_failures.inc()
            state.degraded.add("signals")
        if not (put.done() and put.result()):
            self._metrics.dropped.inc()

    def _act(self, user_id: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start to apply an act; `settle` finds it while it runs."""
        act = self._acting[user_id] = self._start(work)
        act.add_done_callback(lambda _: self._acting.get(user_id) is act and self._acting.pop(user_id))
        return act

    async def _apply(self, row: Row) -> None:
        try:
            await self._acts.apply_now(row)
        except PingfeedError as error:
            self._metrics.act_failures.inc()
            log.debug("a served act will be applied from the spool: %s", error.message)

    def _spool(self, row: Row) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._lose(1, "too many events wait for the spool")
            return
        self._waiting.append(row)
        if self._writer is None:
            self._writer = self._start(self._write())

    async def _write(self) -> None:
        """Write everything that waits at once, until nothing does: a burst shares one commit of the spool."""
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                for _, same_day in groupby(waiting, key=_day):
                    await self._accept(list(same_day))
        finally:
            self._writer = None  # Even after an error: the next feed starts a new one.

    async def _accept(self, rows: Sequence[Row]) -> None:
        try:
            await self._delivery.accept(rows)
        except PingfeedError as error:
            self._lose(len(rows), error.message)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _lose(self, events: int, reason: str) -> None:
        self._metrics.lost.inc(events)
        log.warning("lost feed_served events: %s", reason, extra={"events": events})


def feed_served(state: FeedState, make_id: IdMaker, log_matrix_share: float) -> FeedServed:
    """The event of one response: every served item in order, and for a share of requests the whole matrix."""
    request, live, pool = state.request, state.live, state.pool
    whole = state.matrix is not None and state.rng.random() < log_matrix_share
    return FeedServed(
        event_id=make_id(request.now_ms),
        user_id=request.user_id,
        request_id=request.request_id,
        received_ms=request.now_ms,
        timestamp_ms=request.now_ms,
        country=place_name(state.user.country),
        language=language_name(state.user.language),
        model_id=live.ranker.model_id if state.scores is not None else None,
        feature_digest=state.features.digest,
        snapshot_tick=live.snapshot.tick if live.has_snapshot else None,
        packet_tick=_packet_tick(state),
        served_pings=[pool.ping_ids[at] for at in state.order],
        served_sources=pool.sources[state.order].tolist(),
        served_scores=_or_null(pool.retrieval[state.order]),
        served_realtime=_or_null(_realtime_of_served(state)),
        served_propensities=state.propensities,
        matrix_pings=pool.ping_ids if whole else None,
        matrix=_base64(state.matrix) if whole and state.matrix is not None else None,
    )


async def _succeeds(work: Coroutine[Any, Any, None]) -> bool:
    try:
        await work
    except PingfeedError as error:
        log.debug("a served feed is not logged: %s", error.message)
    except Exception:  # whatever happens, the feed is served
        log.exception("a served feed is not logged")
    else:
        return True
    return False


def _day(row: Row) -> int:
    return int(row["received_ms"]) // DAY_MS


def _packet_tick(state: FeedState) -> int | None:
    """The tick of the user features; None if they were unknown (no packet, or one of another digest)."""
    return state.packet.tick if state.packet is not None and state.packet.user is not None else None


def _realtime_of_served(state: FeedState) -> Float32:
    if state.realtime is None:
        return np.full(len(state.order) * len(REALTIME), np.nan, np.float32)
    return state.realtime[state.order].ravel()


def _or_null(values: Float32) -> list[float | None]:
    # Only NaN differs from itself.
    return [None if value != value else value for value in values.tolist()]


def _base64(matrix: Float32) -> str:
    return base64.b64encode(matrix.astype("<f4").tobytes()).decode()
