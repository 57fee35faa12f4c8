"""HTTP client of both services, with retries while they are unavailable."""

import asyncio
import ipaddress
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpx

from pingfeed.core.errors import InvalidInput, PingfeedError, Unavailable

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5


def check_loopback(url: str, allow_remote: bool) -> str:
    """The URL without a slash at its end; InvalidInput if it is remote without `allow_remote`.

    Made-up events in a real service's lake are hard to get out again.
    """
    split = urlsplit(url)
    if split.scheme not in ("http", "https") or not split.hostname:
        raise InvalidInput(f"{url} is not an http address")
    if not allow_remote and not _is_loopback(split.hostname):
        raise InvalidInput(f"{url} is not on this machine; --allow-remote plays there all the same")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Patience:
    """How long to try again: with growing, jittered pauses, up to a number of attempts, until told to stop."""

    def __init__(self, attempts: int | None = None, seed: int = 0) -> None:
        self.stop = asyncio.Event()
        self.retries = 0
        self._attempts = attempts
        self._random = random.Random(seed)  # noqa: S311 - jitter, not a secret

    async def pause(self, attempt: int, why: Unavailable) -> None:
        """Wait before attempt number `attempt` (1 is the first repetition); raise `why` instead when it is over."""
        if self.stop.is_set() or (self._attempts is not None and attempt >= self._attempts):
            raise why
        self.retries += 1
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt - 1, 10)) * self._random.uniform(0.5, 1.5)
        await self.sleep(max(pause, why.retry_after_s))

    async def sleep(self, seconds: float) -> None:
        """Wait, or return at once when told to stop."""
        try:
            await asyncio.wait_for(self.stop.wait(), max(0.0, seconds))
        except TimeoutError:
            return


@dataclass(frozen=True)
class Feed:
    """What GET /get-feed answered."""

    request_id: str
    pings: list[str]
    degraded: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Receipt:
    """What POST /track-events answered, in numbers; `refused` is the first refusal's sentence."""

    accepted: int
    duplicates: int
    rejected: int
    refused: str | None = None


class Services:
    """Both services over one HTTP client. Every call tries again while its service is away, then raises Unavailable."""

    def __init__(self, client: httpx.AsyncClient, ingest: str, feed: str, patience: Patience) -> None:
        self._client = client
        self._ingest = ingest
        self._feed = feed
        self.patience = patience

    async def get_feed(self, user_id: str, limit: int = 10) -> Feed:
        """The first page of a user's feed."""
        params = {"user_id": user_id, "limit": str(limit)}
        reply = await self._call("GET", f"{self._feed}/get-feed", params=params)
        return Feed(reply["request_id"], [item["ping_id"] for item in reply["items"]], reply["degraded"])

    async def send(self, events: Sequence[Mapping[str, Any]]) -> Receipt:
        """Hand events in; those with ids may be sent again without harm."""
        reply = await self._call("POST", f"{self._ingest}/track-events", json={"events": events}, fine=(202, 422))
        rejected = reply["rejected"]
        refused = rejected[0]["message"] if rejected else None
        return Receipt(reply["accepted"], reply["duplicates"], len(rejected), refused)

    async def _call(self, method: str, url: str, fine: tuple[int, ...] = (200,), **options: Any) -> dict[str, Any]:
        attempt = 0
        while True:
            try:
                return await self._once(method, url, fine, **options)
            except Unavailable as away:
                attempt += 1
                await self.patience.pause(attempt, away)

    async def _once(self, method: str, url: str, fine: tuple[int, ...], **options: Any) -> dict[str, Any]:
        try:
            response = await self._client.request(method, url, **options)
        except httpx.TransportError as error:
            sentence = f"{url} does not answer: {error or type(error).__name__}"
            raise Unavailable(sentence, retry_after_s=0) from error
        if response.status_code == 429 or response.status_code >= 500:
            asked = response.headers.get("Retry-After", "")
            wait_s = min(LONGEST_PAUSE_S, int(asked)) if asked.isdecimal() else 0
            raise Unavailable(f"{url} answered {response.status_code}", retry_after_s=wait_s)
        try:
            reply = response.json()
        except ValueError as error:
            raise PingfeedError(f"{url} answered {response.status_code} and no JSON") from error
        if response.status_code not in fine or "error" in reply:
            raise PingfeedError(f"{url} answered {response.status_code}: {reply.get('error', {}).get('message')}")
        return cast(dict[str, Any], reply)
