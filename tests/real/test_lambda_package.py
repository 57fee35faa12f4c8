"""The functions' zips from the locks: their size, what their libraries need, and that they are repeatable.

The wheels come from a package index. Only AWS can show that Lambda's own Python imports them; what it must provide is
read from every library here, and compared with Amazon Linux 2023.
"""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deploy import package
from tests import elf
from tests.servers import ROOT

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", autouse=True)
def no_bytecode() -> Iterator[None]:
    """tests/containers/test_lambda.py compiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "_compiler", lambda _: None)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, zipfile.ZipFile]:
    """The opened zips for arm64."""
    return {path.stem: zipfile.ZipFile(path) for path in package.zips("arm64", tmp_path_factory.mktemp("arm64"))}


@pytest.mark.parametrize("name", ["ingest", "feed"])
def test_every_library_finds_what_it_needs_on_amazon_linux(name: str, built: Mapping[str, zipfile.ZipFile]) -> None:
    assert elf.check_for_amazon_linux(built[name], "arm64") > 20


def test_the_feed_carries_openmp_where_lambda_looks_for_libraries(built: Mapping[str, zipfile.ZipFile]) -> None:
    assert "libgomp.so.1" in elf.read(built["feed"].read("lightgbm/lib/lib_lightgbm.so")).needed
    # The LD_LIBRARY_PATH of every function contains /var/task/lib.
    assert elf.read(built["feed"].read("lib/libgomp.so.1")).machine == "arm64"


@pytest.mark.parametrize("name", ["ingest", "feed"])
def test_a_zip_is_small_enough_and_has_nothing_unused(name: str, built: Mapping[str, zipfile.ZipFile]) -> None:
    entries = built[name].infolist()
    tops = {entry.filename.partition("/")[0] for entry in entries}
    assert sum(entry.file_size for entry in entries) < 240_000_000
    assert {"pingfeed", f"{name}_api", "mangum", "aioboto3", "redis"} <= tops
    assert not tops & {"scipy", "pandas", "pyarrow", "duckdb", "batch", "deploy", "simulator", "tests", "bin"}
    assert ("lightgbm" in tops) == (name == "feed")
    assert not [entry for entry in entries if "/tests/" in entry.filename]


def test_the_same_input_gives_the_same_bytes(built: Mapping[str, zipfile.ZipFile], tmp_path: Path) -> None:
    (again,) = package.zips("arm64", tmp_path, ["feed"])
    assert again.read_bytes() == Path(str(built["feed"].filename)).read_bytes()


def test_without_a_package_index_it_says_so(tmp_path: Path) -> None:
    environ = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}
    command = [sys.executable, "-m", "deploy.package", "--out", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "is a package index reachable?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
