"""Each suite runs on every adapter of its ADAPTERS; the list of what ran is printed at the end."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.place import Place, cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "adapter" in metafunc.fixturenames:
        metafunc.parametrize("adapter", cases(metafunc.module.ADAPTERS))


@pytest.fixture
def open_store(adapter: Callable[[Place], Any], place: Place) -> Callable[[], Any]:
    """Opens the adapter again at the same place, as another process does."""
    return lambda: adapter(place)


@pytest.fixture
async def store(open_store: Callable[[], Any]) -> AsyncIterator[Any]:
    opened = open_store()
    yield opened
    await opened.close()


@pytest.fixture
async def other(open_store: Callable[[], Any], store: Any) -> AsyncIterator[Any]:
    """Another process's view of the same store."""
    opened = open_store()
    yield opened
    await opened.close()


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
