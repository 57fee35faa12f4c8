"""Routes that are answered before FastAPI.

FastAPI's work for a request (matching every route, dependencies, exit stacks) costs more than taking an event in or
ranking a feed. So the busy routes' own handlers are called here; they are FastAPI's routes too, for the documents and
for every request that is not exactly theirs, and they answer the same either way.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pingfeed.core.errors import PingfeedError
from pingfeed.web.errors import answer_to

Handler = Callable[[Request], Awaitable[Response]]
"""A route's function that takes nothing but the request; raises errors of ours."""


@dataclass(frozen=True)
class DirectRoute:
    """What stands in the scope for a route that was answered here."""

    path: str
    handler: Handler


class DirectLayer:
    """Calls the handler of a request by its method and exact path; everything else passes through."""

    def __init__(self, app: ASGIApp, *, routes: Mapping[tuple[str, str], DirectRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await route.handler(Request(scope, receive))
        except PingfeedError as error:
            response = answer_to(error)
        await response(scope, receive, send)


def install(app: FastAPI, handlers: Mapping[tuple[str, str], Handler]) -> None:
    """Answer these (method, path) by their handlers, behind every layer that the app has."""
    routes = {key: DirectRoute(key[1], handler) for key, handler in handlers.items()}
    app.user_middleware.append(Middleware(DirectLayer, routes=routes))
