"""The outermost layer of an app: a request id and headers for everybody, one answer for the unexpected, the count."""

import logging
import re
import time
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.ids import IdMaker, uuid7
from pingfeed.telemetry import request_id
from pingfeed.web.errors import internal_error
from pingfeed.web.headers import hardened
from pingfeed.web.metrics import Metrics

log = logging.getLogger(__name__)

_HEADER: Final = b"x-request-id"
_VALID: Final = re.compile(rb"[A-Za-z0-9._:@-]{1,128}")
_GONE: Final = 499
"""How a request is counted whose client left before the answer (no such status is ever sent)."""


class OutermostLayer:
    """Pure ASGI: Starlette's BaseHTTPMiddleware would run every request in a further task.

    A valid `X-Request-Id` is kept, else one is made; it is in the answer's header, in error bodies and in the logs.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, clock: Clock = system_clock, make_id: IdMaker = uuid7
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock
        self._make_id = make_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; other scopes pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        this_id = _given_id(scope) or self._make_id(self._clock())
        answer = _Answer(send, this_id)
        token = request_id.set(this_id)
        began = time.perf_counter()
        try:
            await self._answered(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.observe_request(_method(scope), _route(scope), answer.status or _GONE, seconds)
            request_id.reset(token)

    async def _answered(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            log.info("the client left before its answer")
        # The one broad except: whatever a bug raises, the caller gets our shape of a 500 and the log its traceback.
        except Exception:
            log.exception("request failed: %s %s", scope["method"], scope["path"])
            if answer.status:
                raise  # half an answer is out: only closing the connection tells the client
            await internal_error()(scope, receive, answer)


class _Answer:
    """Puts the request id and the security headers on the response and remembers its status."""

    def __init__(self, send: Send, this_id: str) -> None:
        self._send = send
        self._header = (_HEADER, this_id.encode())
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": hardened(message.get("headers", ()), self._header)}
        await self._send(message)


def _given_id(scope: Scope) -> str | None:
    given: bytes = next((value for name, value in scope["headers"] if name == _HEADER), b"")
    return given.decode() if _VALID.fullmatch(given) else None


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "other"


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", None) or "unmatched"
