"""Who is calling. `authenticate` is the one door; a further scheme (jwt) is one more branch in it.

A key comes as `Authorization: Bearer <key>` or `X-API-Key: <key>`. Only SHA-256 digests of keys are in the settings,
and a key is compared with all of them in constant time. A key has enough entropy (docs: 32 random bytes) that a plain
digest gives nothing away.

An *operator* sees how the service works inside (`explain`, `/metrics`): whoever holds an operator key, and whoever
calls from this machine itself. A call that came through a proxy (it carries a forwarding header) is not from this
machine, whatever its peer address says.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast

from starlette.requests import Request

from pingfeed.errors import Forbidden, Unauthenticated
from pingfeed.settings import Settings, is_loopback

_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


@dataclass(frozen=True)
class Caller:
    """An authenticated caller. `subject` is the one user it may act for, None where it acts for all of them."""

    subject: str | None
    operator: bool

    def require_operator(self, what: str) -> None:
        """Forbidden, with a sentence that names `what`, unless this is an operator."""
        if not self.operator:
            raise Forbidden(f"{what} needs an operator key")


def authenticate(request: Request) -> Caller:
    """The caller of a request; Unauthenticated if the settings ask for a key and it has none that we know."""
    settings = settings_of(request)
    key = _presented_key(request)
    holds_operator_key = _is_known(key, settings.operator_key_hashes)
    operator = holds_operator_key or _is_local(request)
    if settings.auth == "none" or holds_operator_key or _is_known(key, settings.api_key_hashes):
        return Caller(None, operator)
    raise _unauthenticated(key)


def require_operator(request: Request, what: str) -> None:
    """For what is no user's business: no key from this machine, else an operator key.

    Unauthenticated without a key that we know, Forbidden with an ordinary one.
    """
    if _is_local(request):
        return
    settings = settings_of(request)
    key = _presented_key(request)
    known = _is_known(key, settings.operator_key_hashes)
    if not known and not _is_known(key, settings.api_key_hashes):
        raise _unauthenticated(key)
    Caller(None, known).require_operator(what)


def settings_of(request: Request) -> Settings:
    """The settings that the app was created with."""
    return cast(Settings, request.app.state.settings)


def _unauthenticated(key: str | None) -> Unauthenticated:
    if key is None:
        return Unauthenticated("send an API key as Authorization: Bearer <key> or X-API-Key: <key>")
    return Unauthenticated("the API key is not known here")


def _presented_key(request: Request) -> str | None:
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credential.strip():
        return credential.strip()
    return request.headers.get("x-api-key") or None


def _is_known(key: str | None, hashes: Iterable[str]) -> bool:
    """Whether the key's digest is among `hashes`; every one is compared, so that time tells nothing."""
    if key is None:
        return False
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return sum(hmac.compare_digest(digest, known) for known in hashes) > 0


def _is_local(request: Request) -> bool:
    if any(name in request.headers for name in _FORWARDED):
        return False
    return request.client is not None and is_loopback(request.client.host)
