"""The settings of the door: what a JWT is checked by. Each value is checked alone, then all of them together.

Which algorithms a token may be signed with is said here, never by the token. A set of public keys (JWKS) goes with
asymmetric algorithms and a shared secret with HS*: with both, a public key could pass for a secret.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pingfeed.core.errors import SettingsError
from pingfeed.core.urls import scheme_of

WITH_KEYS: Final = tuple(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512))
WITH_SECRET: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Each with the least bytes of a secret: as many as its digest has (RFC 7518, section 3.2)."""


@lru_cache(1024)
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def jwks_address(text: str, home: Path) -> str:
    """Where the keys are: a URL as it is, a path below `home`; ValueError with the end of a sentence."""
    if not text or "://" not in text:
        return str(home / Path(text).expanduser()) if text else ""
    try:
        split = urlsplit(text)
        host, _ = split.hostname, split.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if not host or split.username or split.password or scheme_of(text) not in ("https", "http"):
        raise ValueError("must be a path, or like https://login.example/.well-known/jwks.json")
    if scheme_of(text) == "http" and not is_loopback(host):
        raise ValueError("must be https:// unless the host is this machine: whoever changes the keys can be anybody")
    return text


def secret(text: str) -> str:
    """A shared secret; ValueError, which does not quote it, if it can be guessed or is no secret."""
    if text and _size(text) < min(WITH_SECRET.values()):
        raise ValueError(f"must have at least {min(WITH_SECRET.values())} bytes")
    if "-----BEGIN" in text:
        raise ValueError("is a key in PEM format; public keys go into a JWKS")
    return text


def algorithms(text: str) -> tuple[str, ...]:
    """Names of algorithms, separated by commas; ValueError for one that is not known, `none` among them."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if set(found) - {*WITH_KEYS, *WITH_SECRET}:
        raise ValueError(f"must be among {', '.join((*WITH_KEYS, *WITH_SECRET))}, separated by commas")
    return found


def default_algorithms(jwks: str, secret: str) -> tuple[str, ...]:
    """What is meant where PINGFEED_JWT_ALGORITHMS is empty."""
    if jwks:
        return ("RS256", "ES256")
    return ("HS256",) if secret else ()


def check(*, jwks: str, secret: str, audience: str, issuer: str, algorithms: Sequence[str]) -> None:
    """SettingsError, naming the variable, where `jwt` could let in nobody, or somebody else."""
    for name, value in (("JWT_AUDIENCE", audience), ("JWT_ISSUER", issuer)):
        if not value:
            raise _refused(name, "is empty while PINGFEED_AUTH is jwt")
    if not jwks and not secret:
        raise _refused("JWT_JWKS", "is empty while PINGFEED_AUTH is jwt; name the keys, or set PINGFEED_JWT_SECRET")
    if jwks and secret:
        raise _refused("JWT_SECRET", "is set beside PINGFEED_JWT_JWKS; tokens are signed with one or the other")
    wrong = sorted(set(algorithms) - set(WITH_KEYS if jwks else WITH_SECRET))
    if wrong:
        source = "PINGFEED_JWT_JWKS, a set of public keys" if jwks else "PINGFEED_JWT_SECRET, a shared secret"
        raise _refused("JWT_ALGORITHMS", f"names {wrong[0]}, which does not go with {source}")
    for name in () if jwks else algorithms:
        if _size(secret) < WITH_SECRET[name]:
            raise _refused("JWT_SECRET", f"must have at least {WITH_SECRET[name]} bytes for {name}")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _refused(name: str, sentence: str) -> SettingsError:
    return SettingsError(f"PINGFEED_{name} {sentence}", field=f"PINGFEED_{name}")
