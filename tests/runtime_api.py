"""Lambda's Runtime API on loopback, and an environment of the real runtime client that works against it.

    GET  /2018-06-01/runtime/invocation/next              the next event, when there is one
    POST /2018-06-01/runtime/invocation/<id>/response     the answer to it; .../error where the function failed
    GET  /2018-06-01/runtime/restore/next                 with SnapStart, after the import: returns in a restored copy

Between two invocations the environment's process is stopped (SIGSTOP), as Lambda freezes it. An import that takes
longer than `INIT_S` is ended and repeated within the first invocation.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cpu_quota import FULL_MB, Quota, cpu_s, quota
from tests.servers import ROOT

TIMEOUT_S = 22
INIT_S = 10.0


@dataclass(frozen=True)
class Answer:
    """What the function made of an event, `ms` after it was handed out."""

    outcome: str
    """`response` or `error`."""
    body: Any
    ms: float
    cpu_ms: float = 0.0
    """CPU time of the process."""


class RuntimeApi(ThreadingHTTPServer):
    """Hands events to one environment, one at a time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.answers: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.restores: queue.Queue[None] = queue.Queue()
        self.asked = threading.Semaphore(0)
        """Released each time that the environment asks for an event: then it is idle."""


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RuntimeApi

    def do_GET(self) -> None:
        self.server.asked.release()
        if self.path.endswith("/restore/next"):
            self.server.restores.get()
            self._answer(200, b"", {})
            return
        invocation, event = self.server.events.get()
        headers = {
            "Lambda-Runtime-Aws-Request-Id": invocation,
            "Lambda-Runtime-Deadline-Ms": str(round(time.time() * 1000) + TIMEOUT_S * 1000),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:000000000000:function:ingest",
            "Content-Type": "application/json",
        }
        self._answer(200, json.dumps(event).encode(), headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(202, b"{}", {})
        self.server.answers.put((self.path.rpartition("/")[2], json.loads(body)))

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Environment:
    """One execution environment: a process of the runtime client, frozen but for its invocations."""

    def __init__(
        self, api: RuntimeApi, start: Callable[[], "subprocess.Popen[bytes]"], log: Path, quota: Quota, init_s: float
    ) -> None:
        self._api, self._start, self._log, self._quota = api, start, log, quota
        self._invocations = 0
        self.inits = 1
        """How often it was imported."""
        began = time.perf_counter()
        self.process = start()
        quota.follow(self.process.pid)
        self._imported = self._idle(init_s)
        self.init_ms = (time.perf_counter() - began) * 1000
        self.init_cpu_ms = cpu_s(self.process.pid) * 1000
        if not self._imported:
            assert self.process.poll() is None, self._log.read_text()[-2000:]
            self.process.kill()
            self.process.wait()

    def invoke(self, event: Any) -> Answer:
        """Thaw it, hand it an event, and freeze it when it asks for the next one."""
        self._invocations += 1
        began = time.perf_counter()
        if not self._imported:
            self.inits += 1
            self.process, self._imported = self._start(), True
            self._quota.follow(self.process.pid)
            self._idle(TIMEOUT_S)
        before = cpu_s(self.process.pid)
        self._thaw()
        self._api.events.put((f"invocation-{self._invocations}", event))
        outcome, body = self._api.answers.get(timeout=TIMEOUT_S - (time.perf_counter() - began))
        ms = (time.perf_counter() - began) * 1000
        assert self._idle(60), self._log.read_text()[-2000:]
        return Answer(outcome, body, ms, (cpu_s(self.process.pid) - before) * 1000)

    def restore(self) -> None:
        """What a copy of the snapshot does before its first invocation."""
        self._thaw()
        self._api.restores.put(None)
        assert self._idle(INIT_S)

    def terminate(self) -> int:
        """SIGTERM, as before an environment is taken down; its exit code."""
        self.process.terminate()
        self._thaw()
        return self.process.wait(5)

    def log(self) -> list[dict[str, Any]]:
        """What it wrote, where that is JSON."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    def _idle(self, within_s: float) -> bool:
        """Freeze it when it asks for an event; False if it does not in time."""
        idle = self._api.asked.acquire(timeout=within_s)
        if idle:
            self._quota.frozen = True
            self.process.send_signal(signal.SIGSTOP)
        return idle

    def _thaw(self) -> None:
        self._quota.frozen = False
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def environment(
    handler: str,
    folder: Path,
    environ: Mapping[str, str],
    *,
    snap_start: bool = False,
    memory_mb: int = FULL_MB,
    init_s: float = 60,
) -> Iterator[Environment]:
    """An environment of a function (`module.name`) with these variables beside the machine's; killed afterwards.

    With `snap_start` it stands where the snapshot is taken, and has to be restored. It has the CPU of its memory.
    """
    api, log = RuntimeApi(), folder / f"{handler}.log"
    threading.Thread(target=api.serve_forever, daemon=True).start()
    own = {
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "AWS_LAMBDA_FUNCTION_NAME": "a-function",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start" if snap_start else "on-demand",
        "_HANDLER": handler,
        "PYTHONPATH": str(ROOT),
    }
    with quota(memory_mb) as cpu:

        def start() -> "subprocess.Popen[bytes]":
            command = cpu.wrap([sys.executable, "-m", "awslambdaric", handler])
            with log.open("ab") as out:
                return subprocess.Popen(
                    command, env={**os.environ, **own, **environ}, cwd=folder, stdout=out, stderr=out
                )

        made = Environment(api, start, log, cpu, init_s)
        try:
            yield made
        finally:
            made.process.kill()
            made.process.wait()
            api.shutdown()
            api.server_close()
