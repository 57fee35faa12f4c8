"""The HTTP route of the feed, with its OpenAPI."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from feed_api.cursor import LENGTH as CURSOR_LENGTH
from feed_api.pipeline import Pipeline
from feed_api.request import DEFAULT_LIMIT, MAX_LIMIT, identify
from feed_api.schema import Feed
from pingfeed.core.clock import Clock
from pingfeed.core.events import Id
from pingfeed.core.ids import IdMaker
from pingfeed.web import openapi
from pingfeed.web.auth import authenticate
from pingfeed.web.errors import json_response
from pingfeed.web.middleware import Handler

TYPES: Final = (Feed,)
"""The types that the route's OpenAPI refers to."""

_ABOUT: Final = (
    "A hide, a block, a follow or a seen impression affects the very next feed. Parts that are late or unavailable are "
    "named in `degraded` and the feed is served without them; unknown users get a feed too. Pass `next_cursor` to get "
    "the next page; without a cursor the response is a new first page. Send `request_id` and `position` back with the "
    "events about a ping."
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
    ]


def _parameter(name: str, meaning: str, schema: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "description": meaning, "schema": schema}


def handlers(pipeline: Pipeline, clock: Clock, make_id: IdMaker) -> dict[tuple[str, str], Handler]:
    """The handlers, by method and path."""

    async def get_feed(request: Request) -> Response:
        caller = await authenticate(request)
        feed_request = identify(request.query_params, caller, clock(), make_id)
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
