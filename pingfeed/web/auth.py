"""Authentication and rate limits; `authenticate` is the only entry.

A key comes as `Authorization: Bearer <key>` or `X-API-Key: <key>`, never in the URL, which ends up in logs. The
settings hold only SHA-256 digests of keys; a presented key is compared with all of them in constant time. A key has
enough entropy (docs: 32 random bytes) that a plain digest is safe. With `jwt`, a bearer credential that is not a key is
a token, whose caller acts for one user only (`jwt.py`); keys remain valid. With `gateway_jwt`, API Gateway has verified
the token, and its event names the user: no header does.

An *operator* may see internals (`explain`, `/metrics`): the holder of an operator key, or a caller on this machine. A
request that came through a proxy (it carries a forwarding header) is not local, whatever its peer address.
"""

import hashlib
import hmac
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, cast

import msgspec
from prometheus_client import Counter
from starlette.requests import Request
from starlette.types import Scope

from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.errors import Forbidden, PingfeedError, TooManyRequests, Unauthenticated, UnsupportedType
from pingfeed.core.events import Id
from pingfeed.core.urls import is_loopback
from pingfeed.settings import Settings
from pingfeed.web.metrics import Metrics

if TYPE_CHECKING:
    from pingfeed.web.jwt import Tokens

MAX_BUCKETS: Final = 100_000
BURST_S: Final = 10
"""Without PINGFEED_RATE_BURST, the burst is this many seconds' worth of requests."""
_FORWARDED: Final = re.compile(
    rb"via|(x-)?(original-)?forwarded.*|.*(real|client|connecting|remote|peer)-?ip|.*proxy.*|x-original-.*"
    rb"|(cf|cdn|x-envoy|x-amz|x-amzn|x-azure|x-appengine|fly|fastly|x-akamai|akamai|x-vercel|x-cloud)-.*"
)
"""Headers that proxies add. One that matches wrongly costs a local caller its operator rights, not more."""
_PAGE_TYPES: Final = (b"text/plain", b"multipart/form-data")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `subject` is the only user it may act for, None if it may act for all."""

    subject: str | None
    operator: bool

    def require_operator(self, what: str) -> None:
        """Raise Forbidden, naming `what`, unless the caller is an operator."""
        if not self.operator:
            raise Forbidden(f"{what} needs an operator key")


_ANY_CALLER: Final = Caller(None, False)
_OPERATOR: Final = Caller(None, True)


async def authenticate(request: Request) -> Caller:
    """The caller of a request, by its app's settings.

    Raises Unauthenticated without a valid credential where one is required, TooManyRequests over the rate limit, and
    Unavailable if no keys are available to check a token.
    """
    return await authenticator_of(request).authenticate(request.scope)


async def require_operator(request: Request, what: str) -> None:
    """Admit callers on this machine, and operator keys from elsewhere.

    Raises Unauthenticated without a valid credential, Forbidden with an ordinary one.
    """
    await authenticator_of(request).require_operator(request.scope, what)


def authenticator_of(request: Request) -> "Authenticator":
    """The authenticator of the request's app."""
    return cast(Authenticator, request.app.state.authenticator)


class RateLimiter:
    """A token bucket for each caller: `rate` requests a second and `burst` at once (0: ten seconds' worth).

    A rate of 0 means no limit. A bucket is stored as one number, the moment when it will be full again. A full bucket
    carries no information, so the least recently used ones can be evicted; an evicted caller gains at most one burst.
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        monotonic: Callable[[], float],
        rejected: Counter,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self._rate = rate
        self._burst_s = max(1, burst or rate * BURST_S) / rate if rate else 0.0
        self._monotonic = monotonic
        self._rejected = rejected
        self._max = max_buckets
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def charge(self, caller: Hashable) -> None:
        """Take one token; TooManyRequests, with the time until the next one, if there is none."""
        if not self._rate:
            return
        now = self._monotonic()
        full_at = max(self._full_at.get(caller, now), now) + 1 / self._rate
        wait_s = full_at - now - self._burst_s
        if wait_s > 1e-9:  # sums of fractions are not exact
            self._rejected.inc()
            seconds = max(1, math.ceil(wait_s - 1e-9))
            raise TooManyRequests("too many requests; retry after a short wait", retry_after_s=seconds)
        self._full_at[caller] = full_at
        self._full_at.move_to_end(caller)
        if len(self._full_at) > self._max:
            self._full_at.popitem(last=False)

    def __len__(self) -> int:
        """The number of buckets held."""
        return len(self._full_at)


class Authenticator:
    """Identifies callers by one app's settings."""

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics,
        clock: Clock = system_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = settings.auth == "none"
        self._by_gateway = settings.auth == "gateway_jwt"
        self._loopback = settings.operator_loopback
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._operators = [bytes.fromhex(known) for known in settings.operator_key_hashes]
        self._keys = [bytes.fromhex(known) for known in settings.api_key_hashes]
        self._rejected = metrics.counter("auth_rejected", "Requests without a valid credential")
        limited = metrics.counter("rate_limited", "Requests rejected by the rate limit")
        self._limiter = RateLimiter(settings.rate_limit, settings.rate_burst, monotonic=monotonic, rejected=limited)
        self._tokens = _tokens(settings, metrics, clock, monotonic) if settings.auth == "jwt" else None

    @property
    def keys_problem(self) -> str | None:
        """Why the keys of tokens cannot be refreshed, None if they can or none are used."""
        return self._tokens.problem if self._tokens else None

    async def warm_up(self) -> None:
        """Read the keys of tokens, where there are any, before the first request."""
        if self._tokens is not None:
            await self._tokens.warm_up()

    async def authenticate(self, scope: Scope) -> Caller:
        """The caller of an ASGI request; raises as the function of this name."""
        key, bearer, local = self._presented(scope)
        caller = await self._identify(key, bearer, local) if key or bearer else None
        if caller is not None:
            return caller
        if self._by_gateway and (subject := _verified_by_gateway(scope)) is not None:
            self._limiter.charge(subject)
            return Caller(subject, False)
        if self._open:
            self._check_page(scope)
            return _OPERATOR if local else _ANY_CALLER
        raise self._unauthenticated(key or bearer)

    async def require_operator(self, scope: Scope, what: str) -> None:
        """Raises as the function of this name."""
        key, bearer, local = self._presented(scope)
        if local:
            return
        caller = await self._identify(key, bearer, local)
        if caller is None:
            raise self._unauthenticated(key or bearer)
        caller.require_operator(what)

    async def is_operator(self, scope: Scope) -> bool:
        """Whether `require_operator` would pass."""
        try:
            await self.require_operator(scope, "")
        except PingfeedError:
            return False
        return True

    async def _identify(self, key: bytes | None, bearer: bytes | None, local: bool) -> Caller | None:
        """The holder of the credential, charged for the request; None if the credential is unknown."""
        if key is not None and (caller := self._key_holder(hashlib.sha256(key).digest(), local)) is not None:
            return caller
        if bearer is None:
            return None
        digest = hashlib.sha256(bearer).digest()
        if (caller := self._key_holder(digest, local)) is not None or self._tokens is None:
            return caller
        try:
            subject = await self._tokens.subject(bearer, digest)
        except Unauthenticated:
            self._rejected.inc()
            raise
        self._limiter.charge(subject)
        return Caller(subject, local)

    def _key_holder(self, digest: bytes, local: bool) -> Caller | None:
        """The holder of the key with this digest, charged for the request; None if the key is unknown."""
        operator = _is_among(digest, self._operators)
        if not operator | _is_among(digest, self._keys):
            return None
        self._limiter.charge(digest)
        return _OPERATOR if operator or local else _ANY_CALLER

    def _unauthenticated(self, credential: bytes | None) -> Unauthenticated:
        self._rejected.inc()
        if self._by_gateway:
            return Unauthenticated("API Gateway has verified no token whose sub is a user id, and there is no API key")
        if credential is not None:
            return Unauthenticated("unknown API key")
        if self._tokens is not None:
            return Unauthenticated("send a token as Authorization: Bearer <token>, or an API key as X-API-Key: <key>")
        return Unauthenticated("send an API key as Authorization: Bearer <key> or X-API-Key: <key>")

    def _presented(self, scope: Scope) -> tuple[bytes | None, bytes | None, bool]:
        """The request's API key and bearer credential, and whether it comes from this machine."""
        key = bearer = None
        forwarded = False
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                key = key or value
            elif name == b"authorization":
                bearer = bearer or _bearer(value)
            elif _is_forwarding(name):
                forwarded = True
        peer = scope.get("client")
        local = self._loopback and not forwarded and peer is not None and is_loopback(peer[0])
        return key or None, bearer, local

    def _check_page(self, scope: Scope) -> None:
        """Without credentials, reject a POST that any web page in a browser on this machine could send."""
        if scope["method"] != "POST":
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is not None and not self._origins & {origin, b"*"}:
            raise Forbidden("web pages of this origin may not send events; PINGFEED_CORS_ORIGINS lists those that may")
        if headers.get(b"content-type", b"").strip().lower().startswith(_PAGE_TYPES):
            raise UnsupportedType("Content-Type must be application/json")


def _tokens(settings: Settings, metrics: Metrics, clock: Clock, monotonic: Callable[[], float]) -> "Tokens":
    """Imported here so that only `jwt` pays for the cryptography library."""
    from pingfeed.web.jwt import Tokens

    return Tokens(settings, clock=clock, monotonic=monotonic, metrics=metrics)


def _verified_by_gateway(scope: Scope) -> str | None:
    """The `sub` of the token that the JWT authorizer of an HTTP API has verified. No client can write this part."""
    try:
        return msgspec.convert(scope["aws.event"]["requestContext"]["authorizer"]["jwt"]["claims"]["sub"], Id)
    except (KeyError, TypeError, msgspec.ValidationError):
        return None


@lru_cache(1024)
def _is_forwarding(name: bytes) -> bool:
    return _FORWARDED.fullmatch(name) is not None


def _bearer(value: bytes) -> bytes | None:
    scheme, _, credential = value.partition(b" ")
    return (credential.strip() or None) if scheme.lower() == b"bearer" else None


def _is_among(digest: bytes, known: list[bytes]) -> bool:
    """Whether `digest` is one of `known`, in constant time: every one is compared."""
    return sum(hmac.compare_digest(digest, one) for one in known) > 0
