"""The layers around an app's routes, outermost first: CORS, request id and headers, direct routes.

Direct routes: FastAPI's work for a request (matching every route, dependencies, exit stacks) costs more than accepting
an event or ranking a feed. So `DirectLayer` calls the handlers of the busy routes itself. They are FastAPI's routes
too, for the documents and for every request that does not match exactly, and they answer the same either way.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.errors import PingfeedError
from pingfeed.core.ids import IdMaker, uuid7
from pingfeed.settings import Settings
from pingfeed.telemetry import request_id
from pingfeed.web.errors import ErrorBody, ErrorDetail, answer_to, internal_error, json_response
from pingfeed.web.metrics import Metrics

log = logging.getLogger(__name__)

Header = tuple[bytes, bytes]
Handler = Callable[[Request], Awaitable[Response]]
"""A route's function that takes only the request; raises PingfeedError."""

ARRIVED_NS: Final = "arrived_ns"
"""Key in the scope's `state`: when the first byte of the request arrived (`time.monotonic_ns()`)."""
SECURITY: Final[tuple[Header, ...]] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""Security headers of every response; a route that returns an HTML page sets its own content security policy."""
_CORS_REQUEST_HEADERS: Final = ("Authorization", "Content-Encoding", "Content-Type", "X-API-Key", "X-Request-Id")
_CORS_RESPONSE_HEADERS: Final = ("Retry-After", "WWW-Authenticate", "X-Request-Id")
_PREFLIGHT_MAX_AGE_S: Final = 600
_REQUEST_ID: Final = b"x-request-id"
_VALID_ID: Final = re.compile(rb"[A-Za-z0-9._:@-]{1,128}")
_CLIENT_CLOSED: Final = 499
"""The status label for requests whose client disconnected before the response; it is never sent."""


def install(app: FastAPI, settings: Settings, *, metrics: Metrics, clock: Clock, make_id: IdMaker) -> None:
    """Add the outer layers. CORS comes last, hence outermost, so that an allowed page can read even a 500.

    Cookies are never read, so `*` lets any page call but gives it no rights: keys are sent explicitly.
    """
    app.add_middleware(OutermostLayer, metrics=metrics, clock=clock, make_id=make_id, root_path=settings.root_path)
    if settings.cors_origins:
        app.add_middleware(
            _Cors,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=_CORS_REQUEST_HEADERS,
            expose_headers=_CORS_RESPONSE_HEADERS,
            max_age=_PREFLIGHT_MAX_AGE_S,
        )


def install_direct(app: FastAPI, handlers: Mapping[tuple[str, str], Handler]) -> None:
    """Answer these (method, path) pairs by their handlers, inside all other layers."""
    routes = {key: DirectRoute(key[1], handler) for key, handler in handlers.items()}
    app.user_middleware.append(Middleware(DirectLayer, routes=routes))


def hardened(headers: Sequence[Header], *more: Header) -> list[Header]:
    """Headers (lower-case names) plus `more` plus those of `SECURITY` that are not set yet."""
    given = {name for name, _ in headers}
    return [*headers, *more, *(header for header in SECURITY if header[0] not in given)]


class _Cors(CORSMiddleware):
    """Gives preflight responses, which never reach the inner layers, the security headers and the shape of errors."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        more: list[Header] = []
        if response.status_code >= 400:
            this_id = uuid7(system_clock())
            detail = ErrorDetail("forbidden", bytes(response.body).decode(), None)
            cors = [header for header in response.raw_headers if not header[0].startswith(b"content-")]
            response = json_response(ErrorBody(detail, this_id), response.status_code)
            more = [*cors, (_REQUEST_ID, this_id.encode())]
        response.raw_headers = hardened(response.raw_headers, *more)
        return response


class OutermostLayer:
    """Request id, security headers, request metrics, and a 500 for unexpected errors.

    A valid `X-Request-Id` is kept, otherwise one is generated; it is in the response header, error bodies and logs.
    Pure ASGI: Starlette's BaseHTTPMiddleware would run every request in another task.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        clock: Clock = system_clock,
        make_id: IdMaker = uuid7,
        root_path: str = "",
    ) -> None:
        self._app = app
        self._root = root_path
        self._metrics = metrics
        self._clock = clock
        self._make_id = make_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; other scopes pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        this_id = _given_id(scope) or self._make_id(self._clock())
        is_head = scope["method"] == "HEAD"
        response = _ResponseStart(send, this_id, is_head)
        called = scope["method"]
        if is_head or self._root:
            # A copy: the server needs the method that was sent.
            scope = self._seen_by_app(scope)
        token = request_id.set(this_id)
        began = time.perf_counter()
        try:
            await self._answer(scope, receive, response)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.observe_request(
                called if called in _METHODS else "other", _route(scope), response.status or _CLIENT_CLOSED, seconds
            )
            request_id.reset(token)

    def _seen_by_app(self, scope: Scope) -> Scope:
        """HEAD as GET, and the path below the prefix, whether or not the proxy has stripped it."""
        path, root = scope["path"], self._root
        if root and path != root and not path.startswith(f"{root}/"):
            path = root + path
        return {
            **scope,
            "method": "GET" if scope["method"] == "HEAD" else scope["method"],
            "path": path,
            "root_path": root or scope.get("root_path", ""),
        }

    async def _answer(self, scope: Scope, receive: Receive, response: "_ResponseStart") -> None:
        try:
            await self._app(scope, receive, response)
        except ClientDisconnect:
            log.info("client disconnected before the response")
        # The only broad except: a bug becomes a 500 in the common error format, with its traceback in the log.
        except Exception:
            log.exception("request failed: %s %s", scope["method"], scope["path"])
            if response.status:
                raise  # the response has started: only closing the connection can signal the failure
            await internal_error()(scope, receive, response)


class _ResponseStart:
    """Adds the request id and the security headers to a response and records its status."""

    def __init__(self, send: Send, this_id: str, is_head: bool) -> None:
        self._send = send
        self._is_head = is_head
        self._header = (_REQUEST_ID, this_id.encode())
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": hardened(message.get("headers", ()), self._header)}
        elif self._is_head:
            message = {**message, "body": b""}
        await self._send(message)


@dataclass(frozen=True)
class DirectRoute:
    """The scope's `route` for a request that `DirectLayer` answered."""

    path: str
    handler: Handler


class DirectLayer:
    """Calls a request's handler by method and exact path; everything else passes through."""

    def __init__(self, app: ASGIApp, *, routes: Mapping[tuple[str, str], DirectRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        route = self._routes.get((scope["method"], _path(scope))) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await route.handler(Request(scope, receive))
        except PingfeedError as error:
            response = answer_to(error)
        await response(scope, receive, send)


def _path(scope: Scope) -> str:
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    return path.removeprefix(root) if root else path


def _given_id(scope: Scope) -> str | None:
    given: bytes = next((value for name, value in scope["headers"] if name == _REQUEST_ID), b"")
    return given.decode() if _VALID_ID.fullmatch(given) else None


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", None) or "unmatched"
