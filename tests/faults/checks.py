"""What must be true after a fault: nothing is missing, nothing counts twice, memory and disk stay bounded."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from batch.jobs.nightly import etl
from batch.wiring import build
from pingfeed.core.clock import DAY_MS, day_of, system_clock
from pingfeed.settings import load
from tests.faults.load import Answers
from tests.journeys.conftest import COMMAND, Running, Services

NONE: Mapping[str, str] = MappingProxyType({})


def reconcile(services: Services, day: str, environ: Mapping[str, str] = NONE) -> tuple[int, dict[str, Any]]:
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
    services: Services, since_ms: int, acknowledged: int, environ: Mapping[str, str] = NONE, *, unanswered: int = 0
) -> dict[str, int]:
    """Nothing is missing since then, and as much is delivered as was acknowledged; the counts.

    An event whose response was lost may have been accepted without its client knowing, and again when it was resent:
    `unanswered` is the upper bound.
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


def check_each_once(
    services: Services, answers: Answers, since_ms: int, environ: Mapping[str, str] = NONE
) -> dict[str, int]:
    """Every acknowledged event is in the clean table exactly once; counts of what landed and what was removed."""
    settings = load({**services.environ, **environ})
    tick = system_clock() // settings.tick_ms + 1
    batch = build(settings, clock=lambda: tick * settings.tick_ms, quiet=True)
    etl(batch, tick)
    ids = batch.tables.clean(since_ms // DAY_MS, tick * settings.tick_ms // DAY_MS)["event_id"].to_pylist()
    found = Counter(ids)
    acknowledged = set(answers.ids())
    assert acknowledged - found.keys() == set(), "acknowledged, but not in the clean table"
    assert len(acknowledged) == answers.events
    assert len(found) == len(ids), "duplicates"
    return {"acknowledged": len(acknowledged), "in_the_clean_table": len(found)}


def rss_mb(running: Running) -> float:
    """A process's resident memory in MB."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def folder_mb(folder: Path) -> float:
    """The size of a folder's files in MB; files removed meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total / (1 << 20)
