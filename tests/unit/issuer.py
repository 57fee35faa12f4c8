"""A token issuer: RSA and EC keys, the key set that publishes them, and tokens with any claims."""

import json
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm


def now_s() -> int:
    """The real time, by which the token library checks `exp` and `nbf`."""
    return int(time.time())


AUDIENCE, ISSUER = "pingfeed", "https://login.example/"
SECRET: Final = "a secret of at least 64 bytes, as long as the longest digest of them all"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def key(kid: str) -> Private:
    """A private key for life; an RSA one unless its id begins with `ec`."""
    if kid.startswith("ec"):
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 1024 if kid.startswith("short") else 2048)


def public_pem(kid: str) -> bytes:
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return key(kid).public_key().public_bytes(serialization.Encoding.PEM, spki)


def jwk(kid: str, **more: Any) -> dict[str, Any]:
    """A public key as it is published."""
    found = key(kid).public_key()
    made = RSAAlgorithm.to_jwk(found, True) if isinstance(found, rsa.RSAPublicKey) else ECAlgorithm.to_jwk(found, True)
    return made | {"kid": kid, "use": "sig"} | more


def jwks(*keys: Mapping[str, Any] | str) -> bytes:
    """A key set of these keys, or of the keys with these ids."""
    return json.dumps({"keys": [jwk(one) if isinstance(one, str) else one for one in keys]}).encode()


def claims(sub: str = "u1", **more: Any) -> dict[str, Any]:
    """Good claims with `more` in their place; None leaves one out."""
    all_of_them = {"sub": sub, "aud": AUDIENCE, "iss": ISSUER, "exp": now_s() + 600} | more
    return {name: value for name, value in all_of_them.items() if value is not None}


def token(sub: str = "u1", *, kid: str | None = "rsa-1", signed_by: str = "rsa-1", **more: Any) -> str:
    """A token as the issuer makes them, but for what is given."""
    algorithm = "ES256" if signed_by.startswith("ec") else "RS256"
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(sub, **more), key(signed_by), algorithm, headers)


def shared(sub: str = "u1", *, algorithm: str = "HS256", secret: str = SECRET, **more: Any) -> str:
    """A token that a shared secret signs."""
    return jwt.encode(claims(sub, **more), secret, algorithm)


def publish(environ: Mapping[str, str], *ids: str) -> None:
    """Replace the key set of an installation."""
    Path(environ["JWT_JWKS"]).write_bytes(jwks(*ids))


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def environ(folder: Path, *ids: str) -> dict[str, str]:
    """Settings, without the prefix, of an installation that trusts this issuer's keys."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "jwks.json"
    file.write_bytes(jwks(*(ids or ("rsa-1", "ec-1"))))
    return {"AUTH": "jwt", "JWT_JWKS": str(file), "JWT_AUDIENCE": AUDIENCE, "JWT_ISSUER": ISSUER}


SHARED: Final = {"AUTH": "jwt", "JWT_SECRET": SECRET, "JWT_AUDIENCE": AUDIENCE, "JWT_ISSUER": ISSUER}
"""Settings of an installation that shares a secret."""
