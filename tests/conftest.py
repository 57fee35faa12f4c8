"""Servers start with the first test that asks. No test is timed.

`PINGFEED_TEST_DATA` names the folder of data that is no part of this project.

An unknown `PINGFEED_*` variable stops every command, so the folder is remembered under another name, which xdist's
workers inherit.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from tests import prove
from tests.conformance.place import Place
from tests.servers import Server, ministack, redis_cluster, redis_server, running

# How long an example takes says how busy the machine is, not whether a rule holds.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests of losing nothing counted (`make prove`)."""
    if prove.figures and prove.is_asked_for():
        terminalreporter.section("figures")
        for line in prove.figures:
            terminalreporter.line(line)


_GIVEN: Final = "PINGFEED_TEST_DATA"
_KEPT: Final = "TEST_DATA_OF_PINGFEED"

if _GIVEN in os.environ:
    os.environ[_KEPT] = os.environ.pop(_GIVEN)


@pytest.fixture(scope="session")
def session_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(redis_server(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture(scope="session")
def session_redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(redis_cluster(tmp_path_factory.mktemp("redis-cluster"))) as server:
        yield server


@pytest.fixture(scope="session")
def session_ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(ministack(tmp_path_factory.mktemp("ministack"))) as server:
        yield server


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where an adapter lives: a folder and names of this test's own, and the session's servers."""
    return Place(request, tmp_path)


@pytest.fixture
def ranklens() -> Path:
    """RankLens' events; skips where they are not at hand."""
    if _KEPT not in os.environ:
        pytest.skip(f"{_GIVEN} does not name the folder with ranklens/events.dev.jsonl.gz")
    path = Path(os.environ[_KEPT]) / "ranklens" / "events.dev.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path.resolve()
