"""One composition for the tests of this folder, with a small world in it; its images are of this tree."""

import os
from collections.abc import Iterator

import pytest

from tests.containers.engine import Composition, build, require_engine
from tests.containers.town import Town


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/containers/" in item.nodeid:
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.timeout(900))
            # One composition for all of them, so one worker.
            item.add_marker(pytest.mark.xdist_group("containers"))


@pytest.fixture(scope="session")
def images() -> None:
    require_engine()
    build()


@pytest.fixture(scope="session")
def composition(images: None) -> Iterator[Composition]:
    found = Composition(
        f"pingfeed-test-{os.getpid()}",
        WORLD_USERS="80",
        WORLD_PINGS="500",
        WORLD_DAYS="6",
        SINK_FLUSH_SECONDS="0.5",
        # A slow moment of a busy machine is not what these tests are about.
        FEED_BUDGET_MS="5000",
    )
    try:
        found.up("ingest", "feed")
        found.run("run", "--rm", "--no-deps", "world", seconds=600)
        found.up("batch")
        yield found
    finally:
        found.down()


@pytest.fixture(scope="session")
def town(composition: Composition, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in composition.aws_environment().items():
            patch.setenv(name, value)
        yield Town(composition, tmp_path_factory.mktemp("outside"))
