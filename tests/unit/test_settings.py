"""Settings: what the environment may say, and the sentence for what it may not."""

import hashlib
from pathlib import Path

import pytest

from pingfeed.adapters import registry
from pingfeed.core.errors import SettingsError
from pingfeed.settings import SCHEMES, check_open, load, shown, url_path
from pingfeed.settings_auth import is_loopback

DIGEST = hashlib.sha256(b"a key").hexdigest()


def test_without_any_variable_everything_lives_under_one_home(tmp_path: Path) -> None:
    settings = load({}, cwd=tmp_path)
    home = tmp_path / "var/pingfeed"
    assert settings.home == home
    assert settings.spool_dir == home / "spool"
    assert settings.auth == "none"
    assert all(url_path(getattr(settings, name)).is_relative_to(home) for name in SCHEMES if name != "cache_url")
    assert settings.cache_url == "", "a cache is opt-in"


def test_home_moves_everything(tmp_path: Path) -> None:
    settings = load({"PINGFEED_HOME": str(tmp_path / "here")})
    assert settings.spool_dir == tmp_path / "here/spool"
    assert settings.signals_url == f"sqlite://{tmp_path}/here/signals.sqlite"


def test_other_variables_are_not_ours() -> None:
    load({"PATH": "/bin", "HOME": "/", "PING": "x"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PINGFEED_AUHT", "none"),
        ("PINGFEED_AUTH", "basic"),
        ("PINGFEED_AUTH", "api_key"),
        ("PINGFEED_API_KEY_HASHES", "a-plain-key"),
        ("PINGFEED_API_KEY_HASHES", DIGEST.upper()),
        ("PINGFEED_ALLOW_OPEN", "maybe"),
        ("PINGFEED_TICK_MINUTES", "0"),
        ("PINGFEED_TICK_MINUTES", "7"),
        ("PINGFEED_TICK_MINUTES", "a quarter"),
        ("PINGFEED_NIGHT_HOUR", "24"),
        ("PINGFEED_SINK_FLUSH_SECONDS", "nan"),
        ("PINGFEED_LOG_MATRIX_SHARE", "2"),
        ("PINGFEED_SIGNALS_URL", "mysql://host/db"),
        ("PINGFEED_LAKE_URL", "just/a/path"),
        ("PINGFEED_ATTRIBUTES", ",".join(f"a{n}" for n in range(17))),
    ],
)
def test_a_wrong_value_is_refused_by_the_variables_name(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({variable: value})
    named = "PINGFEED_API_KEY_HASHES" if value == "api_key" else variable
    assert refused.value.field == named
    assert named in refused.value.message


def test_a_lake_on_s3_wants_to_know_what_writes_events_there() -> None:
    with pytest.raises(SettingsError, match="PINGFEED_EVENTS_URL is not set while") as refused:
        load({"PINGFEED_LAKE_URL": "s3://bucket/lake"})
    assert refused.value.field == "PINGFEED_EVENTS_URL"
    for url in ("firehose://pingfeed-events", "disk:///mnt/bucket/lake"):
        load({"PINGFEED_LAKE_URL": "s3://bucket/lake", "PINGFEED_EVENTS_URL": url})


def test_a_stream_wants_to_know_which_lake_it_writes_to() -> None:
    with pytest.raises(SettingsError, match="PINGFEED_LAKE_URL is not set while") as refused:
        load({"PINGFEED_EVENTS_URL": "firehose://pingfeed-events"})
    assert refused.value.field == "PINGFEED_LAKE_URL"
    load({"PINGFEED_EVENTS_URL": "firehose://pingfeed-events", "PINGFEED_LAKE_URL": "file:///mnt/bucket/lake"})


def test_a_wrong_secret_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as refused:
        load({"PINGFEED_OPERATOR_KEY_HASHES": "my-plain-key"})
    assert "my-plain-key" not in refused.value.message


def test_secrets_are_shown_as_set_or_not() -> None:
    environ = {"PINGFEED_API_KEY_HASHES": DIGEST, "PINGFEED_JWT_SECRET": "hush" * 16}
    text = str(shown(load(environ)))
    assert DIGEST not in text
    assert "hush" not in text
    assert shown(load(environ))["PINGFEED_JWT_SECRET"] == "(set)"
    assert shown(load({}))["PINGFEED_JWT_SECRET"] == "(not set)"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "[::1]", "localhost"])
def test_open_doors_are_for_this_machine(host: str) -> None:
    assert is_loopback(host)
    check_open(load({}), host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "feed.example", ""])
def test_an_open_door_to_others_is_refused(host: str) -> None:
    with pytest.raises(SettingsError) as refused:
        check_open(load({}), host)
    assert refused.value.field == "PINGFEED_AUTH"
    check_open(load({"PINGFEED_ALLOW_OPEN": "1"}), host)
    check_open(load({"PINGFEED_AUTH": "api_key", "PINGFEED_API_KEY_HASHES": DIGEST}), host)


def test_every_scheme_that_settings_accept_has_an_adapter() -> None:
    assert {name: tuple(schemes) for name, schemes in registry.ADAPTERS.items()} == dict(SCHEMES)
