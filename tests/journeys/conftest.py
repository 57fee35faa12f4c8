"""Services as a user runs them: processes, a home of their own, ports that the system gives, stopped by their id.

async def test_...(services: Services) -> None:
    ingest = services.start("ingest")
    httpx.post(f"{ingest.url}/track-event", json={...})
    ingest.kill()                       # SIGKILL
    ingest = services.start("ingest")   # the same home
    assert ingest.stop() == 0           # SIGTERM: finishes and flushes
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import pytest

from pingfeed.core.clock import system_clock
from pingfeed.settings import Settings, load

_T = TypeVar("_T")
COMMAND: Final = "import sys; from pingfeed.cli import main; sys.exit(main())"
START_S: Final = 60
STOP_S: Final = 60


def command_at(now_ms: int) -> str:
    """Python code that runs a `pingfeed` command once the machine's clock says at least this time."""
    ahead_ms = max(0, now_ms - system_clock())
    return (
        "import sys; from pingfeed.core import clock; now = clock.system_clock; "
        f"clock.system_clock = lambda: now() + {ahead_ms}; from pingfeed.cli import main; sys.exit(main())"
    )


def wait_for(look: Callable[[], _T | None], what: str, seconds: float = START_S) -> _T:
    """What `look` finds once it is neither None nor False; fails with `what` past the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return found


@dataclass
class Running:
    """One service's process."""

    name: str
    process: "subprocess.Popen[bytes]"
    log_file: Path
    url: str = ""

    def log(self) -> list[dict[str, Any]]:
        """Its log lines so far (a process that was killed may have left half a line)."""
        found = []
        for line in self.log_file.read_bytes().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait(STOP_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S)

    def await_ready(self) -> None:
        """Wait until /readyz says ready; the address comes from the log, for the system chose the port."""
        self.url = wait_for(self._address, f"{self.name} to listen")
        wait_for(self._is_ready, f"{self.name} to be ready")

    def _address(self) -> str | None:
        assert self.process.poll() is None, f"{self.name} ended: {self.log_file.read_text()}"
        messages = (str(line.get("message")) for line in self.log())
        return next((m.rpartition(" ")[2] for m in messages if f"pingfeed {self.name} listens on" in m), None)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


class Services:
    """Starts services in one home and ends those that a test leaves."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("PINGFEED_")}
        self.environ["PINGFEED_HOME"] = str(home)
        self._started: list[Running] = []

    @property
    def settings(self) -> Settings:
        """The settings that the services run with."""
        return load(self.environ)

    def start(self, name: str, **environ: str) -> Running:
        """Start `pingfeed serve <name>` and wait until it is ready; `environ` without the prefix."""
        running = self.launch("serve", name, "--port", "0", name=name, **environ)
        running.await_ready()
        return running

    def launch(self, *arguments: str, name: str = "", **environ: str) -> Running:
        """Start the `pingfeed` command with its output in a log file, and do not wait."""
        log_file = self.home.parent / f"{len(self._started)}-{name or arguments[0]}.log"
        more = {f"PINGFEED_{key}": value for key, value in environ.items()}
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *arguments],
                env=self.environ | more,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._started.append(Running(name, process, log_file))
        return self._started[-1]

    def end(self) -> None:
        """Kill what still runs."""
        for running in self._started:
            if running.process.poll() is None:
                running.kill()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Services in a home of this test's own."""
    found = Services(tmp_path / "home")
    yield found
    found.end()
