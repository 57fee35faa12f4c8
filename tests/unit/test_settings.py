"""Settings: what the environment may say, the sentence for what it may not, and what is never shown."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pingfeed.core.errors import SettingsError
from pingfeed.core.urls import is_loopback
from pingfeed.settings import SCHEMES, check_open, load, shown, url_path

DIGEST = hashlib.sha256(b"a key").hexdigest()
SECRET = "0123456789abcdef" * 4
KEYS = {"AUTH": "jwt", "JWT_JWKS": "https://login.example/jwks.json", "JWT_AUDIENCE": "a", "JWT_ISSUER": "i"}
SHARED = {"AUTH": "jwt", "JWT_SECRET": SECRET, "JWT_AUDIENCE": "a", "JWT_ISSUER": "i"}


def loaded(environ: dict[str, str], **options: Any) -> Any:
    return load({f"PINGFEED_{name}": value for name, value in environ.items()}, **options)


def test_import_needs_neither_numpy_nor_the_features() -> None:
    code = "import sys, pingfeed.settings; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "pingfeed.settings" in modules
    assert not {"numpy", "pingfeed.core.features"} & set(modules)


def test_by_default_everything_lives_under_one_home(tmp_path: Path) -> None:
    settings = load({}, cwd=tmp_path)
    home = tmp_path / "var/pingfeed"
    assert (settings.home, settings.spool_dir, settings.auth) == (home, home / "spool", "none")
    assert all(url_path(getattr(settings, name)).is_relative_to(home) for name in SCHEMES if name != "cache_url")
    assert settings.cache_url == "", "a cache is opt-in"


def test_home_moves_everything(tmp_path: Path) -> None:
    settings = loaded({"HOME": "here", "JWT_JWKS": "keys/jwks.json"}, cwd=tmp_path)
    assert settings.spool_dir == tmp_path / "here/spool"
    assert settings.signals_url == f"sqlite://{tmp_path}/here/signals.sqlite"
    assert settings.jwt_jwks == f"{tmp_path}/here/keys/jwks.json"
    assert loaded({"JWT_JWKS": "/etc/jwks.json"}).jwt_jwks == "/etc/jwks.json"


def test_other_variables_are_ignored() -> None:
    load({"PATH": "/bin", "HOME": "/", "PING": "x"})


@pytest.mark.parametrize(
    ("environ", "name", "value"),
    [
        ({"DEMO_PAGE": "Yes"}, "demo_page", True),
        ({"DEMO_PAGE": "off"}, "demo_page", False),
        ({"DEMO_PAGE": "", "TICK_MINUTES": "", "EXPLORE_SHARE": ""}, "tick_minutes", 15),
        ({"FACETS": ""}, "facets", ()),
        ({"FACETS": "topics, mood,"}, "facets", ("topics", "mood")),
        ({"SINK_FLUSH_SECONDS": "0.5"}, "sink_flush_seconds", 0.5),
        ({"CORS_ORIGINS": "*,HTTPS://App.Example"}, "cors_origins", ("*", "https://app.example")),
        ({"CORS_ORIGINS": "http://[::1]:8001"}, "cors_origins", ("http://[::1]:8001",)),
        ({"JWT_JWKS": "http://[::1]/jwks"}, "jwt_jwks", "http://[::1]/jwks"),
        ({"JWT_JWKS": "http://localhost/jwks"}, "jwt_jwks", "http://localhost/jwks"),
        (KEYS, "jwt_algorithms", ("RS256", "ES256")),
        (KEYS | {"JWT_ALGORITHMS": "ES256, PS512"}, "jwt_algorithms", ("ES256", "PS512")),
        (SHARED, "jwt_algorithms", ("HS256",)),
        (SHARED | {"JWT_ALGORITHMS": "HS512"}, "jwt_algorithms", ("HS512",)),
        ({}, "jwt_algorithms", ()),
    ],
)
def test_values_are_typed(environ: dict[str, str], name: str, value: object) -> None:
    assert getattr(loaded(environ), name) == value


@pytest.mark.parametrize(
    ("environ", "named", "sentence"),
    [
        ({"AUHT": "none"}, "AUHT", "is not a setting of pingfeed; did you mean PINGFEED_AUTH?"),
        ({"XYZZY": "1"}, "XYZZY", "is not a setting of pingfeed; docs/settings.md lists them"),
        ({"AUTH": "basic"}, "AUTH", "must be none, api_key, jwt or gateway_jwt"),
        ({"AUTH": ""}, "AUTH", "must be none, api_key, jwt or gateway_jwt"),
        ({"AUTH": "gateway_jwt"}, "AUTH", "is gateway_jwt, which is for Lambda only"),
        ({"AUTH": "api_key"}, "API_KEY_HASHES", "is empty while PINGFEED_AUTH is api_key"),
        ({"API_KEY_HASHES": "a-plain-key"}, "API_KEY_HASHES", "must be SHA-256 digests"),
        ({"API_KEY_HASHES": f"{DIGEST},{DIGEST.upper()}"}, "API_KEY_HASHES", "must be SHA-256 digests"),
        ({"ALLOW_OPEN": "maybe"}, "ALLOW_OPEN", "must be 1 or 0"),
        ({"TICK_MINUTES": "0"}, "TICK_MINUTES", "must be a whole number from 1 to 1440"),
        ({"TICK_MINUTES": "a quarter"}, "TICK_MINUTES", "must be a whole number from 1 to 1440"),
        ({"TICK_MINUTES": "7"}, "TICK_MINUTES", "must divide a day"),
        ({"NIGHT_HOUR": "24"}, "NIGHT_HOUR", "must be a whole number from 0 to 23"),
        ({"REJECTED_DAYS": "0"}, "REJECTED_DAYS", "must be a whole number from 1 to 30"),
        ({"REJECTED_DAYS": "31"}, "REJECTED_DAYS", "must be a whole number from 1 to 30"),
        ({"SINK_FLUSH_SECONDS": "nan"}, "SINK_FLUSH_SECONDS", "must be a number from 0.05 to 900"),
        ({"LOG_MATRIX_SHARE": "2"}, "LOG_MATRIX_SHARE", "must be a number from 0 to 1"),
        ({"RATE_LIMIT": "-1"}, "RATE_LIMIT", "must be a number from 0 to"),
        ({"RATE_LIMIT": "nan"}, "RATE_LIMIT", "must be a number from 0 to"),
        ({"RATE_BURST": "1.5"}, "RATE_BURST", "must be a whole number from 0 to"),
        ({"SIGNALS_URL": "mysql://host/db"}, "SIGNALS_URL", "has the scheme 'mysql'; known are sqlite://"),
        ({"LAKE_URL": "just/a/path"}, "LAKE_URL", "is not a URL; known are file://, s3://"),
        ({"LAKE_URL": ""}, "LAKE_URL", "is not a URL"),
        *(
            ({"CORS_ORIGINS": origin}, "CORS_ORIGINS", "must be like https://app.example")
            for origin in ("https://app.example/page", "https://app.example/", "app.example", "null", "https://")
        ),
        ({"DEMO_INGEST_URL": "http://in.example/events"}, "DEMO_INGEST_URL", "must be like https://app.example"),
        ({"ATTRIBUTES": ",".join(f"a{n}" for n in range(17))}, "ATTRIBUTES", "names more than 16"),
        (KEYS | {"JWT_AUDIENCE": ""}, "JWT_AUDIENCE", "is empty while PINGFEED_AUTH is jwt"),
        (KEYS | {"JWT_ISSUER": ""}, "JWT_ISSUER", "is empty while PINGFEED_AUTH is jwt"),
        (KEYS | {"JWT_JWKS": ""}, "JWT_JWKS", "is empty while"),
        (KEYS | {"JWT_SECRET": SECRET}, "JWT_SECRET", "is set beside PINGFEED_JWT_JWKS"),
        (KEYS | {"JWT_ALGORITHMS": "RS256,HS256"}, "JWT_ALGORITHMS", "names HS256, which does not go with"),
        (KEYS | {"JWT_ALGORITHMS": "none"}, "JWT_ALGORITHMS", "must be among RS256"),
        (KEYS | {"JWT_ALGORITHMS": "RS256,none"}, "JWT_ALGORITHMS", "must be among RS256"),
        (KEYS | {"JWT_ALGORITHMS": "rs256"}, "JWT_ALGORITHMS", "must be among RS256"),
        (KEYS | {"JWT_JWKS": "http://login.example/jwks"}, "JWT_JWKS", "must be https://"),
        (KEYS | {"JWT_JWKS": "http://127.0.0.1.login.example/jwks"}, "JWT_JWKS", "must be https://"),
        (KEYS | {"JWT_JWKS": "http://127.0.0.1@login.example/jwks"}, "JWT_JWKS", "must be a path, or like"),
        (KEYS | {"JWT_JWKS": "file:///etc/passwd"}, "JWT_JWKS", "must be a path, or like"),
        (KEYS | {"JWT_JWKS": "https:///jwks"}, "JWT_JWKS", "must be a path, or like"),
        (KEYS | {"JWT_JWKS": "https://[/jwks"}, "JWT_JWKS", "is not a URL"),
        (KEYS | {"JWT_JWKS": "https://login.example:x/jwks"}, "JWT_JWKS", "is not a URL"),
        (SHARED | {"JWT_SECRET": "x" * 31}, "JWT_SECRET", "must have at least 32 bytes"),
        (SHARED | {"JWT_SECRET": "-----BEGIN PUBLIC KEY-----" + "x" * 64}, "JWT_SECRET", "is a key in PEM format"),
        (SHARED | {"JWT_SECRET": "x" * 32, "JWT_ALGORITHMS": "HS512"}, "JWT_SECRET", "must have at least 64 bytes"),
        (SHARED | {"JWT_ALGORITHMS": "RS256"}, "JWT_ALGORITHMS", "names RS256, which does not go with"),
        ({"LAKE_URL": "s3://bucket/lake"}, "EVENTS_URL", "is not set while PINGFEED_LAKE_URL is on S3"),
        ({"EVENTS_URL": "firehose://events"}, "LAKE_URL", "is not set while PINGFEED_EVENTS_URL is a stream"),
    ],
)
def test_a_wrong_value_is_rejected_by_a_sentence_that_names_the_variable_and_quotes_no_secret(
    environ: dict[str, str], named: str, sentence: str
) -> None:
    with pytest.raises(SettingsError) as rejected:
        loaded(environ)
    assert rejected.value.field == f"PINGFEED_{named}"
    assert rejected.value.message.startswith(f"PINGFEED_{named} {sentence}")
    for secret in ("API_KEY_HASHES", "JWT_SECRET"):
        assert environ.get(secret, "?" * 9) not in rejected.value.message


def test_the_services_deliver_where_the_batch_side_reads() -> None:
    for url in ("firehose://pingfeed-events", "disk:///mnt/bucket/lake"):
        loaded({"LAKE_URL": "s3://bucket/lake", "EVENTS_URL": url})
    loaded({"EVENTS_URL": "firehose://pingfeed-events", "LAKE_URL": "file:///mnt/bucket/lake"})


def test_secrets_are_shown_as_set_or_not() -> None:
    values = shown(loaded(SHARED | {"API_KEY_HASHES": DIGEST}))
    assert (values["PINGFEED_JWT_SECRET"], values["PINGFEED_API_KEY_HASHES"]) == ("(set)", "(set)")
    assert shown(load({}))["PINGFEED_JWT_SECRET"] == "(not set)"
    asked = shown(loaded(KEYS | {"JWT_JWKS": "https://login.example/jwks?token=hush"}))
    for secret in (SECRET, DIGEST, "hush"):
        assert secret not in f"{values}{asked}"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_credentials(host: str) -> None:
    assert is_loopback(host)
    check_open(load({}), host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "feed.example", ""])
def test_other_addresses_need_credentials_or_permission(host: str) -> None:
    with pytest.raises(SettingsError) as rejected:
        check_open(load({}), host)
    assert rejected.value.field == "PINGFEED_AUTH"
    check_open(loaded({"ALLOW_OPEN": "1"}), host)
    check_open(loaded({"AUTH": "api_key", "API_KEY_HASHES": DIGEST}), host)
