"""The list of what the suites ran on, at the end."""

from collections import Counter
from pathlib import Path
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Each port's suite with the adapters that it ran on, and how many of its tests passed on each."""
    counts: dict[str, dict[str, Counter[str]]] = {}
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.getreports(outcome):
            file, _, test = report.nodeid.partition("::")
            if "tests/conformance/" not in file or "[" not in test or getattr(report, "when", "call") == "teardown":
                continue
            adapter = test.partition("[")[2].rstrip("]").split("-")[0]
            suite = Path(file).stem.removeprefix("test_")
            counts.setdefault(suite, {}).setdefault(adapter, Counter())[outcome] += 1
    if not counts:
        return
    terminalreporter.section("conformance: port, adapter, outcomes")
    for suite, adapters in sorted(counts.items()):
        for adapter, outcomes in adapters.items():
            said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
            terminalreporter.write_line(f"{suite:16} {adapter:12} {said}")
