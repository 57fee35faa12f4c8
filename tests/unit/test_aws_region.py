"""One region for everything on AWS, whichever variable names it."""

from pathlib import Path
from typing import Any

import pytest

from deploy import clients
from pingfeed.adapters import _arrow_s3
from pingfeed.adapters.event_sink_firehose import FirehoseEventSink
from pingfeed.adapters.lake_s3 import S3Lake
from pingfeed.aws import AwsClient, region, translated
from pingfeed.core.errors import SettingsError
from tests.servers import AWS_ENVIRONMENT

ELSEWHERE = "eu-central-1"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials, and no region from anywhere."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in AWS_ENVIRONMENT.items():
        if name != "AWS_DEFAULT_REGION":
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


async def region_of(client: Any) -> str:
    """The region of a service's client, which is closed."""
    try:
        return str((await client.get()).meta.region_name)
    finally:
        await client.close()


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
async def test_either_variable_alone_reaches_every_client(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, ELSEWHERE)
    for service in ("dynamodb", "firehose", "s3"):
        assert await region_of(AwsClient(service)) == ELSEWHERE
    assert await region_of(FirehoseEventSink("firehose://events")._client) == ELSEWHERE
    for service in ("dynamodb", "firehose", "glue", "s3"):
        assert clients.client(service).meta.region_name == ELSEWHERE
    assert S3Lake("s3://bucket/lake")._client.meta.region_name == ELSEWHERE
    assert _arrow_s3.file_system().region == ELSEWHERE


def test_of_two_variables_the_one_that_aws_itself_sets_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_REGION", ELSEWHERE)
    assert region() == ELSEWHERE
    monkeypatch.setenv("AWS_REGION", "")
    assert region() == "us-east-1"


async def test_where_no_variable_names_one_the_profiles_region_counts(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(f"[default]\nregion = {ELSEWHERE}\n")
    assert region() is None
    assert await region_of(AwsClient("dynamodb")) == ELSEWHERE
    assert clients.client("glue").meta.region_name == ELSEWHERE


async def test_no_region_at_all_is_told_with_both_variables() -> None:
    with pytest.raises(SettingsError, match="set AWS_REGION or AWS_DEFAULT_REGION"):
        await AwsClient("dynamodb").get()
    with pytest.raises(SettingsError, match="the table pings: no AWS region"), translated("the table pings"):
        clients.client("dynamodb")
