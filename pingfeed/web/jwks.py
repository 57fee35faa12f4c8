"""The public keys that tokens are checked with: a JSON Web Key Set (RFC 7517), refreshed.

It is in a file, at an https URL, or an S3 object, for functions in a network without internet: there another function
copies the set from the issuer (`ingest_api/lambda_handler.py`).

A key is looked up by its id and an algorithm that the settings allow and that fits the key's type, so a token can
choose neither the algorithm nor a key of another kind. Keys without an id, encryption keys, private keys and keys that
are too short are ignored.

The set is refreshed every `MAX_AGE_S`, whether or not there are requests, and immediately for an unknown id (a new key
was published), but at most every `RETRY_S`, however many unknown ids arrive, and never twice at a time. The old set
serves until a new one has been read: a token of a known key never waits for the server. A set that is empty or unusable
replaces the old one when it has been so for `UNUSABLE_S`; no key is valid then.
"""

import asyncio
import logging
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.message import Message
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Final
from urllib.error import HTTPError
from urllib.parse import urlsplit

import jwt
import msgspec
from prometheus_client import Counter

from pingfeed.aws import AwsClient, translated
from pingfeed.core.errors import FormatError, PingfeedError, Unavailable
from pingfeed.core.integrity import UNREADABLE

log = logging.getLogger(__name__)

RETRY_S: Final = 10.0
MAX_AGE_S: Final = 300.0
UNUSABLE_S: Final = 600.0
PATIENCE_S: Final = 8.0
"""How long a request with an unknown key waits for a refresh."""
MAX_KEYS: Final = 100
MAX_BYTES: Final = 256 << 10
SOCKET_S: Final = 3.0
TOTAL_S: Final = 6.0

Keys = Mapping[tuple[str, str], jwt.PyJWK]
"""Keys by id and algorithm."""

_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


def parse(body: bytes, algorithms: Sequence[str]) -> Keys:
    """The usable keys of a set; FormatError, with the predicate of a sentence, if there are none."""
    try:
        found = msgspec.json.decode(body, type=_Set).keys[:MAX_KEYS]
    except UNREADABLE as error:
        raise FormatError("is not a JSON Web Key Set") from error
    pairs = ((key, name) for key in found for name in algorithms if _fits(key, name))
    usable = {(key["kid"], name): made for key, name in pairs if (made := _key(key, name)) is not None}
    if not usable:
        raise FormatError(f"has no public key with an id (kid) for {' or '.join(algorithms)}")
    return usable


def _fits(key: Mapping[str, Any], algorithm: str) -> bool:
    kind = ("EC", _CURVES[algorithm]) if algorithm in _CURVES else ("RSA", None)
    return (
        isinstance(key.get("kid"), str)
        and (key.get("kty"), key.get("crv")) == kind
        and key.get("alg") in (None, algorithm)
        and key.get("use") in (None, "sig")
        and "d" not in key
    )


def _key(key: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    try:
        made = jwt.PyJWK(key, algorithm)
    except jwt.PyJWTError:
        return None
    return None if made.Algorithm.check_key_length(made.key) else made


class PublishedKeys:
    """The keys at one address, which `read` reads; `on_change` is called for every new set.

    (PyJWT's own client holds its lock while it fetches, and never drops keys when the set becomes empty.)
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        algorithms: Sequence[str],
        *,
        monotonic: Callable[[], float],
        reads: Counter,
        on_change: Callable[[], None],
    ) -> None:
        self._read, self._algorithms, self._monotonic = read, algorithms, monotonic
        self._reads, self._on_change = reads, on_change
        self._body: bytes | None = None
        self._keys: Keys | None = None
        self._ids: frozenset[str] = frozenset()
        self._tried_s = self._read_s = float("-inf")
        self._unusable_s: float | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.problem: str | None = None
        """Why the last refresh failed, None if it did not."""

    def use(self, body: bytes) -> None:
        """Begin with this set; FormatError if it has no usable key."""
        self._tried_s = self._monotonic()
        self._update(body)

    async def warm_up(self) -> None:
        """Read the set before the first request needs it."""
        if self._keys is None and (refresh := self._refresh()) is not None:
            await asyncio.wait({refresh})

    async def find(self, key_id: str, algorithm: str) -> jwt.PyJWK | None:
        """The key with this id for this algorithm; Unavailable as long as no set could be read."""
        if self._timer is None:
            self._refresh_later()
        is_known = key_id in self._ids
        if not is_known or self._monotonic() - self._read_s >= MAX_AGE_S:
            refresh = self._refresh()
            if refresh is not None and not is_known:
                await asyncio.wait({refresh}, timeout=PATIENCE_S)
        if self._keys is None:
            raise Unavailable("the token signing keys cannot be read", retry_after_s=int(RETRY_S))
        return self._keys.get((key_id, algorithm))

    def _refresh(self) -> "asyncio.Task[None] | None":
        """The refresh under way, started here unless the last attempt was less than `RETRY_S` ago."""
        now_s = self._monotonic()
        if self._refreshing is None and now_s - self._tried_s >= RETRY_S:
            self._tried_s = now_s
            self._refreshing = asyncio.create_task(self._read_again())
        return self._refreshing

    def _refresh_later(self) -> None:
        """Refresh `MAX_AGE_S` from now without a request, so that a revoked key goes also after a long silence."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(MAX_AGE_S, self._refresh_now)

    def _refresh_now(self) -> None:
        self._refresh_later()
        self._refresh()

    async def _read_again(self) -> None:
        try:
            self._update(await self._read())
        except Exception as error:  # noqa: BLE001  # whatever it is, the next refresh tries again
            self._reads.labels("failed").inc()
            reason = error.message if isinstance(error, PingfeedError) else repr(error)
            self.problem = f"the key set {reason}"
            log.warning("could not refresh the token signing keys", extra={"reason": reason})
            if isinstance(error, FormatError):
                self._count_down()
        finally:
            self._refreshing = None
            self._refresh_later()

    def _count_down(self) -> None:
        """Give up the old keys once the set has been unusable for `UNUSABLE_S`."""
        now_s = self._monotonic()
        if self._unusable_s is None:
            self._unusable_s = now_s
        if self._keys and now_s - self._unusable_s >= UNUSABLE_S:
            log.error("the token signing keys are revoked: the key set has been unusable for %d s", UNUSABLE_S)
            self._replace({}, None)

    def _update(self, body: bytes) -> None:
        if body != self._body:
            self._replace(parse(body, self._algorithms), body)
        self._read_s = self._monotonic()
        self._unusable_s = self.problem = None
        self._reads.labels("ok").inc()

    def _replace(self, keys: Keys, body: bytes | None) -> None:
        self._keys, self._body = keys, body
        self._ids = frozenset(key_id for key_id, _ in keys)
        self._on_change()


def source_of(address: str) -> Callable[[], Awaitable[bytes]]:
    """A function that reads the document at a URL or an absolute path.

    It raises Unavailable, with the predicate of a sentence, if the document is absent or too large.
    """
    if address.startswith("s3://"):
        return partial(_read_object, address)
    return partial(asyncio.to_thread, _fetch if "://" in address else read_file, address)


async def _read_object(url: str) -> bytes:
    place, client = urlsplit(url), AwsClient("s3", read_s=SOCKET_S)
    try:
        with translated("the object"):
            async with asyncio.timeout(TOTAL_S):
                found = await (await client.get()).get_object(Bucket=place.netloc, Key=place.path[1:])
                async with found["Body"] as body:
                    return _checked_size(await body.read())
    except PingfeedError as error:
        raise Unavailable(f"cannot be read: {error.message}") from error
    finally:
        await client.close()


def read_file(name: str) -> bytes:
    """The document at a path, as `source_of` reads it, blocking."""
    path = Path(name)
    try:
        with path.open("rb") as file:
            return _checked_size(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise Unavailable(f"cannot be read: {(error.strerror or 'it does not exist').lower()}") from error


def _fetch(url: str) -> bytes:
    """Plain http is for this machine only (the settings enforce that) and bypasses any proxy."""
    proxies = [urllib.request.ProxyHandler({})] if url.lower().startswith("http:") else []
    opener = urllib.request.build_opener(_NoRedirect, *proxies)
    opener.addheaders = [("Accept", "application/json"), ("User-Agent", "pingfeed")]
    deadline = time.monotonic() + TOTAL_S
    try:
        with opener.open(url, timeout=SOCKET_S) as response:
            return _checked_size(_read_response(response, deadline))
    except HTTPError as error:
        error.close()
        raise Unavailable(f"returned status {error.code}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"did not respond: {getattr(error, 'reason', None) or error}") from error


def _read_response(response: Any, deadline: float) -> bytes:
    """The body, or enough of it to show that it is too large; a server that trickles is given up at `deadline`."""
    body = b""
    while len(body) <= MAX_BYTES and (part := response.read1(MAX_BYTES)):
        body += part
        if time.monotonic() > deadline:
            raise Unavailable(f"took more than {TOTAL_S:g} s")
    return body


def _checked_size(body: bytes) -> bytes:
    if len(body) > MAX_BYTES:
        raise Unavailable(f"has more than {MAX_BYTES:,} bytes")
    return body


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """None: a redirect could lead from https to anywhere, so the 30x is the response."""
