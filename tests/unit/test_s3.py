"""S3 URLs, and the errors without a server, credentials or a valid URL."""

import sys
from pathlib import Path

import pytest

from pingfeed.adapters import _arrow_s3, registry
from pingfeed.adapters.artifacts_s3 import S3Artifacts
from pingfeed.adapters.lake_s3 import S3Lake
from pingfeed.aws import Location
from pingfeed.core.errors import SettingsError, Unavailable
from pingfeed.settings import load
from tests.servers import AWS_ENVIRONMENT, free_port


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint without a server."""
    for name, value in {**AWS_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}.items():
        monkeypatch.setenv(name, value)


def test_a_url_is_a_bucket_and_an_optional_prefix() -> None:
    place = Location.of("s3://bucket/some/where/")
    assert (place.bucket, place.prefix) == ("bucket", "some/where")
    assert place.key("a/b") == "some/where/a/b"
    assert place.below("a") == place.below("a/") == "some/where/a/"
    assert place.relative("some/where/a/b") == "a/b"
    for url in ("s3://bucket", "s3://bucket/"):
        place = Location.of(url)
        assert (place.key("a"), place.below(""), place.relative("a/b")) == ("a", "", "a/b")


@pytest.mark.parametrize(
    "url", ["s3:///lake", "s3://", "s3://key:secret@bucket/lake", "s3://b/../up", "s3://b/.x", "s3://b/l?cahce=/tmp"]
)
def test_a_url_that_is_no_place_stops_the_start_and_names_its_variable_and_no_secret(url: str, tmp_path: Path) -> None:
    for opens, variable in (
        (registry.open_lake, "PINGFEED_LAKE_URL"),
        (registry.open_artifacts, "PINGFEED_ARTIFACTS_URL"),
    ):
        with pytest.raises(SettingsError, match=f"^{variable} ") as caught:
            opens(load({variable: url}, cwd=tmp_path))
        assert "secret" not in caught.value.message


@pytest.mark.parametrize("name", [".part", "_own"])
def test_folders_markers_and_hidden_names_are_not_listed(name: str) -> None:
    place = Location.of("s3://bucket/kept/lake")
    assert place.is_listed("kept/lake/a/b")
    assert not place.is_listed("kept/lake/a/")
    assert not place.is_listed(f"kept/lake/a/{name}")
    assert not place.is_listed(f"kept/lake/{name}/b")


@pytest.mark.usefixtures("no_server")
async def test_an_s3_that_does_not_respond_is_unavailable() -> None:
    artifacts = S3Artifacts("s3://bucket")
    with pytest.raises(Unavailable):
        S3Lake("s3://bucket/lake").list("a")
    for answer in (artifacts.check(), artifacts.get("a")):
        with pytest.raises(Unavailable):
            await answer
    await artifacts.close()


@pytest.mark.usefixtures("no_server")
def test_arrow_errors_are_translated() -> None:
    said = "the lake is not available: NETWORK_CONNECTION"
    with pytest.raises(Unavailable, match=said), _arrow_s3.translated("the lake"):
        _arrow_s3.file_system().open_input_file("bucket/key")


def test_a_damaged_file_is_not_an_s3_error() -> None:
    with pytest.raises(OSError, match="not Parquet"), _arrow_s3.translated("the lake"):
        raise OSError("this is not Parquet")


async def test_missing_credentials_are_a_settings_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID"):
        S3Lake("s3://bucket").list("")
    artifacts = S3Artifacts("s3://bucket")
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID"):
        await artifacts.get("pointers/x")
    await artifacts.close()


def test_without_awss_libraries_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    with pytest.raises(SettingsError, match=r"not installed; install pingfeed\[aws\]"):
        S3Lake("s3://bucket/backups").list("")
