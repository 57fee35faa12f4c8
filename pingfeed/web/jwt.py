"""JSON Web Tokens (RFC 7519, checked as RFC 8725 wants it): who a token speaks for.

A token must be signed with an allowed algorithm by a key that fits it, be for this audience and by this issuer, name a
user in `sub`, and not be past `exp` or before `nbf`. What was found is remembered for `REMEMBERED_MS`, and never past
`exp`, under the token's digest: a user's next requests cost a look into a table.
"""

import base64
import math
from collections.abc import Callable
from typing import Any, Final

import jwt
import msgspec

from pingfeed.core.clock import Clock
from pingfeed.core.errors import FormatError, SettingsError, Unauthenticated, Unavailable
from pingfeed.core.events import Id
from pingfeed.settings import Settings
from pingfeed.web.jwks import PublishedKeys
from pingfeed.web.key_source import source_of
from pingfeed.web.metrics import Metrics

MAX_TOKEN_BYTES: Final = 8192
MAX_REMEMBERED: Final = 10_000
REMEMBERED_MS: Final = 60_000
LEEWAY_S: Final = 30
"""How far the issuer's clock may be off."""


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None


_HEADER: Final = msgspec.json.Decoder(_Header)
_SENTENCES: Final[tuple[tuple[type[jwt.PyJWTError], str], ...]] = (
    (jwt.InvalidAudienceError, "the token is for another audience"),
    (jwt.InvalidIssuerError, "the token is by another issuer"),
    (jwt.InvalidSignatureError, "the token's signature is not valid"),
    (jwt.PyJWTError, "the token is not valid"),
)


class Tokens:
    """Checks tokens by one installation's settings."""

    def __init__(self, settings: Settings, *, clock: Clock, monotonic: Callable[[], float], metrics: Metrics) -> None:
        self._settings = settings
        self._clock = clock
        self._secret = settings.jwt_secret.encode("utf-8", "surrogateescape")
        self._remembered: dict[bytes, tuple[str, float]] = {}
        self._published = None if self._secret else self._open(monotonic, metrics)
        # The clock is given, so times are checked here; all other claims by the library.
        self._library = jwt.PyJWT(
            {
                "require": ["exp", "sub", "aud", "iss"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "enforce_minimum_key_length": True,
            }
        )

    def _open(self, monotonic: Callable[[], float], metrics: Metrics) -> PublishedKeys:
        """The published keys; what is wrong with a file of them is said at once."""
        address = self._settings.jwt_jwks
        published = PublishedKeys(
            source_of(address),
            self._settings.jwt_algorithms,
            monotonic=monotonic,
            reads=metrics.counter("jwks_reads", "Times that the keys of tokens were read", ("outcome",)),
            on_change=self._remembered.clear,
        )
        if "://" not in address:
            try:
                published.read_now()
            except (Unavailable, FormatError) as error:
                name = "PINGFEED_JWT_JWKS"
                raise SettingsError(f"{name} is {address}, which {error.message}", field=name) from error
        return published

    async def subject(self, token: bytes, digest: bytes) -> str:
        """The user that a token speaks for; `digest` is a cryptographic one of the token.

        Unauthenticated says what is wrong with it, Unavailable that there are no keys to check it with.
        """
        now_ms = self._clock()
        known = self._remembered.get(digest)
        if known is not None and now_ms < known[1]:
            return known[0]
        subject, expires_ms = await self._checked(token, now_ms)
        self._remembered.pop(digest, None)
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = subject, min(expires_ms, now_ms + REMEMBERED_MS)
        return subject

    async def _checked(self, token: bytes, now_ms: int) -> tuple[str, float]:
        header = _header_of(token)
        key = await self._key(header)
        settings = self._settings
        try:
            claims = self._library.decode(
                token, key, [header.alg], audience=settings.jwt_audience, issuer=settings.jwt_issuer
            )
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the token has no {error.claim}") from error
        except jwt.PyJWTError as error:
            sentence = next(sentence for kind, sentence in _SENTENCES if isinstance(error, kind))
            raise Unauthenticated(sentence) from error
        expires_ms = _check_times(claims, now_ms)
        try:
            return msgspec.convert(claims["sub"], Id), expires_ms
        except msgspec.ValidationError as error:
            raise Unauthenticated("the token's sub is not a user id") from error

    async def _key(self, header: _Header) -> jwt.PyJWK | bytes:
        """The key for a token with this header, whose algorithm the settings must allow."""
        if header.alg not in self._settings.jwt_algorithms:
            raise Unauthenticated("the token is signed with an algorithm that is not accepted here")
        if self._published is None:
            return self._secret
        if header.kid is None:
            raise Unauthenticated("the token does not say which key signed it (kid)")
        key = await self._published.find(header.kid, header.alg)
        if key is None:
            raise Unauthenticated("the token is signed by a key that is not known here")
        return key


def _header_of(token: bytes) -> _Header:
    if len(token) > MAX_TOKEN_BYTES:
        raise Unauthenticated(f"the token has more than {MAX_TOKEN_BYTES} bytes")
    first = token.partition(b".")[0]
    try:
        return _HEADER.decode(base64.b64decode(first + b"=" * (-len(first) % 4), b"-_", validate=True))
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise Unauthenticated("the token is not a JSON Web Token") from error


def _check_times(claims: dict[str, Any], now_ms: int) -> float:
    """Until when the claims hold, in epoch milliseconds; Unauthenticated outside of their time."""
    expires = _moment(claims, "exp")
    if now_ms >= (expires + LEEWAY_S) * 1000:
        raise Unauthenticated("the token has expired")
    if "nbf" in claims and now_ms < (_moment(claims, "nbf") - LEEWAY_S) * 1000:
        raise Unauthenticated("the token is not valid yet")
    return (expires + LEEWAY_S) * 1000


def _moment(claims: dict[str, Any], name: str) -> float:
    """A claim in epoch seconds. JSON as Python reads it knows Infinity: a token for ever."""
    value = claims[name]
    try:
        is_time = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # A whole number that no double holds.
        is_time = False
    if not is_time:
        raise Unauthenticated(f"the token's {name} is not a time")
    return float(value)
