"""A bare shell with a few routes that raise the errors under test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from pingfeed.core import errors
from pingfeed.settings import load
from pingfeed.web.app import create_shell
from pingfeed.web.auth import authenticate
from pingfeed.web.body import read_body
from pingfeed.web.errors import json_response
from pingfeed.web.health import Readiness
from pingfeed.web.metrics import Metrics

HERE = "127.0.0.1"
RAISED: dict[str, Exception] = {
    "invalid": errors.InvalidInput("limit must be 1 to 50", field="limit", code="out_of_range"),
    "malformed": errors.MalformedBody("the body is not valid JSON"),
    "too_large": errors.TooLarge("the body is too large"),
    "unauthenticated": errors.Unauthenticated("send an API key"),
    "forbidden": errors.Forbidden("explain needs an operator key"),
    "not_found": errors.NotFound("there is no such user"),
    "unavailable": errors.Unavailable("the spool is full", retry_after_s=7),
    "too_many": errors.TooManyRequests("more requests than one caller may send", retry_after_s=3),
    "busy": errors.Busy("another process has it"),
    "settings": errors.SettingsError("PINGFEED_AUTH is secret-ish", field="PINGFEED_AUTH"),
    "format": errors.FormatError("a packet at /some/where is damaged"),
    "bug": RuntimeError("secret-ish"),
}


def shell(readiness: Readiness | None = None, /, **environ: str) -> FastAPI:
    """An app of the shell alone; `environ` without the prefix."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield

    async def ready() -> Readiness:
        return readiness or Readiness(True)

    settings = load({f"PINGFEED_{name}": value for name, value in environ.items()})
    app = create_shell("shell", "for tests", settings, lifespan=lifespan, ready=ready, metrics=Metrics())

    @app.get("/raise/{name}")
    async def raises(name: str) -> Response:
        raise RAISED[name]

    @app.get("/limited")
    async def limited(user_id: str, limit: int = Query(10, ge=1, le=50), explain: bool = False) -> Response:
        return json_response({})

    @app.get("/who")
    async def who(request: Request) -> Response:
        caller = await authenticate(request)
        return json_response({"subject": caller.subject, "operator": caller.operator})

    @app.post("/body")
    async def body(request: Request) -> Response:
        return Response(await read_body(request))

    return app


def client_of(app: FastAPI, peer: str = HERE, **settings: Any) -> httpx.AsyncClient:
    """A client of the app that calls from `peer`."""
    transport = httpx.ASGITransport(app, client=(peer, 50_000), **settings)
    return httpx.AsyncClient(transport=transport, base_url="http://shell")


async def ask(
    method: str, path: str, headers: Any = None, *, peer: str = "127.0.0.1", **environ: str
) -> httpx.Response:
    """One request to a new shell with these settings."""
    async with client_of(shell(**environ), peer) as client:
        return await client.request(method, path, headers=headers)
