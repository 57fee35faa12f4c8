"""What both routes do with a request: decode, authorize, drop duplicates, store, apply, report each event's outcome.

A key may send every event. The token of a user may send what that user did and what they publish:

| event | a user may send it if |
|---|---|
| `ping_created` | PINGFEED_USER_CATALOGUE is set, `creator_id` is the user, and `user_id` too where it is given |
| `ping_deleted` | never: it does not say whose ping it is |
| any other | `user_id` is the user |

A `ping_created` under the id of someone else's ping changes nothing: only edits by its first creator count, and a key's
word about who that is counts more than a user's, which the row's `by_user` tells (`batch/sql/ping_versions.sql`).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ingest_api.decode import decode
from ingest_api.dedupe import RecentEvents
from ingest_api.rejected import RejectedEvents
from ingest_api.wiring import Counters
from pingfeed.core.clock import Clock
from pingfeed.core.errors import Forbidden, InvalidInput, MalformedBody
from pingfeed.core.events import RejectedEvent
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
    """The outcome of a request's events; each is counted once.

    `duplicates` were accepted before (or earlier in the request) under the same `user_id` and `event_id`: they count
    as delivered, and are not stored again.
    """

    accepted: int
    duplicates: int
    rejected: list[Rejected]

    @property
    def status(self) -> int:
        """202, or 422 if nothing in the request was accepted, now or before."""
        return 202 if self.accepted or self.duplicates else 422

    def require_permission(self) -> None:
        """Forbidden if nothing was accepted, only because the caller may not send it."""
        if self.status == 422 and all(one.code == Forbidden.code for one in self.rejected):
            first = self.rejected[0]
            raise Forbidden(first.message, field=first.field)


def authorize(subject: str, event: Mapping[str, Any], *, may_publish: bool) -> None:
    """InvalidInput with Forbidden's code if this user may not send the event."""
    kind, user_id = event.get("event_type"), event.get("user_id")
    if kind == "ping_deleted":
        raise _forbidden("event_type", "ping_deleted requires an API key")
    if kind == "ping_created" and not may_publish:
        raise _forbidden("event_type", "ping_created requires an API key, or PINGFEED_USER_CATALOGUE=1")
    if kind == "ping_created" and event.get("creator_id") != subject:
        raise _forbidden("creator_id", "creator_id must be the token's user")
    if user_id != subject and not (kind == "ping_created" and user_id is None):
        raise _forbidden("user_id", "user_id must be the token's user")


def _forbidden(field: str, message: str) -> InvalidInput:
    return InvalidInput(message, field=field, code=Forbidden.code)


class EventReceiver:
    """Accepts events."""

    def __init__(
        self,
        *,
        delivery: Delivery | DirectDelivery,
        rejected: RejectedEvents,
        counters: Counters,
        clock: Clock,
        make_id: IdMaker,
        user_catalogue: bool = False,
    ) -> None:
        self._delivery = delivery
        self._rejected = rejected
        self._counters = counters
        self._clock = clock
        self._make_id = make_id
        self._user_catalogue = user_catalogue
        self._recent = RecentEvents()
        rejected.on_dropped = counters.rejected_dropped.inc

    async def accept(self, body: bytes, caller: Caller, *, many: bool) -> Result:
        """Accept a body's events that the caller may send; returns once they are durable and applied.

        Raises Unavailable if nothing could be stored: then nothing of the request counts, and all of it may be sent
        again; MalformedBody, InvalidInput or TooLarge if the body as a whole is rejected.
        """
        now_ms = self._clock()
        user = caller.subject
        check = None if user is None else partial(authorize, user, may_publish=self._user_catalogue)
        try:
            rows, rejected = decode(body, now_ms, self._make_id, many=many, check=check, dropped=self._dropped)
        except MalformedBody as error:
            await self._rejected.add([RejectedEvent(0, None, error.code, None, error.message, body)], now_ms)
            raise
        for row in rows if user is not None else ():
            if row["event_type"] == "ping_created":
                row["by_user"] = 1
        async with self._recent.claimed(rows) as fresh:
            if fresh:
                await self._delivery.accept(fresh)
        if rejected:
            await self._rejected.add(rejected, now_ms)
        return self._counted(len(fresh), len(rows) - len(fresh), rejected)

    def _dropped(self, field: str) -> None:
        self._counters.context_dropped.labels(field).inc()

    def _counted(self, accepted: int, duplicates: int, rejected: Sequence[RejectedEvent]) -> Result:
        if duplicates:
            self._counters.duplicates.inc(duplicates)
        for one in rejected:
            self._counters.rejected.labels(one.code).inc()
        return Result(
            accepted, duplicates, [Rejected(r.index, r.event_id, r.code, r.field, r.message) for r in rejected]
        )
