"""uvicorn's HTTP protocol with limits that hold before a request reaches the app, and thus before authentication.

A connection is in one phase. In all but ANSWERING the server waits for the client, so there is a deadline:

    IDLE -> HEAD (10 s) -> BODY (30 s) -> ANSWERING -> IDLE ...    CLOSING: the last response is on its way

At the cap on connections, the one that has waited longest for its client is closed, so that half-sent requests never
lock other clients out. Errors have the shape of `errors.py`. Offers to upgrade (h2c, websocket) are ignored: RFC 9110,
section 7.8, lets a server do so.
"""

import asyncio
import itertools
import logging
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from pingfeed.core.clock import system_clock
from pingfeed.core.errors import Unavailable
from pingfeed.core.ids import uuid7
from pingfeed.core.retry import retry_after_s
from pingfeed.telemetry import request_id
from pingfeed.web.errors import ErrorBody, ErrorDetail, error_response, json_response
from pingfeed.web.middleware import ARRIVED_NS, hardened

log = logging.getLogger(__name__)

_LAST_RECEIVED: Final = slice(52, 56)
"""`tcpi_last_data_recv` in Linux' `struct tcp_info`, in milliseconds."""
_ALWAYS: Final = (b"/healthz", b"/readyz", b"/metrics")
_PIPELINED: Final = 16
_SPARED_NS: Final = 250_000_000


def _connections() -> int:
    """At most half of the files that this process may open: stores and the spool need the others."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else min(1024, soft // 2)


@dataclass(frozen=True)
class Limits:
    """What one client, or all together, may use."""

    head_s: float = 10.0
    body_s: float = 30.0
    send_s: float = 30.0
    """How long a client may leave a response unread."""
    linger_s: float = 1.0
    """How long to discard what a rejected client still sends; closing at once could destroy the response."""
    head_bytes: int = 32 * 1024
    """Request line, headers, chunk sizes with their extensions, and trailers of one request."""
    headers: int = 100
    connections: int = field(default_factory=_connections)
    in_flight: int = 256
    """Complete requests that are being answered; more get a 503, health and metrics excepted."""
    sweep_s: float = 0.5
    log_s: float = 10.0


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWERING = auto()
    CLOSING = auto()


class Edge:
    """What the connections of one server share."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.waiting: dict[GuardedProtocol, None] = {}
        """Connections whose client must act, the longest-waiting first."""
        self.bodies = 0
        """Connections in the phase BODY."""
        self._closed: Counter[str] = Counter()
        self._sweeping = False
        self._logged_ns = 0
        within = {Phase.HEAD: self.limits.head_s, Phase.BODY: self.limits.body_s, Phase.CLOSING: self.limits.linger_s}
        self._within_ns = {phase: int(seconds * 1e9) for phase, seconds in within.items()}
        self._send_ns = int(self.limits.send_s * 1e9)

    def wait_for(self, connection: "GuardedProtocol") -> None:
        """Watch a connection whose client must act."""
        self.waiting[connection] = None
        if not self._sweeping:
            self._sweeping = True
            connection.loop.call_later(self.limits.sweep_s, self._sweep, connection.loop)

    def count(self, reason: str) -> None:
        """Count a connection that was closed, for the log."""
        self._closed[reason] += 1

    async def wait_for_room(self, connections: Collection[object]) -> None:
        """Return once there are fewer connections than the cap; until then those that wait are closed, oldest first.

        A connection is spared until what it sent at once has been read. Meanwhile new ones queue in the kernel, so a
        burst of them does not close good ones before their request is seen.
        """
        while len(connections) >= self.limits.connections:
            spared_ns = time.monotonic_ns() - _SPARED_NS
            old = (one for one in self.waiting if one.since_ns < spared_ns)
            for oldest in list(itertools.islice(old, self.limits.connections // 4)):
                self.count("too many connections")
                oldest.abort()
            await asyncio.sleep(0.01)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic_ns()
        for connection in list(self.waiting):
            # A phase without a deadline of its own waits only for a client that does not read.
            if now - connection.since_ns > self._within_ns.get(connection.phase, self._send_ns):
                connection.expire()
        self._log(now)
        self._sweeping = bool(self.waiting or self._closed)
        if self._sweeping:
            loop.call_later(self.limits.sweep_s, self._sweep, loop)

    def _log(self, now: int) -> None:
        if not self._closed or now - self._logged_ns < self.limits.log_s * 1e9:
            return
        counts = ", ".join(f"{reason}: {count}" for reason, count in sorted(self._closed.items()))
        log.warning("closed connections (%s)", counts)
        self._closed.clear()
        self._logged_ns = now


class _Rejected(Exception):
    """Ends the parsing of a request that is over a limit; `arguments` are those of `reject`."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, edge: Edge, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._edge, self._serving = edge, self.app
        self.phase = Phase.IDLE
        self.since_ns = time.monotonic_ns()
        self._framing = self._body = self._headers = 0
        self._finished = False
        self._socket: socket.socket | None = None
        self._rejection: tuple[int, str, str] | None = None
        self._running: RequestResponseCycle | None = None
        """The request that is being answered; `cycle` is the last one that arrived."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline."""
        super().connection_made(transport)
        self._socket = transport.get_extra_info("socket")
        self._enter(Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._disconnect()
        super().connection_lost(exc)
        self._enter(Phase.CLOSING)
        self._edge.waiting.pop(self, None)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to stay open: a client that has sent its whole request may end its side before the response."""
        if self.phase is not Phase.ANSWERING:
            return False
        self.cycle.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, within the limits."""
        if self.phase is Phase.CLOSING:
            return
        self._unset_keepalive_if_required()
        if self.phase is Phase.IDLE or (self.phase is Phase.HEAD and not self._framing):
            self._enter(Phase.HEAD)
            self.since_ns -= self._unread_ns()
        self._finished, self._body = False, 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self.reject(*(self._rejection or (400, "malformed_http", "the request is not valid HTTP/1.1")))
            return
        # After a request that ended in this read, the bytes of the next one count from the next read on.
        self._framing = 0 if self._finished else self._framing + len(data) - self._body
        if self._framing > self._edge.limits.head_bytes:
            self.reject(*self._too_large())

    def _unread_ns(self) -> int:
        """How long the data that was just read had been in the kernel, to a tick of its clock (4 ms, as a rule).

        A busy event loop reads late. 0 where the kernel does not tell.
        """
        if sys.platform != "linux" or self._socket is None:
            return 0
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_RECEIVED.stop)
        return int.from_bytes(info[_LAST_RECEIVED], sys.byteorder) * 1_000_000

    def _too_large(self) -> tuple[int, str, str]:
        limits = self._edge.limits
        about = f"the request's headers are over {limits.head_bytes:,} bytes or {limits.headers} headers"
        return (431, "headers_too_large", about)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its offer: the parser stops at one and would drop the body."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.reject(405, "method_not_allowed", "CONNECT is not allowed")
            return
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        version = self.parser.get_http_version().encode()
        head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._framing = 0
        self.data_received(head + rest)

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self.phase is not Phase.HEAD:
            self._enter(Phase.HEAD)
        self._headers = self._framing = 0
        self.scope["state"][ARRIVED_NS] = self.since_ns

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, and none too many."""
        self._headers += 1
        if self._headers > self._edge.limits.headers:
            self._stop(*self._too_large())
        # Trailers are ignored. So are ranges: Starlette's errors about those of static files are text.
        if self.phase is Phase.HEAD and name.lower() != b"range":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Call the app."""
        if self.parser.should_upgrade():
            return
        limits = self._edge.limits
        if len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers]) > limits.head_bytes:
            self._stop(*self._too_large())
        if len(self.pipeline) >= _PIPELINED:
            self._stop(400, "malformed_http", f"more than {_PIPELINED} requests are waiting on this connection")
        full = len(self.tasks) - self._edge.bodies >= limits.in_flight
        self.app = _overloaded if full and not self.url.partition(b"?")[0].endswith(_ALWAYS) else self._serving
        self._enter(Phase.BODY)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count and pass on."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The app has all that it needs."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._finished = True
        self._enter(Phase.IDLE if self.cycle.response_complete else Phase.ANSWERING)

    def on_response_complete(self) -> None:
        """The client may send the next request."""
        super().on_response_complete()
        if self.phase is Phase.ANSWERING and self.cycle.response_complete:
            self._enter(Phase.IDLE)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    # Clients that do not read

    def pause_writing(self) -> None:
        """The client reads more slowly than the app writes."""
        super().pause_writing()
        if self.phase is Phase.ANSWERING:
            self.since_ns = time.monotonic_ns()
            self._edge.wait_for(self)

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self.phase is Phase.ANSWERING:
            self._edge.waiting.pop(self, None)

    # Ends

    def expire(self) -> None:
        """The client is over its time."""
        if self.phase is Phase.BODY or (self.phase is Phase.HEAD and self._framing):
            self.reject(408, "timeout", f"the request's {self.phase.name.lower()} took too long")
            return
        if self.phase is Phase.ANSWERING:
            self._edge.count("response not read")
        self.abort()

    def abort(self) -> None:
        """Close without waiting for the client."""
        self.connections.discard(self)
        self._enter(Phase.CLOSING)
        self._edge.waiting.pop(self, None)
        self._disconnect()
        self.transport.abort()

    def reject(self, status: int, code: str, message: str) -> None:
        """Send this error unless a response has begun, and close."""
        self._edge.count(code)
        self._enter(Phase.CLOSING)
        begun = self._running is not None and self._running.response_started and not self._running.response_complete
        self._disconnect()
        self.pipeline.clear()
        if self.transport.is_closing():
            return
        if not begun:
            self.transport.write(_response(status, code, message))
        if self.flow.read_paused:
            self.flow.resume_reading()
        self.transport.write_eof()

    def send_400_response(self, msg: str) -> None:
        """Used by uvicorn itself."""
        self.reject(400, "malformed_http", msg)

    def _disconnect(self) -> None:
        """Let the app send no more; uvicorn itself would tell only the last request of a pipeline."""
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _stop(self, status: int, code: str, message: str) -> None:
        self._rejection = (status, code, message)
        raise _Rejected

    def _enter(self, phase: Phase) -> None:
        if self.phase is Phase.CLOSING:
            return
        self._edge.bodies += (phase is Phase.BODY) - (self.phase is Phase.BODY)
        self.phase = phase
        if phase is Phase.ANSWERING:
            self._edge.waiting.pop(self, None)
            return
        self.since_ns = time.monotonic_ns()
        if self not in self._edge.waiting:
            self._edge.wait_for(self)


def _response(status: int, code: str, message: str) -> bytes:
    """An error as the bytes of a whole response."""
    this_id = uuid7(system_clock())
    made = json_response(ErrorBody(ErrorDetail(code, message, None), this_id), status)
    more = [(b"x-request-id", this_id.encode()), (b"connection", b"close")]
    if status == 503:
        more.append((b"retry-after", b"%d" % retry_after_s()))
    lines = [b"%b: %b\r\n" % header for header in hardened(made.raw_headers, *more)]
    return b"".join([STATUS_LINE[status], *lines, b"\r\n", bytes(made.body)])


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    """The app in place of ours when too many requests are being answered."""
    this_id = uuid7(system_clock())
    token = request_id.set(this_id)
    try:
        response = error_response(Unavailable("too many requests are being answered", retry_after_s=retry_after_s()))
    finally:
        request_id.reset(token)
    response.raw_headers = hardened(response.raw_headers, (b"x-request-id", this_id.encode()))
    await response(scope, receive, send)
