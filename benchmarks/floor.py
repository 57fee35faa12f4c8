"""The floor: the least that a service on this stack can do, served by the same server, measured in the same run."""

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ANSWER = b'{"items":[' + b",".join([b'{"ping_id":"ping-00001","creator_id":"creator-001","position":0}'] * 10) + b"]}"


async def _get(_: Request) -> Response:
    return Response(ANSWER, media_type="application/json")


feed = Starlette(routes=[Route("/get-feed", _get), Route("/readyz", _get)])
"""A bare GET that answers ten items it has ready."""

ingest = FastAPI()
"""A bare FastAPI POST that reads nothing and keeps nothing."""


@ingest.post("/track-events")
async def _post() -> Response:
    return Response(b'{"accepted":50,"duplicates":0,"rejected":[]}', 202, media_type="application/json")


@ingest.get("/readyz")
async def _ready() -> Response:
    return Response(b"{}")
