"""A load generator for POST: a bounded number of requests over a bounded number of connections, on loopback only.

It costs about 20 us a request, so that the service is what is measured: requests are bytes that are put together
beforehand but for their ids, answers are read no further than their status and length.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from pingfeed.core.urls import is_loopback

MAX_CONNECTIONS: Final = 500
MAX_REQUESTS: Final = 10_000_000

MakeBody = Callable[[int], bytes]
"""The body of the n-th request."""


@dataclass
class Sent:
    """What became of a load."""

    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the answers' times."""
        return float(np.percentile(self.latencies_s, percent)) * 1000


async def send(url: str, make_body: MakeBody, *, requests: int, connections: int) -> Sent:
    """POST `requests` bodies, each connection the next as soon as it has its answer."""
    split = urlsplit(url)
    host, port = split.hostname or "", split.port or 80
    assert is_loopback(host), f"{host} is not this machine"
    assert 0 < connections <= MAX_CONNECTIONS
    assert 0 < requests <= MAX_REQUESTS
    load = _Load(split.path, f"{host}:{port}", make_body, requests)
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(lambda: _Connection(load), host, port) for _ in range(connections)]
    began = time.perf_counter()
    for _, connection in opened:
        connection.next()
    await load.finished
    load.sent.seconds = time.perf_counter() - began
    for transport, _ in opened:
        transport.close()
    return load.sent


class _Load:
    def __init__(self, path: str, host: str, make_body: MakeBody, requests: int) -> None:
        head = (f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", "Content-Length: ")
        self.head = "\r\n".join(head).encode()
        self.make_body = make_body
        self.left, self.asked, self.unanswered = requests, 0, requests
        self.sent = Sent()
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(self, status: int, seconds: float) -> None:
        self.sent.statuses[status] = self.sent.statuses.get(status, 0) + 1
        self.sent.latencies_s.append(seconds)
        self.unanswered -= 1
        if not self.unanswered and not self.finished.done():
            self.finished.set_result(None)


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self._load = load
        self._got = b""
        self._began = 0.0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def next(self) -> None:
        load = self._load
        if load.left:
            load.left -= 1
            body = load.make_body(load.asked)
            load.asked += 1
            self._began = time.perf_counter()
            self._transport.write(b"%b%d\r\n\r\n%b" % (load.head, len(body), body))

    def data_received(self, data: bytes) -> None:
        got = self._got + data if self._got else data
        end = got.find(b"\r\n\r\n")
        if end < 0 or len(got) < end + 4 + _length(got[:end]):
            self._got = got
            return
        self._got = b""
        self._load.answered(int(got[9:12]), time.perf_counter() - self._began)
        self.next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._load.finished.done():
            self._load.finished.set_exception(exc or ConnectionError("the service closed a connection"))


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0])
