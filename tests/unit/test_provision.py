"""`pingfeed provision`: each URL once, buckets first, waiting for AWS, one sentence on failure."""

from pathlib import Path

import pytest

from deploy import provision as providing
from pingfeed import cli
from pingfeed.checks import _drift
from pingfeed.core.errors import InvalidInput, SettingsError, Unavailable
from pingfeed.settings import Settings, load

CALLS: list[tuple[str, ...]] = []
ERRORS: list[Exception] = []


def make(*arguments: str) -> list[str]:
    """Replaces the functions of `deploy` and records its calls."""
    CALLS.append(arguments)
    if ERRORS:
        raise ERRORS.pop(0)
    return [f"made {arguments[0]}"]


def flaws(*arguments: str) -> list[str]:
    """Replaces the functions that look for drift."""
    CALLS.append(arguments)
    if ERRORS:
        raise ERRORS.pop(0)
    return ["has TTL turned off", "is odd"] if arguments == ("dynamodb://packets",) else []


@pytest.fixture(autouse=True)
def _makers(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    ERRORS.clear()
    monkeypatch.setattr(providing, "MAKERS", dict.fromkeys(providing.MAKERS, f"{__name__}:make"))
    monkeypatch.setattr(providing, "_PAUSE_S", 0.001)


ENVIRON = {
    "PINGFEED_EVENTS_URL": "firehose://events",
    "PINGFEED_LAKE_URL": "s3://bucket/lake",
    "PINGFEED_ARTIFACTS_URL": "s3://bucket/artifacts",
    "PINGFEED_CANDIDATES_URL": "dynamodb://packets",
    "PINGFEED_SIGNALS_URL": "dynamodb://packets",
    "PINGFEED_TRENDING_URL": "redis://cache/0",
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load({"PINGFEED_HOME": str(tmp_path), **ENVIRON})


def test_buckets_come_before_the_stream_that_writes_to_them_and_a_shared_table_once(settings: Settings) -> None:
    said = dict(providing.provision(settings, 0))
    assert CALLS == [
        ("s3://bucket/lake",),
        ("s3://bucket/artifacts",),
        ("dynamodb://packets",),
        ("firehose://events", "s3://bucket/lake"),
    ]
    assert said["dynamodb://packets"] == ["made dynamodb://packets"]


def test_provisioning_waits_until_aws_responds(settings: Settings) -> None:
    ERRORS.extend([Unavailable("S3 does not answer")] * 3)
    assert len(list(providing.provision(settings, 30))) == 4


def test_aws_that_never_responds_is_reported_with_the_variable(settings: Settings) -> None:
    ERRORS.extend([Unavailable("the bucket bucket does not answer: EndpointConnectionError")] * 10_000)
    with pytest.raises(SettingsError, match=r"^PINGFEED_LAKE_URL is s3://bucket/lake: the bucket") as error:
        list(providing.provision(settings, 0.05))
    assert error.value.field == "PINGFEED_LAKE_URL"


def test_an_unusable_url_is_reported_with_the_variable(settings: Settings) -> None:
    ERRORS.append(InvalidInput("names the bucket of another account"))
    with pytest.raises(SettingsError, match=r"^PINGFEED_LAKE_URL names the bucket"):
        list(providing.provision(settings, 0))


def test_a_local_installation_needs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path))
    assert cli.main(["provision"]) == 0
    assert capsys.readouterr().out.startswith("nothing to create")
    assert CALLS == []


def test_doctor_reports_the_drift_of_each_resource(tmp_path: Path) -> None:
    found = list(_drift(load({"PINGFEED_HOME": str(tmp_path), **ENVIRON})))
    assert [(check.name, check.ok, check.detail, check.needed) for check in found] == [
        ("drift of s3://bucket/lake", True, "none", True),
        ("drift of s3://bucket/artifacts", True, "none", True),
        ("drift of dynamodb://packets", False, "has TTL turned off; is odd", True),
        ("drift of firehose://events", True, "none", True),
    ]


def test_a_resource_that_may_not_be_described_is_named_and_breaks_nothing(settings: Settings) -> None:
    ERRORS.append(Unavailable("the bucket bucket is not available: AccessDenied"))
    first, second, *_ = _drift(settings)
    assert (first.ok, first.needed) == (False, False)
    assert first.detail == "cannot be checked: the bucket bucket is not available: AccessDenied"
    assert second.ok


def test_where_aws_does_not_respond_only_one_resource_is_looked_at(settings: Settings) -> None:
    ERRORS.append(Unavailable("the bucket bucket does not respond: EndpointConnectionError"))
    assert [check.needed for check in _drift(settings)] == [False]


def test_a_local_installation_has_no_drift(tmp_path: Path) -> None:
    assert list(_drift(load({"PINGFEED_HOME": str(tmp_path)}))) == []
