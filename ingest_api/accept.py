"""What both routes do with a request's events: check each, store the new ones, apply them, say what became of each.

decoded events -> rows and refusals -> without duplicates -> durable and applied -> remembered -> result
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from ingest_api.counters import Counters
from ingest_api.decode import Undecodable
from ingest_api.recent import RecentEvents
from ingest_api.rejected import RejectedLog
from pingfeed.clock import Clock, IdMaker
from pingfeed.delivery.delivery import Delivery
from pingfeed.errors import MalformedBody
from pingfeed.events import Refusal, to_rows


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


class Door:
    """Lets events in."""

    def __init__(
        self,
        *,
        delivery: Delivery,
        rejected: RejectedLog,
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

    async def accept(self, events: Sequence[Any]) -> Result:
        """Take decoded events in; returns when what is accepted is durable and applied.

        Among them may be an `Undecodable`, or the `Refusal` of an event that its caller may not send.

        Raises Unavailable where nothing could be stored: then nothing of the request counts, and all may be sent again.
        """
        now_ms = self._clock()
        rows, refusals = to_rows(events, now_ms, self._make_id)
        fresh = self._recent.new_of(rows)
        if fresh:
            await self._delivery.accept(list(fresh.values()))
            self._recent.remember(fresh)
        refusals = [_unread(refusal, events[refusal.index]) for refusal in refusals]
        self._keep(refusals, now_ms)
        return self._counted(len(fresh), len(rows) - len(fresh), refusals)

    def keep_malformed(self, body: bytes, error: MalformedBody) -> None:
        """Keep a body that is no JSON, with the reason, beside the refused events."""
        self._keep([Refusal(0, None, error.code, None, error.message, body)], self._clock())

    def _keep(self, refusals: Sequence[Refusal], now_ms: int) -> None:
        if refusals:
            self._rejected.add(refusals, now_ms)

    def _counted(self, accepted: int, duplicates: int, refusals: Sequence[Refusal]) -> Result:
        self._counters.accepted.inc(accepted)
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
