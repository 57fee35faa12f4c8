"""Whatever is sent, each service answers as its document says: schemathesis tries, with a credential and without one.

All of its checks are on: no 5xx, documented statuses, bodies, headers and content types, what the schema forbids is
refused, what it allows is accepted, and a credential that is declared is asked for. FUZZ_EXAMPLES raises the number of
random requests an operation gets beside the systematic ones.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.real.open_service import serving
from tests.unit import issuer

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = os.environ.get("FUZZ_EXAMPLES", "10")
KEY: Final = "a-key-of-a-server"
# 413 is a refusal that schemathesis does not count as one.
CHECKS: Final = """
[checks]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "413", "422"]
"""
# There a bad event is refused alone: `a_bad_event_is_named` (openapi_rules.py) checks that instead.
BATCHES: Final = """
[[operations]]
include-path = "/track-events"
checks.negative_data_rejection.enabled = false
"""


def credentials(auth: str, folder: Path) -> tuple[dict[str, str], str]:
    """Settings of the service, and how schemathesis gets in."""
    if auth == "jwt":
        return issuer.environ(folder), f'[auth.openapi.bearer]\nbearer = "{issuer.token()}"\n'
    if auth == "api_key":
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        return {"AUTH": auth, "API_KEY_HASHES": digest}, f'[auth.openapi.key]\napi_key = "{KEY}"\n'
    return {}, ""


@pytest.mark.parametrize("auth", ["none", "api_key", "jwt"])
@pytest.mark.parametrize("service", ["ingest", "feed"])
def test_the_service_keeps_to_its_document(tmp_path: Path, service: str, auth: str) -> None:
    environ, way_in = credentials(auth, tmp_path)
    (tmp_path / "schemathesis.toml").write_text(CHECKS + (BATCHES if service == "ingest" else "") + way_in)
    with serving(service, tmp_path / "home", **environ) as url:
        command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "run", f"{url}/openapi.json"]
        bounds = [
            "--checks",
            "all",
            "--workers",
            "1",  # Python 3.11's parser of source text, which the tool uses, fails in threads that run at once
            "--max-examples",
            EXAMPLES,
            "--seed",
            "1",
            "--generation-database",
            "none",
        ]
        hooks = {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.real.openapi_rules"}
        if auth == "jwt":
            hooks["FUZZ_SUBJECT"] = "u1"
        run = subprocess.run(
            [*command, *bounds], cwd=tmp_path, env=os.environ | hooks, capture_output=True, text=True, check=False
        )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-5_000:]
    assert "passed" in run.stdout
