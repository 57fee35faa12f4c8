"""HTTP client of both services, with retries while they are unavailable."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpx

from pingfeed.core.errors import InvalidInput, PingfeedError, Unavailable
from pingfeed.core.retry import Backoff
from pingfeed.core.urls import is_loopback

_LONGEST_PAUSE_S: Final = 5
_BACKOFF: Final = Backoff(first_s=0.3, longest_s=_LONGEST_PAUSE_S)


def check_loopback(url: str, allow_remote: bool) -> str:
    """The URL without a trailing slash; InvalidInput if it is remote without `allow_remote`.

    Simulated events are hard to remove from the lake of a real service.
    """
    split = urlsplit(url)
    if split.scheme not in ("http", "https") or not split.hostname:
        raise InvalidInput(f"{url} is not an http address")
    if not allow_remote and not is_loopback(split.hostname):
        raise InvalidInput(f"{url} is not on this machine; --allow-remote permits it")
    return url.rstrip("/")


class Services:
    """Both services over one HTTP client.

    A call retries while its service is unavailable, then raises Unavailable: after `attempts`, or once `stop` is set.
    """

    def __init__(self, client: httpx.AsyncClient, ingest: str, feed: str, attempts: int | None = None) -> None:
        self.stop = asyncio.Event()
        self.retries = 0
        self._client = client
        self._ingest = ingest
        self._feed = feed
        self._attempts = attempts

    async def get_feed(self, user_id: str) -> dict[str, Any]:
        """The response of GET /get-feed: the first ten pings."""
        return await self._call("GET", f"{self._feed}/get-feed", params={"user_id": user_id, "limit": "10"})

    async def send(self, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The response of POST /track-events; events with ids may be sent again without harm."""
        return await self._call("POST", f"{self._ingest}/track-events", json={"events": events}, fine=(202, 422))

    async def sleep(self, seconds: float) -> None:
        """Wait, or return at once when `stop` is set."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), max(0.0, seconds))

    async def _call(self, method: str, url: str, fine: tuple[int, ...] = (200,), **options: Any) -> dict[str, Any]:
        failures = 0
        while True:
            try:
                return await self._once(method, url, fine, **options)
            except Unavailable as error:
                failures += 1
                if self.stop.is_set() or failures == self._attempts:
                    raise
                self.retries += 1
                await self.sleep(max(_BACKOFF.pause_s(failures), error.retry_after_s))

    async def _once(self, method: str, url: str, fine: tuple[int, ...], **options: Any) -> dict[str, Any]:
        try:
            response = await self._client.request(method, url, **options)
        except httpx.TransportError as error:
            message = f"{url} does not answer: {error or type(error).__name__}"
            raise Unavailable(message, retry_after_s=0) from error
        if response.status_code == 429 or response.status_code >= 500:
            asked = response.headers.get("Retry-After", "")
            wait_s = min(_LONGEST_PAUSE_S, int(asked)) if asked.isdecimal() else 0
            raise Unavailable(f"{url} answered {response.status_code}", retry_after_s=wait_s)
        try:
            reply = response.json()
        except ValueError as error:
            raise PingfeedError(f"{url} answered {response.status_code} without JSON") from error
        if response.status_code not in fine or "error" in reply:
            raise PingfeedError(f"{url} answered {response.status_code}: {reply.get('error', {}).get('message')}")
        return cast(dict[str, Any], reply)
