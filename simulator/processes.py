"""Child processes that run other `pingfeed` commands, each with its own log; all end when this process ends.

Every child leads a process group. Ctrl-C in the terminal therefore reaches this process alone, which then stops the
children in order; and stopping a child stops whatever it started.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pingfeed.core.errors import PingfeedError

COMMAND: Final = (sys.executable, "-c", "import sys; from pingfeed.cli import main; sys.exit(main())")
_STOP_S: Final = 40
_TAIL_LINES: Final = 15


class ChildFailed(PingfeedError):
    """A child exited with an error; the message ends with the last lines of its log."""

    code = "child_failed"


class Children:
    """The child processes, by name."""

    def __init__(self, environ: Mapping[str, str], logs: Path, command: Sequence[str] = COMMAND) -> None:
        self._environ = dict(environ)
        self._logs = logs
        self._command = tuple(command)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def log(self, name: str) -> Path:
        """The file with the child's output."""
        return self._logs / f"{name}.log"

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Run `pingfeed arguments...` with a new log."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603  # our own interpreter, our own arguments
                [*self._command, *arguments],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self, name: str) -> int | None:
        """The exit code of a child that ended by itself, once; None while it runs."""
        child = self._running.get(name)
        code = None if child is None else child.poll()
        if code is not None:
            del self._running[name]
        return code

    def failure(self, name: str, code: int) -> ChildFailed:
        """The error for a child that exited with `code`."""
        lines = self.log(name).read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        output = "\n".join(f"    {line}" for line in lines) or "    (no output)"
        return ChildFailed(f"{name} exited with code {code}. The end of {self.log(name)}:\n{output}")

    def stop(self) -> list[str]:
        """Stop every child, the last started first; kill those that do not stop in time. Returns their names."""
        names = list(reversed(self._running))
        deadline = time.monotonic() + _STOP_S
        for name in names:
            _signal(self._running[name], signal.SIGTERM)
        for name in names:
            child = self._running.pop(name)
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(child, signal.SIGKILL)
                child.wait()
        return names


def _signal(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Signal the child's whole group, unless the child has exited."""
    if child.poll() is None:
        os.killpg(child.pid, number)


@contextmanager
def stopped_at_exit(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on leaving, whatever the reason: SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does.

    Signals are ignored during `stop`: it takes a bounded time, and cutting it short would leave processes behind.
    """
    with _handled_by(signal.default_int_handler):
        try:
            yield
        finally:
            with _handled_by(signal.SIG_IGN):
                stop()


@contextmanager
def _handled_by(handler: Any) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
