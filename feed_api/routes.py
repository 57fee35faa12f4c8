"""GET /get-feed: its OpenAPI, and parsing and authorising the query."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from feed_api.admission import Admission
from feed_api.cursor import LENGTH as CURSOR_LENGTH
from feed_api.cursor import read_cursor
from feed_api.pipeline import Pipeline
from feed_api.schema import Feed
from feed_api.state import FeedRequest
from pingfeed.core.clock import Clock
from pingfeed.core.context import normalised
from pingfeed.core.errors import Forbidden, InvalidInput
from pingfeed.core.events import Id
from pingfeed.core.ids import IdMaker
from pingfeed.web import openapi
from pingfeed.web.auth import Caller, authenticate
from pingfeed.web.errors import check_parameters, json_response
from pingfeed.web.middleware import ARRIVED_NS, Handler

TYPES: Final = (Feed,)
"""The types that the route's OpenAPI refers to."""
DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 50
HINTS: Final = {
    "country": ("ISO 3166-1 alpha-2, such as DE", r"^([A-Za-z]{2})?(?!\n)$"),
    "language": (
        "BCP 47, such as de-AT, or a device's form of it",
        r"^([A-Za-z]{2,3}([-_]#?[A-Za-z0-9]{1,8})*)?(?!\n)$",
    ),
}
"""Used where neither `user_updated` nor the packet gives the value."""
_MAX_HINT: Final = 100
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}

_ABOUT: Final = (
    "A hide, a block, a follow or a seen impression affects the very next feed. Parts that are late or unavailable are "
    "named in `degraded` and the feed is served without them; unknown users get a feed too. Pass `next_cursor` to get "
    "the next page; without a cursor the response is a new first page. Send `request_id` and `position` back with the "
    "events about a ping. Once a user has seen everything, pings come `again`, those first that were seen longest ago. "
    "Pings in a language that the user does not read come after all others, unless the user follows the creator."
)
_EXAMPLE: Final = {
    "request_id": "0193f5a0-7b1c-7c1e-9d56-0f3f6a1b2c3d",
    "user_id": "user-1",
    "model_id": "2026-11-22-1",
    "tick_ms": 1_795_348_800_000,
    "items": [{"ping_id": "ping-42", "creator_id": "creator-7", "position": 0, "reason": "followed_creator"}],
    "next_cursor": "AQAAAaIBaiAAAAAACm3kzqX1uQk0ZtNx",
    "degraded": [],
}


def _parameters() -> list[dict[str, Any]]:
    """OpenAPI of the query; `identify` validates it."""
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
    return [
        _parameter(
            "user_id", "The user whose feed to return; with a token, its `sub`.", openapi.schema(Id), required=True
        ),
        _parameter("limit", "Number of pings.", limit),
        _parameter(
            "cursor",
            "`next_cursor` of the previous page; omit it for a first page.",
            {"type": "string", "pattern": f"^[A-Za-z0-9_-]{{{CURSOR_LENGTH}}}$"},
        ),
        _parameter(
            "explain",
            "Explain each item and list the removed candidates. For operators, and for the user of a token.",
            {"type": "boolean", "default": False},
        ),
        *(
            _parameter(
                name,
                f"The {name} of a user for whom none is known yet: {form}.",
                {"type": "string", "pattern": pattern, "maxLength": _MAX_HINT},
            )
            for name, (form, pattern) in HINTS.items()
        ),
    ]


def _parameter(name: str, meaning: str, schema: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "description": meaning, "schema": schema}


def handlers(
    pipeline: Pipeline, admission: Admission, clock: Clock, make_id: IdMaker
) -> dict[tuple[str, str], Handler]:
    """The handlers, by method and path."""

    async def get_feed(request: Request) -> Response:
        arrived_ns = request.scope.get("state", {}).get(ARRIVED_NS)
        arrived_s = None if arrived_ns is None else arrived_ns / 1e9
        with admission.enter(arrived_s) as cheap:
            caller = await authenticate(request)
            feed_request = identify(request.query_params, caller, clock(), make_id)
            feed_request = replace(feed_request, arrived_s=arrived_s, cheap=cheap)
            return json_response(await pipeline.feed(feed_request))

    return {("GET", "/get-feed"): get_feed}


def create_router(routes: Mapping[tuple[str, str], Handler]) -> APIRouter:
    """The route with its documentation."""
    router = APIRouter(tags=["feed"])
    router.add_api_route(
        "/get-feed",
        routes["GET", "/get-feed"],
        summary="A page of a user's feed",
        description=_ABOUT,
        responses={200: openapi.answer(Feed, example=_EXAMPLE), **openapi.refusals(401, 403, 422, 429, 503)},
        openapi_extra={"parameters": _parameters()},
    )
    return router


def identify(query: Mapping[str, str], caller: Caller, now_ms: int, make_id: IdMaker) -> FeedRequest:
    """The request; InvalidInput names the wrong parameter, Forbidden what the caller may not request."""
    check_parameters(query, "user_id", "limit", "cursor", "explain", *HINTS)
    user_id = _user_id(query.get("user_id"))
    if caller.subject not in (None, user_id):
        raise Forbidden("you may request only your own feed", field="user_id")
    explain = _flag(query.get("explain", "false"))
    if explain and caller.subject is None:
        caller.require_operator("explain")
    cursor = query.get("cursor")
    return FeedRequest(
        request_id=make_id(now_ms),
        user_id=user_id,
        limit=_limit(query.get("limit")),
        now_ms=now_ms,
        chain=read_cursor(cursor, user_id) if cursor is not None else None,
        explain=explain,
        country=_hint("country", query),
        language=_hint("language", query),
    )


def _user_id(given: str | None) -> str:
    if not given:
        raise InvalidInput("user_id is required", field="user_id", code="missing_field")
    try:
        return msgspec.convert(given, Id)
    except msgspec.ValidationError as error:
        rule = "user_id must be 1 to 128 of the characters A-Z a-z 0-9 . _ : @ -"
        raise InvalidInput(rule, field="user_id", code="invalid_value") from error


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_LIMIT
    if not (given.isascii() and given.removeprefix("-").isdecimal()):
        raise InvalidInput("limit must be an integer", field="limit", code="invalid_type")
    # int() raises for thousands of digits; ten are out of range already.
    limit = int(given) if len(given) <= 9 else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit must be from 1 to {MAX_LIMIT}", field="limit", code="out_of_range")
    return limit


def _flag(given: str) -> bool:
    if given.lower() not in _FLAGS:
        raise InvalidInput("explain must be true or false", field="explain", code="invalid_type")
    return _FLAGS[given.lower()]


def _hint(name: str, query: Mapping[str, str]) -> str | None:
    """The hint as events have it, None for none."""
    given, (form, pattern) = query.get(name), HINTS[name]
    if not given:
        return None
    if len(given) > _MAX_HINT or not re.search(pattern, given):
        raise InvalidInput(f"{name} must be {form}", field=name, code="invalid_value")
    return normalised(name, given)
