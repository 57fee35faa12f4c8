"""JSON Web Tokens (RFC 7519, verified as RFC 8725 recommends): which user a token speaks for.

A token must be signed with an allowed algorithm by a key that fits it, name our audience and issuer and a user in
`sub`, and be within `exp` and `nbf`. The result is cached by the token's digest for `CACHED_MS`, and never past `exp`:
a user's next requests cost a table lookup.
"""

import base64
from collections.abc import Callable
from typing import Annotated, Final

import jwt
import msgspec
from msgspec import Meta

from pingfeed.core.clock import Clock
from pingfeed.core.errors import FormatError, SettingsError, Unauthenticated, Unavailable
from pingfeed.core.events import Id
from pingfeed.settings import Settings
from pingfeed.web.jwks import PublishedKeys, read_file, source_of
from pingfeed.web.metrics import Metrics

MAX_TOKEN_BYTES: Final = 8192
MAX_CACHED: Final = 10_000
CACHED_MS: Final = 60_000
LEEWAY_S: Final = 30
"""How far the issuer's clock may be off."""


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None


class _Claims(msgspec.Struct):
    sub: Id
    exp: Annotated[float, Meta(lt=1e12)]
    """Epoch seconds. The library also accepts numeric strings and times without end."""


_HEADER: Final = msgspec.json.Decoder(_Header)
_SENTENCES: Final[tuple[tuple[type[jwt.PyJWTError], str], ...]] = (
    (jwt.ExpiredSignatureError, "the token has expired"),
    (jwt.ImmatureSignatureError, "the token is not valid yet"),
    (jwt.InvalidAudienceError, "the token is for another audience"),
    (jwt.InvalidIssuerError, "the token is from another issuer"),
    (jwt.InvalidSignatureError, "the token's signature is not valid"),
    (jwt.PyJWTError, "the token is not valid"),
)


class Tokens:
    """Verifies tokens by one installation's settings."""

    def __init__(self, settings: Settings, *, clock: Clock, monotonic: Callable[[], float], metrics: Metrics) -> None:
        self._settings = settings
        self._clock = clock
        self._secret = settings.jwt_secret.encode("utf-8", "surrogateescape")
        self._cache: dict[bytes, tuple[str, float]] = {}
        self._published = None if self._secret else self._open(monotonic, metrics)
        self._library = jwt.PyJWT(
            {"require": ["exp", "sub", "aud", "iss"], "verify_iat": False, "enforce_minimum_key_length": True}
        )

    def _open(self, monotonic: Callable[[], float], metrics: Metrics) -> PublishedKeys:
        """The published keys; a key file is read, and checked, at once."""
        address = self._settings.jwt_jwks
        published = PublishedKeys(
            source_of(address),
            self._settings.jwt_algorithms,
            monotonic=monotonic,
            reads=metrics.counter("jwks_reads", "Reads of the token signing keys", ("outcome",)),
            on_change=self._cache.clear,
        )
        if "://" not in address:
            try:
                published.use(read_file(address))
            except (Unavailable, FormatError) as error:
                name = "PINGFEED_JWT_JWKS"
                raise SettingsError(f"{name} is {address}, which {error.message}", field=name) from error
        return published

    @property
    def problem(self) -> str | None:
        """Why the keys cannot be refreshed, None if they can."""
        return self._published.problem if self._published else None

    async def warm_up(self) -> None:
        """Read the published keys before the first token comes."""
        if self._published is not None:
            await self._published.warm_up()

    async def subject(self, token: bytes, digest: bytes) -> str:
        """The user that a token speaks for; `digest` is a cryptographic digest of the token.

        Raises Unauthenticated, saying what is wrong with the token, and Unavailable without keys to check it.
        """
        now_ms = self._clock()
        cached = self._cache.get(digest)
        if cached is not None and now_ms < cached[1]:
            return cached[0]
        claims = await self._verify(token)
        self._cache.pop(digest, None)
        if len(self._cache) >= MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        self._cache[digest] = claims.sub, min((claims.exp + LEEWAY_S) * 1000, now_ms + CACHED_MS)
        return claims.sub

    async def _verify(self, token: bytes) -> _Claims:
        header = _header_of(token)
        key = await self._key(header)
        audience, issuer = self._settings.jwt_audience, self._settings.jwt_issuer
        try:
            claims = self._library.decode(token, key, [header.alg], audience=audience, issuer=issuer, leeway=LEEWAY_S)
            return msgspec.convert(claims, _Claims)
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the token has no {error.claim}") from error
        except jwt.PyJWTError as error:
            sentence = next(sentence for kind, sentence in _SENTENCES if isinstance(error, kind))
            raise Unauthenticated(sentence) from error
        except msgspec.ValidationError as error:
            what = "sub is not a user id" if "`$.sub`" in str(error) else "exp is not a time"
            raise Unauthenticated(f"the token's {what}") from error

    async def _key(self, header: _Header) -> jwt.PyJWK | bytes:
        """The key for a token with this header, whose algorithm the settings must allow."""
        if header.alg not in self._settings.jwt_algorithms:
            raise Unauthenticated("the token's signing algorithm is not accepted")
        if self._published is None:
            return self._secret
        if header.kid is None:
            raise Unauthenticated("the token does not name its signing key (kid)")
        key = await self._published.find(header.kid, header.alg)
        if key is None:
            raise Unauthenticated("the token's signing key is unknown")
        return key


def _header_of(token: bytes) -> _Header:
    if len(token) > MAX_TOKEN_BYTES:
        raise Unauthenticated(f"the token has more than {MAX_TOKEN_BYTES} bytes")
    first = token.partition(b".")[0]
    try:
        return _HEADER.decode(base64.b64decode(first + b"=" * (-len(first) % 4), b"-_", validate=True))
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise Unauthenticated("the token is not a JSON Web Token") from error
