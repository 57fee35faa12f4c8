"""URLs of the settings: what is wrong with one, and what may be shown of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingfeed.core.urls import flaw, masked, scheme_of


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://:pa/ss@cache:6379/0", "redis://***@cache:6379/0"),
        ("redis://me:p@ss@cache/0", "redis://***@cache/0"),
        ("redis://cache/0?namespace=x", "redis://cache/0?namespace=x"),
        ("redis://cache/0?db=1&password=hunter2", "redis://cache/0?db=1&password=***"),
        ("s3://bucket/lake?cache=/tmp/x", "s3://bucket/lake?cache=/tmp/x"),
        ("sqlite:///var/lib/me@home.sqlite", "sqlite:///var/lib/me@home.sqlite"),
        ("file:///a@b", "file:///a@b"),
    ],
)
def test_credentials_are_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


@given(st.text("abcXYZ0189@:/?#[]%-_.!&=", min_size=6))
def test_no_password_is_shown_whatever_it_holds(password: str) -> None:
    assert "hunter" + password not in masked(f"redis://me:hunter{password}@cache:6379/0")


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache:6379/0", "rediss://me:pw@cache", "redis://[::1]:6379", "s3://bucket", "s3://my.bucket/a/b",
        "dynamodb://Table_1", "firehose://events", "file:///var/lake", "sqlite://relative/file", "snapshot://",
    ],
)  # fmt: skip
def test_a_url_that_names_its_part_has_no_flaw(url: str) -> None:
    assert flaw(url) is None


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("redis://cache:637x", "port"), ("redis://cache:0", "port"), ("redis://cache:70000", "port"),
        ("redis:///0", "host"), ("redis://[::1", "URL"), ("s3://", "bucket"), ("s3:///lake", "bucket"),
        ("s3://Bucket/lake", "bucket"), ("dynamodb://", "table"), ("dynamodb://t/x", "table"),
        ("firehose://", "stream"), ("file://", "path"), ("sqlite:///", "path"),
    ],
)  # fmt: skip
def test_a_flaw_names_what_a_url_lacks(url: str, names: str) -> None:
    found = flaw(url)
    assert found is not None
    assert names in found


def test_only_a_url_has_a_scheme() -> None:
    for text, scheme in {"just/a/path": "", "me:secret@host": "", "S3://b": "s3", "://x": "", "": ""}.items():
        assert scheme_of(text) == scheme
