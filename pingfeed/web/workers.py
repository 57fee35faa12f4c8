"""Several processes that serve one port: `pingfeed serve feed --workers N`.

The supervisor binds the port and starts the workers, which inherit the socket and accept from its one queue: a
connection that a worker has not accepted is accepted by another, also when that worker is killed. Each worker has a
spool of its own (`feed`, `feed-2`, ...). A worker that dies is started again, after a pause that grows with each
failure. On SIGTERM and SIGINT all finish their requests; they do so too if the supervisor is killed, because that
closes their standard input.

The first worker starts alone, so an error of the start is reported once and ends the command. Nothing here imports the
web framework: the supervisor stays small.
"""

import logging
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pingfeed.core.errors import SettingsError
from pingfeed.core.retry import Backoff

log = logging.getLogger(__name__)

STOP_S: Final = 40
"""How long processes may take to stop: finish requests, then flush the spool (both bounded, and shorter)."""
LOOK_S: Final = 0.2
_BACKOFF: Final = Backoff(first_s=0.5, longest_s=30.0)
_HEALTHY_S: Final = 60.0
"""A worker that ran this long has not failed in a row."""


@dataclass(frozen=True)
class Worker:
    """One process among the workers of a port."""

    number: int
    """From 1."""
    of: int
    listener: int
    """The descriptor of the bound socket."""
    folder: Path
    """Where the workers' Unix sockets are (`peers.py`)."""

    @classmethod
    def parse(cls, text: str) -> "Worker":
        """The worker that `str` describes; ValueError."""
        number, of, listener, folder = text.split(":", 3)
        return cls(int(number), int(of), int(listener), Path(folder))

    def __str__(self) -> str:
        return f"{self.number}:{self.of}:{self.listener}:{self.folder}"

    def socket(self) -> Path:
        """The Unix socket on which this process serves its metrics."""
        return self.folder / f"{self.number}-{os.getpid()}.sock"

    def has_served(self) -> bool:
        """Whether a process of this worker was ever ready."""
        return any(self.folder.glob(f"{self.number}-*.sock"))


def spool_name(service: str, number: int) -> str:
    """The folder of a worker's spool."""
    return service if number == 1 else f"{service}-{number}"


def left_spools(spool_dir: Path, service: str, workers: int) -> list[Path]:
    """The spools of workers that do not run now, left by an earlier start with more workers."""
    numbered = {path.name.rpartition("-")[2]: path for path in spool_dir.glob(f"{service}-*")}
    return [path for number, path in sorted(numbered.items()) if number.isdecimal() and int(number) > workers]


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to the address; it listens only once an app is ready."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise SettingsError(f"cannot listen on {host}:{port}: {reason.lower()}") from error
    return listener


def stop_requests() -> list[int]:
    """A list that gets the number of each SIGTERM or SIGINT that asks this process to stop."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: asked.append(got))
    return asked


def stop_all(processes: Iterable["subprocess.Popen[bytes]"]) -> list[int]:
    """Ask all to stop at once, wait for each, and return the exit codes."""
    running = list(processes)
    for process in running:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + STOP_S
    return [_stopped(process, max(0.0, deadline - time.monotonic())) for process in running]


def _stopped(process: "subprocess.Popen[bytes]", within_s: float) -> int:
    try:
        return process.wait(within_s)
    except subprocess.TimeoutExpired:
        log.error("a process did not stop in time and is killed", extra={"pid": process.pid})
        process.kill()
        return process.wait()


def supervise(command: Callable[[Worker], Sequence[str]], host: str, port: int, workers: int) -> int:
    """Keep `workers` processes of a command running until a signal asks to stop; returns the exit code."""
    asked = stop_requests()
    with bound(host, port) as listener, tempfile.TemporaryDirectory(prefix="pingfeed-") as folder:
        numbers = range(1, workers + 1)
        team = [_Process(Worker(number, workers, listener.fileno(), Path(folder)), command) for number in numbers]
        try:
            while not asked:
                for one in team if team[0].worker.has_served() else team[:1]:
                    if code := one.keep_running():
                        return code
                time.sleep(LOOK_S)
        finally:
            stop_all(one.process for one in team if one.process)
    return 0


class _Process:
    """A worker's process, started again when it ends."""

    def __init__(self, worker: Worker, command: Callable[[Worker], Sequence[str]]) -> None:
        self.worker, self._command = worker, command
        self.process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started_at = self._start_at = 0.0

    def keep_running(self) -> int:
        """Start the process when it is due; returns the exit code of one that failed before it ever served."""
        if self.process is not None and (code := self.process.poll()) is not None:
            if code > 0 and not self.worker.has_served():
                return code
            self._ended(code)
        if self.process is None and time.monotonic() >= self._start_at:
            self._started_at = time.monotonic()
            self.process = subprocess.Popen(  # noqa: S603  # our own interpreter, our own arguments
                self._command(self.worker), stdin=subprocess.PIPE, pass_fds=[self.worker.listener]
            )
        return 0

    def _ended(self, code: int) -> None:
        ran_s = time.monotonic() - self._started_at
        self._failures = 1 if ran_s > _HEALTHY_S else self._failures + 1
        pause_s = _BACKOFF.pause_s(self._failures)
        self.process, self._start_at = None, time.monotonic() + pause_s
        extra = {"worker": self.worker.number, "exit_code": code, "ran_s": round(ran_s), "pause_s": round(pause_s, 1)}
        log.error("a worker ended and is started again", extra=extra)
