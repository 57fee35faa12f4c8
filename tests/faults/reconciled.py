"""`pingfeed reconcile` beside what the clients know: after every fault the two agree to the event."""

import json
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pingfeed.core.clock import DAY_MS, day_of, system_clock
from tests.journeys.conftest import COMMAND, Services


def reconcile(
    services: Services, day: str, environ: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, dict[str, Any]]:
    """The command's exit code and what it says of a day."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "reconcile", "--day", day, "--json"],
        env={**services.environ, **environ},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


def check_all_landed(
    services: Services,
    since_ms: int,
    acknowledged: int,
    environ: Mapping[str, str] = MappingProxyType({}),
    *,
    unanswered: int = 0,
) -> dict[str, int]:
    """Nothing is missing since then, and as much is delivered as was acknowledged; the counts.

    An event of which the answer was lost may have been taken without its client knowing, and again when it was sent
    again: `unanswered` says how many at most.
    """
    total = dict.fromkeys(("accepted", "spooled", "delivered", "landed", "duplicates", "missing"), 0)
    for number in range(since_ms // DAY_MS, system_clock() // DAY_MS + 1):
        code, said = reconcile(services, day_of(number * DAY_MS), environ)
        assert (code, said["missing"], said["short"]) == (0, 0, [])
        for name in total:
            total[name] += said[name]
    assert total["spooled"] == 0
    assert acknowledged <= total["delivered"] <= acknowledged + unanswered
    assert acknowledged <= total["landed"]
    return total
