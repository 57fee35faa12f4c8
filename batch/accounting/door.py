"""The ingest service as `rejected replay` knows it: one call over HTTP, tried again while the service is away.

A redirect is not followed: the key would go with it, to anywhere.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from email.message import Message
from typing import IO, Any, Final
from urllib.parse import urlsplit

import msgspec

from pingfeed.core.errors import InvalidInput, PingfeedError, Unavailable
from pingfeed.core.urls import is_loopback

TRIES: Final = 5
_TIMEOUT_S: Final = 60
_LONGEST_PAUSE_S: Final = 30


class Rejection(msgspec.Struct):
    """Why one event was refused again; `index` is its place in the request."""

    index: int
    code: str
    field: str | None
    message: str


class Receipt(msgspec.Struct):
    """What became of a request's events."""

    accepted: int
    duplicates: int
    rejected: list[Rejection]


class EventReceiver:
    """`POST /track-events` of the service at `url`, with `key` where it asks for one. InvalidInput for no http URL."""

    def __init__(self, url: str, key: str = "", *, pause: Callable[[float], None] = time.sleep) -> None:
        split = urlsplit(url)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise InvalidInput(f"--to {url} is not an http address", field="to")
        self._url = f"{url.rstrip('/')}/track-events"
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._pause = pause
        # A proxy of the environment leads nowhere for this machine's own services.
        proxies = urllib.request.ProxyHandler({} if is_loopback(split.hostname) else None)
        self._opener = urllib.request.build_opener(_NoRedirect, proxies)

    def send(self, events: Sequence[Any]) -> Receipt:
        """Hand events in; those with ids may be sent again without harm. Raises Unavailable, PingfeedError."""
        body = msgspec.json.encode({"events": events})
        for attempt in range(1, TRIES):
            try:
                return self._once(body)
            except Unavailable as away:
                self._pause(min(_LONGEST_PAUSE_S, max(away.retry_after_s, 2**attempt / 2)))
        return self._once(body)

    def _once(self, body: bytes) -> Receipt:
        request = urllib.request.Request(self._url, body, self._headers)  # noqa: S310 - http or https, checked above
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                return _receipt(self._url, answer.read())
        except urllib.error.HTTPError as error:
            return self._refused(error.code, error.headers.get("Retry-After", ""), error.read())
        except OSError as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise Unavailable(f"{self._url} does not answer: {reason}") from error

    def _refused(self, status: int, asked: str, body: bytes) -> Receipt:
        """An answer that is no 2xx: 422 may be a receipt (nothing was accepted), and some pass by themselves."""
        if 300 <= status < 400:
            raise PingfeedError(f"{self._url} answered {status}, a redirect: give --to the address that it leads to")
        sentence = f"{self._url} answered {status}: {_said(body)}"
        if status == 422 and b'"rejected"' in body:
            return _receipt(self._url, body)
        if status == 429 or status >= 500:
            raise Unavailable(sentence, retry_after_s=int(asked) if asked.isdecimal() else 1)
        raise PingfeedError(sentence)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """None: the 30x is the answer."""


def _receipt(url: str, body: bytes) -> Receipt:
    try:
        return msgspec.json.decode(body, type=Receipt)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PingfeedError(f"{url} does not answer as the ingest service does") from error


def _said(body: bytes) -> str:
    """The sentence in an error's body."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "no reason given"
