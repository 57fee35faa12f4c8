"""Lambda's Runtime API on loopback, and an environment of the real runtime client that works against it.

    GET  /2018-06-01/runtime/invocation/next              the next event, when there is one
    POST /2018-06-01/runtime/invocation/<id>/response     the answer to it; .../error where the function failed
    GET  /2018-06-01/runtime/restore/next                 with SnapStart, after the import: returns in a restored copy

Between two invocations the environment's process is stopped (SIGSTOP), as Lambda freezes it.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.servers import ROOT

TIMEOUT_S = 22


@dataclass(frozen=True)
class Answer:
    """What the function made of an event, `ms` after it was handed out."""

    outcome: str
    """`response` or `error`."""
    body: Any
    ms: float


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

    def __init__(self, api: RuntimeApi, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._api, self.process, self._log = api, process, log
        self._invocations = 0
        self._idle()

    def invoke(self, event: Any) -> Answer:
        """Thaw it, hand it an event, and freeze it when it asks for the next one."""
        self._invocations += 1
        self.process.send_signal(signal.SIGCONT)
        began = time.perf_counter()
        self._api.events.put((f"invocation-{self._invocations}", event))
        outcome, body = self._api.answers.get(timeout=TIMEOUT_S)
        ms = (time.perf_counter() - began) * 1000
        self._idle()
        return Answer(outcome, body, ms)

    def restore(self) -> None:
        """What a copy of the snapshot does before its first invocation."""
        self.process.send_signal(signal.SIGCONT)
        self._api.restores.put(None)
        self._idle()

    def terminate(self) -> int:
        """SIGTERM, as before an environment is taken down; its exit code."""
        self.process.terminate()
        self.process.send_signal(signal.SIGCONT)
        return self.process.wait(5)

    def log(self) -> list[dict[str, Any]]:
        """What it wrote, where that is JSON."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    def _idle(self) -> None:
        assert self._api.asked.acquire(timeout=60), self._log.read_text()[-2000:]
        self.process.send_signal(signal.SIGSTOP)


@contextmanager
def environment(
    handler: str, folder: Path, environ: Mapping[str, str], *, snap_start: bool = False
) -> Iterator[Environment]:
    """An environment of a function (`module.name`) with these variables beside the machine's; killed afterwards.

    With `snap_start` it stands where the snapshot is taken, and has to be restored.
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
    with log.open("wb") as out:
        command = [sys.executable, "-m", "awslambdaric", handler]
        process = subprocess.Popen(command, env={**os.environ, **own, **environ}, cwd=folder, stdout=out, stderr=out)
    try:
        yield Environment(api, process, log)
    finally:
        process.kill()
        process.wait()
        api.shutdown()
        api.server_close()
