"""The images: contents, user, health check, and that they run on a read-only file system."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.containers.engine import IMAGES, docker, image
from tests.journeys.conftest import wait_for
from tests.servers import ROOT

LOCKED_DOWN = [
    "--read-only",
    "--tmpfs",
    "/tmp",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--network",
    "none",
]
pytestmark = pytest.mark.usefixtures("images")


def python(name: str, code: str, *arguments: str) -> str:
    """The output of a program in a locked-down container of the image."""
    return docker("run", "--rm", *LOCKED_DOWN, "--entrypoint", "python", image(name), "-c", code, *arguments)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_a_non_root_user_with_a_health_check(name: str) -> None:
    (found,) = json.loads(docker("inspect", image(name)))
    assert found["Config"]["User"] == "10001:10001"
    assert found["Config"]["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    assert python(name, "import os; print(os.getuid(), os.getgid())").split() == ["10001", "10001"]


@pytest.mark.parametrize(
    ("name", "absent", "present"),
    [
        ("ingest", "pyspark pandas scipy duckdb lightgbm feed_api batch deploy simulator", "ingest_api redis aioboto3"),
        ("feed", "pyspark pandas scipy duckdb pyarrow ingest_api batch deploy simulator", "feed_api redis aioboto3"),
        ("batch", "pyspark pandas fastapi ingest_api feed_api", "batch deploy simulator duckdb pyarrow lightgbm"),
    ],
)
def test_an_image_has_its_deployable_and_no_heavy_package_of_another(name: str, absent: str, present: str) -> None:
    code = "import sys; from importlib.util import find_spec; print(*(n for n in sys.argv[1:] if find_spec(n)))"
    found = python(name, code, *absent.split(), *present.split())
    assert found.split() == present.split()


@pytest.mark.parametrize("name", IMAGES)
def test_every_module_is_compiled_beforehand(name: str) -> None:
    code = (
        "import pathlib, importlib.util as u; "
        "s = [p for p in pathlib.Path('/venv/lib').rglob('*.py') if 'test' not in str(p)]; "
        "print(len(s), sum(not pathlib.Path(u.cache_from_source(str(p))).exists() for p in s))"
    )
    modules, without = map(int, python(name, code).split())
    assert modules > 500
    assert without <= modules // 100, "a few templates are no valid Python"


def test_the_feed_scores_with_lightgbms_library_alone() -> None:
    code = (
        "import ctypes, pathlib; from importlib.util import find_spec; "
        "folder = pathlib.Path(find_spec('lightgbm').origin).parent; "
        "ctypes.CDLL(str(next(folder.rglob('lib_lightgbm.so')))); print('loaded')"
    )
    assert python("feed", code).split() == ["loaded"]


@pytest.mark.parametrize("name", IMAGES)
def test_no_host_or_path_of_the_builder_is_in_an_image(name: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image(name))
    assert "://" not in history
    assert str(ROOT) not in history


@contextmanager
def started(message: str, *options: str) -> Iterator[str]:
    """A detached ingest container that has logged this message; removed afterwards."""
    open_port = ("--env", "PINGFEED_ALLOW_OPEN=1")
    container = docker("run", "--detach", *LOCKED_DOWN, *open_port, *options, image("ingest")).strip()
    try:
        wait_for(lambda: message in _logs(container), f"the log to say {message!r}", 60)
        yield container
    finally:
        docker("rm", "--force", "--volumes", container)


def test_the_process_is_pid_1_and_ends_on_sigterm_with_code_0() -> None:
    with started("listens on", "--volume", "/var/lib/pingfeed") as container:
        began = time.monotonic()
        docker("stop", "--time", "30", container)
        (found,) = json.loads(docker("inspect", container))
        assert found["State"]["ExitCode"] == 0, _logs(container)
        assert time.monotonic() - began < 15


def test_sigterm_during_start_up_stops_the_process() -> None:
    """PID 1 ignores a signal that has no handler: docker would kill it only after the grace period."""
    unreachable = "PINGFEED_SIGNALS_URL=redis://10.255.255.1:6379/0"
    with started("settings that apply", "--env", unreachable) as container:
        began = time.monotonic()
        docker("stop", "--time", "30", container)
        assert time.monotonic() - began < 10


def _logs(container: str) -> str:
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr
