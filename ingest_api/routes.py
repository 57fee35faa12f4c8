"""The two routes: one event, or up to 500."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from ingest_api.receiver import EventReceiver, Result
from pingfeed.core.events import MAX_EVENTS, ClientEvent
from pingfeed.web import openapi
from pingfeed.web.auth import authenticate
from pingfeed.web.body import read_body
from pingfeed.web.errors import ErrorBody, check_parameters, json_response
from pingfeed.web.middleware import Handler


class TrackEvents(msgspec.Struct, frozen=True):
    """The body of /track-events. Unknown fields of an event are kept as they are."""

    events: Annotated[list[ClientEvent], msgspec.Meta(min_length=1, max_length=MAX_EVENTS)]


TYPES: Final = (TrackEvents, Result)
"""The types that the routes' OpenAPI refers to."""

_VIEW: Final = {
    "event_type": "view",
    "event_id": "0193f5a0-7b1c-7c1e-9d56-0f3f6a1b2c3d",
    "user_id": "user-1",
    "ping_id": "ping-42",
    "watch_time_ratio": 0.85,
    "timestamp": "2026-11-22T12:00:00Z",
    "country": "DE",
}
_FOLLOW: Final = {"event_type": "follow", "user_id": "user-1", "creator_id": "creator-7", "ping_id": "ping-42"}
_CREATED: Final = {
    "event_type": "ping_created",
    "ping_id": "ping-42",
    "creator_id": "creator-7",
    "topics": ["cooking", "bread"],
    "language": "de",
    "country": "DE",
    "duration_ms": 31_000,
}
_EXAMPLES: Final = {"view": _VIEW, "follow": _FOLLOW, "ping_created": _CREATED}
_BAD: Final = {
    "index": 1,
    "event_id": None,
    "code": "out_of_range",
    "field": "watch_time_ratio",
    "message": "watch_time_ratio must be a number >= 0.0",
}

_ABOUT: Final = (
    "A bad event is rejected alone, with its reason. Sending an event again under the same `event_id` is safe. "
    "The body may be gzip (`Content-Encoding: gzip`); inflated it is at most 1 MiB."
)


def _answers() -> dict[int | str, dict[str, Any]]:
    taken = openapi.answer(
        Result,
        meaning="Durable and applied: accepted events affect the next feed, and survive a crash of this service.",
        example={"accepted": 1, "duplicates": 0, "rejected": [_BAD]},
    )
    nothing = openapi.answer(
        Result,
        ErrorBody,
        meaning="Nothing was accepted: `rejected` has the reason of each event. Or the body has no list of events.",
        example={"accepted": 0, "duplicates": 0, "rejected": [{**_BAD, "index": 0}]},
    )
    return {202: taken, 422: nothing, **openapi.refusals(400, 401, 403, 413, 429, 503)}


def handlers(receiver: EventReceiver) -> dict[tuple[str, str], Handler]:
    """The handlers by method and path."""

    async def track_event(request: Request) -> Response:
        return await _track(request, receiver, many=False)

    async def track_events(request: Request) -> Response:
        return await _track(request, receiver, many=True)

    return {("POST", "/track-event"): track_event, ("POST", "/track-events"): track_events}


def create_router(answering: Mapping[tuple[str, str], Handler]) -> APIRouter:
    """The routes of these handlers, with their documentation."""
    router = APIRouter(tags=["events"])
    shared: dict[str, Any] = {"description": _ABOUT, "status_code": 202, "responses": _answers(), "methods": ["POST"]}
    router.add_api_route(
        "/track-event",
        answering["POST", "/track-event"],
        summary="Send one event",
        openapi_extra=openapi.body(ClientEvent, _EXAMPLES),
        **shared,
    )
    router.add_api_route(
        "/track-events",
        answering["POST", "/track-events"],
        summary=f"Send 1 to {MAX_EVENTS} events",
        openapi_extra=openapi.body(TrackEvents, {"two events": {"events": [_VIEW, _FOLLOW]}}),
        **shared,
    )
    return router


async def _track(request: Request, receiver: EventReceiver, *, many: bool) -> Response:
    caller = await authenticate(request)
    if request.scope["query_string"]:
        check_parameters(request.query_params)
    result = await receiver.accept(await read_body(request), caller, many=many)
    result.require_permission()
    return json_response(result, result.status)
