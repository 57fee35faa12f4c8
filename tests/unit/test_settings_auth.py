"""The settings of the door: what is required together, what contradicts itself, and what is never shown."""

from pathlib import Path

import pytest

from pingfeed.core.errors import SettingsError
from pingfeed.settings import load, shown

SECRET = "0123456789abcdef" * 4
KEYS = {"AUTH": "jwt", "JWT_JWKS": "https://login.example/jwks.json", "JWT_AUDIENCE": "a", "JWT_ISSUER": "i"}
SHARED = {"AUTH": "jwt", "JWT_SECRET": SECRET, "JWT_AUDIENCE": "a", "JWT_ISSUER": "i"}


def prefixed(environ: dict[str, str]) -> dict[str, str]:
    return {f"PINGFEED_{name}": value for name, value in environ.items()}


@pytest.mark.parametrize(
    ("environ", "algorithms"),
    [
        (KEYS, ("RS256", "ES256")),
        (KEYS | {"JWT_ALGORITHMS": "ES256, PS512"}, ("ES256", "PS512")),
        (SHARED, ("HS256",)),
        (SHARED | {"JWT_ALGORITHMS": "HS512"}, ("HS512",)),
        ({}, ()),
    ],
)
def test_algorithms_go_with_the_keys(environ: dict[str, str], algorithms: tuple[str, ...]) -> None:
    assert load(prefixed(environ)).jwt_algorithms == algorithms


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/jwks", "http://[::1]/jwks", "http://localhost/jwks"])
def test_plain_http_is_for_this_machine(url: str) -> None:
    assert load(prefixed(KEYS | {"JWT_JWKS": url})).jwt_jwks == url


def test_a_relative_file_is_below_home(tmp_path: Path) -> None:
    settings = load(prefixed(KEYS | {"JWT_JWKS": "keys/jwks.json", "HOME": "here"}), cwd=tmp_path)
    assert settings.jwt_jwks == str(tmp_path / "here/keys/jwks.json")
    assert load(prefixed(KEYS | {"JWT_JWKS": "/etc/jwks.json"})).jwt_jwks == "/etc/jwks.json"


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        (KEYS | {"JWT_AUDIENCE": ""}, "JWT_AUDIENCE"),
        (KEYS | {"JWT_ISSUER": ""}, "JWT_ISSUER"),
        (KEYS | {"JWT_JWKS": ""}, "JWT_JWKS"),
        (KEYS | {"JWT_SECRET": SECRET}, "JWT_SECRET"),
        (KEYS | {"JWT_ALGORITHMS": "RS256,HS256"}, "JWT_ALGORITHMS"),
        (KEYS | {"JWT_ALGORITHMS": "none"}, "JWT_ALGORITHMS"),
        (KEYS | {"JWT_ALGORITHMS": "RS256,none"}, "JWT_ALGORITHMS"),
        (KEYS | {"JWT_ALGORITHMS": "rs256"}, "JWT_ALGORITHMS"),
        (KEYS | {"JWT_JWKS": "http://login.example/jwks"}, "JWT_JWKS"),
        (KEYS | {"JWT_JWKS": "http://127.0.0.1.login.example/jwks"}, "JWT_JWKS"),
        (KEYS | {"JWT_JWKS": "http://127.0.0.1@login.example/jwks"}, "JWT_JWKS"),
        (KEYS | {"JWT_JWKS": "file:///etc/passwd"}, "JWT_JWKS"),
        (KEYS | {"JWT_JWKS": "https:///jwks"}, "JWT_JWKS"),
        (KEYS | {"JWT_JWKS": "https://[/jwks"}, "JWT_JWKS"),
        (KEYS | {"JWT_JWKS": "https://login.example:x/jwks"}, "JWT_JWKS"),
        (SHARED | {"JWT_SECRET": "x" * 31}, "JWT_SECRET"),
        (SHARED | {"JWT_SECRET": "-----BEGIN PUBLIC KEY-----" + "x" * 64}, "JWT_SECRET"),
        (SHARED | {"JWT_SECRET": "x" * 32, "JWT_ALGORITHMS": "HS512"}, "JWT_SECRET"),
        (SHARED | {"JWT_ALGORITHMS": "RS256"}, "JWT_ALGORITHMS"),
        ({"RATE_LIMIT": "-1"}, "RATE_LIMIT"),
        ({"RATE_LIMIT": "nan"}, "RATE_LIMIT"),
        ({"RATE_BURST": "1.5"}, "RATE_BURST"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(prefixed(environ))
    assert refused.value.field == f"PINGFEED_{named}"
    assert refused.value.message.startswith(f"PINGFEED_{named} ")
    assert environ.get("JWT_SECRET", "?" * 9) not in refused.value.message


def test_the_secret_is_never_shown() -> None:
    values = shown(load(prefixed(SHARED)))
    assert values["PINGFEED_JWT_SECRET"] == "(set)"
    assert SECRET not in str(values)
    assert "hush" not in str(shown(load(prefixed(KEYS | {"JWT_JWKS": "https://login.example/jwks?token=hush"}))))
