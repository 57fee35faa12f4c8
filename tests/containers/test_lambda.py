"""The Lambda functions' files in Python 3.13, in containers as locked down as Lambda's: read-only, with /tmp."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from deploy import package
from tests import elf
from tests.containers.engine import BUILD_S, docker, require_engine
from tests.servers import AWS_ENVIRONMENT

LOCKED_DOWN = ["--read-only", "--tmpfs=/tmp", "--memory=2g", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
IMAGE = "pingfeed-lambda-batch"
ENVIRONMENT = {
    "PYTHONPATH": "/var/task",
    "LD_LIBRARY_PATH": "/var/task/lib",
    "AWS_LAMBDA_FUNCTION_NAME": "pingfeed-dev",
    **AWS_ENVIRONMENT,
    "PINGFEED_EVENTS_URL": "firehose://events",
    "PINGFEED_LAKE_URL": "s3://lake",
    "PINGFEED_ARTIFACTS_URL": "s3://artifacts",
    "PINGFEED_CANDIDATES_URL": "dynamodb://table",
    "PINGFEED_SIGNALS_URL": "dynamodb://table",
    "PINGFEED_TRENDING_URL": "snapshot://",
    "PINGFEED_AUTH": "api_key",
    "PINGFEED_API_KEY_HASHES": "0" * 64,
    "PINGFEED_HOME": "/tmp/pingfeed",
}
CALL = """
import importlib, sys
from types import SimpleNamespace
name = sys.argv[1]
if name == "feed":
    from pingfeed.core.ranker import _Library
    _Library()
function = importlib.import_module(f"{name}_api.lambda_handler").handler
context = SimpleNamespace(aws_request_id="1", get_remaining_time_in_millis=lambda: 25_000)
statuses = []
for path in ("/healthz", "/docs"):
    http = {"method": "GET", "path": path, "sourceIp": "192.0.2.1", "protocol": "HTTP/1.1"}
    event = {"version": "2.0", "rawPath": path, "rawQueryString": "", "headers": {"host": "api"}}
    event |= {"requestContext": {"http": http, "stage": "$default"}, "isBase64Encoded": False}
    statuses.append(function(event, context)["statusCode"])
print(*statuses, sys.modules[f"{name}_api.app"].__cached__)
"""


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The zips for this machine, in which bytecode is compiled by a container."""
    require_engine()
    return {path.stem: path for path in package.zips(os.uname().machine, tmp_path_factory.mktemp("zips"))}


@pytest.fixture(scope="module")
def image() -> str:
    """The tick's image of this tree."""
    require_engine()
    build = ("build", "--quiet", "--provenance=false", "--target", "lambda-batch", "--tag", IMAGE, ".")
    docker(*build, seconds=BUILD_S)
    return IMAGE


@pytest.mark.parametrize("name", ["ingest", "feed"])
def test_a_function_answers_from_its_zip_alone(name: str, zips: dict[str, Path], tmp_path: Path) -> None:
    if not (package.ROOT / f"{name}_api" / "lambda_handler.py").exists():
        pytest.skip("it has no handler yet")
    opened = zipfile.ZipFile(zips[name])
    opened.extractall(tmp_path)
    machine = {"x86_64": "x86_64", "aarch64": "arm64"}[os.uname().machine]
    assert elf.check_for_amazon_linux(opened, machine) > 20
    variables = [word for pair in ENVIRONMENT.items() for word in ("--env", "=".join(pair))]
    task = ["--volume", f"{tmp_path}:/var/task:ro", "--network=none", "python:3.13-slim", "python", "-c", CALL, name]
    found = docker("run", "--rm", *LOCKED_DOWN, *variables, *task)
    assert found.splitlines()[-1] == f"200 200 /var/task/{name}_api/__pycache__/app.cpython-313.pyc"


@pytest.mark.parametrize("name", ["ingest", "feed"])
def test_bytecode_is_never_checked_against_its_source(name: str, zips: dict[str, Path]) -> None:
    opened = zipfile.ZipFile(zips[name])
    compiled = [entry for entry in opened.namelist() if entry.endswith(".pyc")]
    assert len(compiled) > 500
    # The flags of PEP 552: by hash, unchecked.
    assert {opened.read(entry)[4:8] for entry in compiled} == {b"\x01\0\0\0"}


def test_bytecode_is_the_same_each_time(zips: dict[str, Path], tmp_path: Path) -> None:
    for again in ("1", "2"):
        shutil.copytree(package.ROOT / "pingfeed", tmp_path / again / "pingfeed")
        package._compile(tmp_path / again)
    first, second = (sorted((tmp_path / again).rglob("*.pyc")) for again in ("1", "2"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second] != []


def test_the_image_is_python_plus_copied_files(image: str) -> None:
    (found,) = json.loads(docker("inspect", image))
    (base,) = json.loads(docker("inspect", "python:3.13-slim"))
    layers = found["RootFS"]["Layers"]
    assert layers[: len(base["RootFS"]["Layers"])] == base["RootFS"]["Layers"]
    assert found["Config"]["Entrypoint"] == ["python", "-m", "awslambdaric"]
    assert found["Config"]["Cmd"] == ["batch.lambda_handler.handler"]
    assert found["Config"]["User"] == "10001:10001"


def test_the_image_ticks_on_a_read_only_root(image: str) -> None:
    code = "from pingfeed.cli import main; main(['tick', '--json'])"
    done = docker("run", "--rm", *LOCKED_DOWN, "--network=none", "--entrypoint=python", image, "-c", code)
    assert json.loads(done)["events"] == 0


def test_the_image_has_no_service_and_no_builders_tool(image: str) -> None:
    code = "import sys; from importlib.util import find_spec; print(*(n for n in sys.argv[1:] if find_spec(n)))"
    names = ["ingest_api", "feed_api", "deploy", "simulator", "tests", "pandas", "pyspark", "batch", "awslambdaric"]
    done = docker("run", "--rm", *LOCKED_DOWN, "--entrypoint=python", image, "-c", code, *names)
    assert done.split() == ["batch", "awslambdaric"]
