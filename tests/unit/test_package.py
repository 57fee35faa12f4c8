"""What the functions install from the universal locks."""

import pytest

from deploy.package import FUNCTIONS, requirements
from tests.servers import ROOT

LOCK = """\
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:aa
    # via pingfeed
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:bb
pyarrow==26.0.0 \\
    --hash=sha256:cc \\
    --hash=sha256:dd
winloop==1.0 ; sys_platform == 'win32' \\
    --hash=sha256:ee
"""


def test_markers_are_those_of_lambdas_python_not_of_this_one() -> None:
    found = requirements(LOCK, "aarch64", frozenset({"pyarrow"}))
    assert found == "numpy==2.5.5 \\\n    --hash=sha256:bb\n"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_requirement_of_a_function_has_a_hash_and_one_version(name: str) -> None:
    lines: list[str] = []
    for lock in FUNCTIONS[name].locks:
        text = requirements((ROOT / "locks" / f"{lock}.txt").read_text(), "x86_64", FUNCTIONS[name].left_out)
        assert all("--hash=sha256:" in part for part in text.split("==")[1:])
        lines += [line.partition("==")[0] for line in text.splitlines() if line[:1].isalnum()]
    assert len(lines) == len(set(lines)) > 10
    assert not FUNCTIONS[name].left_out & set(lines)
    assert {"aioboto3", "awslambdaric" if name == "batch" else "mangum"} <= set(lines)
