"""The route: a query becomes a request, a feed becomes bytes."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from feed_api.cursor import LENGTH as CURSOR_LENGTH
from feed_api.cursor import Cursors
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
"""What the route's OpenAPI refers to."""

_ABOUT: Final = (
    "A hide, a block, a follow or a seen impression shows in the very next feed. Whatever is late or down is left out "
    "and named in `degraded`; a feed is served all the same, to strangers too. Follow `next_cursor` for further pages; "
    "without a cursor a new first page is made. Send `request_id` and `position` back with the events about a ping."
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
    """The query's OpenAPI; `identify` is what checks it."""
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
    return [
        _parameter("user_id", "Whose feed; with a token, its `sub`.", openapi.schema(Id), required=True),
        _parameter("limit", "How many pings.", limit),
        _parameter(
            "cursor",
            "`next_cursor` of the page before; absent for a first page.",
            {"type": "string", "pattern": f"^[A-Za-z0-9_-]{{{CURSOR_LENGTH}}}$"},
        ),
        _parameter(
            "explain",
            "Add to each item why it is there, and what was left out. For operators, and for the user of a token.",
            {"type": "boolean", "default": False},
        ),
    ]


def _parameter(name: str, meaning: str, schema: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "description": meaning, "schema": schema}


def handlers(pipeline: Pipeline, cursors: Cursors, clock: Clock, make_id: IdMaker) -> dict[tuple[str, str], Handler]:
    """What answers, by method and path."""

    async def get_feed(request: Request) -> Response:
        caller = await authenticate(request)
        wanted = identify(request.query_params, caller, cursors, clock(), make_id)
        return json_response(await pipeline.feed(wanted))

    return {("GET", "/get-feed"): get_feed}


def create_router(answering: Mapping[tuple[str, str], Handler]) -> APIRouter:
    """The route of that handler, with what is said of it."""
    router = APIRouter(tags=["feed"])
    router.add_api_route(
        "/get-feed",
        answering["GET", "/get-feed"],
        summary="A page of a user's feed",
        description=_ABOUT,
        responses={200: openapi.answer(Feed, example=_EXAMPLE), **openapi.refusals(401, 403, 422, 429, 503)},
        openapi_extra={"parameters": _parameters()},
    )
    return router
