"""What both routes do with a request's events: check each, store the new ones, apply them, say what became of each.

body -> rows and refusals -> without duplicates -> durable and applied -> remembered -> result
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from ingest_api.counters import Counters
from ingest_api.decode import Undecodable, many_events, one_event
from ingest_api.dedupe import RecentEvents
from ingest_api.permit import forbidden
from ingest_api.plain import many_rows, one_row
from ingest_api.rejected import RejectedEvents
from pingfeed.core.clock import Clock
from pingfeed.core.errors import MalformedBody
from pingfeed.core.events import Refusal, Row, to_rows
from pingfeed.core.ids import IdMaker
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.inline import DirectDelivery
from pingfeed.web.auth import Caller


class Rejected(msgspec.Struct, frozen=True):
    """An event that was not accepted: its place in the request, and why; `message` is one sentence."""

    index: int
    event_id: str | None
    code: str
    field: str | None
    message: str


class Result(msgspec.Struct, frozen=True):
    """What became of a request's events; every one is counted once.

    `duplicates` were accepted before (or earlier in the request) under the same `user_id` and `event_id`: they count
    as delivered, and are not stored again.
    """

    accepted: int
    duplicates: int
    rejected: list[Rejected]

    @property
    def status(self) -> int:
        """202, unless there is nothing in the request that is stored: then 422."""
        return 202 if self.accepted or self.duplicates else 422


@dataclass(frozen=True)
class Shape:
    """How a route's body is read: all at once where it is plain, else event by event."""

    plain: Callable[[bytes, int, IdMaker], list[Row] | None]
    events: Callable[[bytes], list[Any]]


ONE: Final = Shape(one_row, one_event)
MANY: Final = Shape(many_rows, many_events)


class EventReceiver:
    """Lets events in."""

    def __init__(
        self,
        *,
        delivery: Delivery | DirectDelivery,
        rejected: RejectedEvents,
        counters: Counters,
        clock: Clock,
        make_id: IdMaker,
    ) -> None:
        self._delivery = delivery
        self._rejected = rejected
        self._counters = counters
        self._clock = clock
        self._make_id = make_id
        self._recent = RecentEvents()
        rejected.on_dropped = counters.rejected_dropped.inc

    async def accept(self, body: bytes, shape: Shape, caller: Caller) -> Result:
        """Take in what a body holds and its caller may send; returns when what is accepted is durable and applied.

        Raises Unavailable where nothing could be stored: then nothing of the request counts, and all may be sent again;
        MalformedBody, InvalidInput or TooLarge where the body as a whole is refused.
        """
        now_ms = self._clock()
        refusals: list[Refusal] = []
        rows = shape.plain(body, now_ms, self._make_id)
        if rows is None or forbidden(caller, rows):
            rows, refusals = await self._one_by_one(body, shape, caller, now_ms)
        async with self._recent.claimed(rows) as fresh:
            if fresh:
                await self._delivery.accept(fresh)
        await self._keep(refusals, now_ms)
        return self._counted(len(fresh), len(rows) - len(fresh), refusals)

    async def _one_by_one(
        self, body: bytes, shape: Shape, caller: Caller, now_ms: int
    ) -> tuple[list[Row], list[Refusal]]:
        """The rows of the good events and a refusal for each bad one. A body that is no JSON is kept, and raised."""
        try:
            events = shape.events(body)
        except MalformedBody as error:
            await self._keep([Refusal(0, None, error.code, None, error.message, body)], now_ms)
            raise
        for index, refusal in forbidden(caller, events).items():
            events[index] = refusal
        rows, refusals = to_rows(events, now_ms, self._make_id)
        return rows, [_unread(refusal, events[refusal.index]) for refusal in refusals]

    async def _keep(self, refusals: Sequence[Refusal], now_ms: int) -> None:
        if refusals:
            await self._rejected.add(refusals, now_ms)

    def _counted(self, accepted: int, duplicates: int, refusals: Sequence[Refusal]) -> Result:
        if duplicates:
            self._counters.duplicates.inc(duplicates)
        for refusal in refusals:
            self._counters.rejected.labels(refusal.code).inc()
        rejected = [Rejected(r.index, r.event_id, r.code, r.field, r.message) for r in refusals]
        return Result(accepted, duplicates, rejected)


def _unread(refusal: Refusal, event: Any) -> Refusal:
    """The refusal of an event that was refused before, or could not be decoded, by that reason; any other as it is."""
    if isinstance(event, Refusal):
        return event
    if not isinstance(event, Undecodable):
        return refusal
    return replace(refusal, code=event.code, message=event.message, body=event.body)
