"""Who is calling. `authenticate` is the one door; what it goes by is prepared once an app (`Authenticator`).

A key comes as `Authorization: Bearer <key>` or `X-API-Key: <key>`, never in the URL, which ends up in logs. Only
SHA-256 digests of keys are in the settings, and a key is compared with all of them in constant time. A key has enough
entropy (docs: 32 random bytes) that a plain digest gives nothing away. With `jwt`, what comes as a bearer's and is no
key is a token, and its caller acts for one user alone (`tokens.py`); keys are as good as ever.

An *operator* sees how the service works inside (`explain`, `/metrics`): whoever holds an operator key, and whoever
calls from this machine itself. A call that came through a proxy (it carries a forwarding header) is not from this
machine, whatever its peer address says.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from starlette.requests import Request
from starlette.types import Scope

from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.errors import Forbidden, Unauthenticated
from pingfeed.core.urls import is_loopback
from pingfeed.settings import Settings
from pingfeed.web.limits import RateLimit
from pingfeed.web.metrics import Metrics

if TYPE_CHECKING:
    from pingfeed.web.jwt import Tokens

_FORWARDED: Final = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"})


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `subject` is the one user it may act for, None where it acts for all of them."""

    subject: str | None
    operator: bool

    def require_operator(self, what: str) -> None:
        """Forbidden, with a sentence that names `what`, unless this is an operator."""
        if not self.operator:
            raise Forbidden(f"{what} needs an operator key")


_ANYBODY: Final = Caller(None, False)
_OPERATOR: Final = Caller(None, True)


async def authenticate(request: Request) -> Caller:
    """The caller of a request, by the settings of its app.

    Unauthenticated if they ask for a credential and it has none that is good, TooManyRequests if it comes too often,
    Unavailable if there is nothing to check a token with.
    """
    return await doorkeeper_of(request).admit(request.scope)


async def require_operator(request: Request, what: str) -> None:
    """For what is no user's business: no key from this machine, else an operator key.

    Unauthenticated without a credential that is good, Forbidden with an ordinary one.
    """
    await doorkeeper_of(request).require_operator(request.scope, what)


def doorkeeper_of(request: Request) -> "Authenticator":
    """The one that the app was created with."""
    return cast(Authenticator, request.app.state.doorkeeper)


class Authenticator:
    """Knows callers by one app's settings."""

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics,
        clock: Clock = system_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = settings.auth == "none"
        self._operators = [bytes.fromhex(known) for known in settings.operator_key_hashes]
        self._keys = [bytes.fromhex(known) for known in settings.api_key_hashes]
        self._refused = metrics.counter("auth_refused", "Requests without a good credential")
        limited = metrics.counter("rate_limited", "Requests refused because their caller sent too many")
        self._limit = RateLimit(settings.rate_limit, settings.rate_burst, monotonic=monotonic, refused=limited)
        self._tokens = _tokens(settings, metrics, clock, monotonic) if settings.auth == "jwt" else None

    async def admit(self, scope: Scope) -> Caller:
        """The caller of an ASGI request, as `authenticate` says."""
        key, bearer, local = _presented(scope)
        if key is None and bearer is None and self._open:
            return _OPERATOR if local else _ANYBODY
        caller = await self._known(key, bearer, local)
        if caller is not None:
            return caller
        if self._open:
            return _OPERATOR if local else _ANYBODY
        raise self._unauthenticated(key or bearer)

    async def require_operator(self, scope: Scope, what: str) -> None:
        """As the function of this name."""
        key, bearer, local = _presented(scope)
        if local:
            return
        caller = await self._known(key, bearer, local)
        if caller is None:
            raise self._unauthenticated(key or bearer)
        caller.require_operator(what)

    async def _known(self, key: bytes | None, bearer: bytes | None, local: bool) -> Caller | None:
        """Whose credential this is, charged for the request; None if there is none that is known."""
        if key is not None and (caller := self._holder(hashlib.sha256(key).digest(), local)) is not None:
            return caller
        if bearer is None:
            return None
        digest = hashlib.sha256(bearer).digest()
        if (caller := self._holder(digest, local)) is not None or self._tokens is None:
            return caller
        try:
            subject = await self._tokens.subject(bearer, digest)
        except Unauthenticated:
            self._refused.inc()
            raise
        self._limit.charge(subject)
        return Caller(subject, local)

    def _holder(self, digest: bytes, local: bool) -> Caller | None:
        """Whoever holds the key of this digest, charged for the request; None if it is none that is known."""
        operator = _is_among(digest, self._operators)
        if not operator | _is_among(digest, self._keys):
            return None
        self._limit.charge(digest)
        return _OPERATOR if operator or local else _ANYBODY

    def _unauthenticated(self, credential: bytes | None) -> Unauthenticated:
        self._refused.inc()
        if credential is not None:
            return Unauthenticated("the API key is not known here")
        if self._tokens is not None:
            return Unauthenticated("send a token as Authorization: Bearer <token>, or an API key as X-API-Key: <key>")
        return Unauthenticated("send an API key as Authorization: Bearer <key> or X-API-Key: <key>")


def _tokens(settings: Settings, metrics: Metrics, clock: Clock, monotonic: Callable[[], float]) -> "Tokens":
    """Imported here: only `jwt` pays for a library of cryptography."""
    from pingfeed.web.jwt import Tokens

    return Tokens(settings, clock=clock, monotonic=monotonic, metrics=metrics)


def _presented(scope: Scope) -> tuple[bytes | None, bytes | None, bool]:
    """The request's key and its bearer's credential, and whether it comes from this machine itself."""
    key = bearer = None
    forwarded = False
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            key = key or value
        elif name == b"authorization":
            bearer = bearer or _bearer(value)
        elif name in _FORWARDED:
            forwarded = True
    peer = scope.get("client")
    return key or None, bearer, not forwarded and peer is not None and is_loopback(peer[0])


def _bearer(value: bytes) -> bytes | None:
    scheme, _, credential = value.partition(b" ")
    return (credential.strip() or None) if scheme.lower() == b"bearer" else None


def _is_among(digest: bytes, known: list[bytes]) -> bool:
    """Whether a digest is one of these; every one is compared, so that time tells nothing."""
    return sum(hmac.compare_digest(digest, one) for one in known) > 0
