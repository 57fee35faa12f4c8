"""Other `pingfeed` commands as processes of this one: each with a log of its own, all ended when this one ends.

Every child leads a process group, so that Ctrl-C in the terminal reaches this program alone, which then ends them in
order; and so that ending a child ends what it started.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Final

from pingfeed.core.errors import PingfeedError

COMMAND: Final = (sys.executable, "-c", "import sys; from pingfeed.cli import main; sys.exit(main())")
_STOP_S: Final = 40
_POLL_S: Final = 0.1
_TAIL_LINES: Final = 15
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ChildFailed(PingfeedError):
    """A step, or a service, ended with an error; the message ends with the last lines of its log."""

    code = "child_failed"


class Children:
    """The processes that this one started, by name."""

    def __init__(self, environ: Mapping[str, str], logs: Path, command: Sequence[str] = COMMAND) -> None:
        self._environ = dict(environ)
        self._logs = logs
        self._command = tuple(command)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def log(self, name: str) -> Path:
        """Where the child's output goes."""
        return self._logs / f"{name}.log"

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Run `pingfeed arguments...`; its log is written anew."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("wb") as log:
            self._running[name] = self._popen(arguments, log)

    def _popen(self, arguments: Sequence[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603  # our own interpreter, our own arguments
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

    def finish(self, name: str, tell: Callable[[float], None]) -> float:
        """Wait for a child, calling `tell` with the seconds so far; returns them. ChildFailed if it fails."""
        began = time.monotonic()
        while (code := self.ended(name)) is None:
            tell(time.monotonic() - began)
            time.sleep(_POLL_S)
        if code:
            raise self.failure(name, code)
        return time.monotonic() - began

    def failure(self, name: str, code: int) -> ChildFailed:
        """What to say of a child that ended with `code`."""
        lines = self.log(name).read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        said = "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"
        return ChildFailed(f"{name} ended with exit code {code}. The end of {self.log(name)}:\n{said}")

    def stop(self) -> list[str]:
        """End every child, the last started first; one that does not end in time is killed. Returns their names."""
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
    """Signal the child's whole group, unless it has ended already."""
    if child.poll() is None:
        os.killpg(child.pid, number)


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP end the program as Ctrl-C does: by KeyboardInterrupt, so that children are stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within, a second Ctrl-C is ignored: stopping is bounded, and a stop cut short would leave processes behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
