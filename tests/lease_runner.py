"""Runs of the batch side as processes that stop or die at a chosen change: one JSON request a line, one fork a run.

    {"environ": {"PINGFEED_HOME": ...}, "run": "etl", "tick": 1920000, "stop": "version", "at": 0}

`stop` says where: "version" before the first version that names changes, "pointer" between snapshot and pointer
(SIGSTOP), "kill" before the change number `at` (SIGKILL), "" nowhere. The answer is the process id; the outcome is its
exit status: 0, 3 for Busy, 1 for anything else.
"""

import os
import signal
import sys
import traceback
from dataclasses import replace
from typing import Any

import msgspec

from batch.jobs import rebuild, tick
from batch.jobs.nightly import etl
from batch.lake import lease
from batch.wiring import build
from pingfeed.core.errors import Busy
from pingfeed.settings import load

TICK_MS = 900_000
BUSY = 3
SECONDS = 2.0
"""How long a lease lasts that is not renewed."""


class Request(msgspec.Struct):
    environ: dict[str, str]
    run: str
    tick: int
    stop: str = ""
    at: int = 0


class _StoppingLake:
    """A lake whose process stops or dies before a change."""

    def __init__(self, store: Any, request: Request) -> None:
        self._store, self._request = store, request
        self._versions = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, path: str, data: bytes) -> None:
        self._change()
        self._store.write(path, data)

    def delete(self, path: str) -> None:
        self._change()
        self._store.delete(path)

    def create(self, path: str, data: bytes) -> bool:
        self._change()
        if path.startswith("VERSIONS/"):
            self._versions += 1  # The first one only says who begins.
            if self._request.stop == "version" and self._versions == 2:
                os.kill(os.getpid(), signal.SIGSTOP)
        return bool(self._store.create(path, data))

    def _change(self) -> None:
        if self._request.stop == "kill":
            self._request.at -= 1
            if self._request.at < 0:
                os.kill(os.getpid(), signal.SIGKILL)


class _StoppingArtifacts:
    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def swap(self, key: str, data: bytes, seen: bytes | None) -> bool:
        if key.startswith("pointers/"):
            os.kill(os.getpid(), signal.SIGSTOP)
        return bool(await self._store.swap(key, data, seen))


def _run(request: Request) -> int:
    settings = load(request.environ)
    os.environ.update(request.environ)
    batch = build(settings, clock=lambda: request.tick * TICK_MS + 5_000, quiet=True)
    lake: Any = _StoppingLake
    artifacts: Any = _StoppingArtifacts
    batch.tables.versions._lake = lake(batch.tables.versions._lake, request)
    if request.stop == "pointer":
        opened = batch.open_artifacts
        batch = replace(batch, open_artifacts=lambda: artifacts(opened()))
    try:
        with batch.lease():
            rebuild.enable(batch)
            if request.run == "etl":
                etl(batch, request.tick)
            else:
                tick.run(batch, request.tick)
    except Busy:
        return BUSY
    except BaseException:  # noqa: BLE001  # whatever it was, it is shown
        traceback.print_exc()
        return 1
    return 0


def _serve() -> None:
    lease.SECONDS = SECONDS  # type: ignore[misc]
    children: set[int] = set()
    for line in sys.stdin:
        request = msgspec.json.decode(line, type=Request | int)
        if isinstance(request, int):  # Wait until this process has stopped or ended.
            said = _status(request)
            if said != "stopped":
                children.discard(request)
            _say(said)
            continue
        child = os.fork()
        if not child:
            os._exit(_run(request))
        children.add(child)
        _say(str(child))
    for child in children:  # Of a test that failed, one may have stopped.
        os.kill(child, signal.SIGKILL)


def _say(answer: str) -> None:
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()


def _status(child: int) -> str:
    """`stopped`, `killed`, or the exit status."""
    _, status = os.waitpid(child, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return "stopped"
    return "killed" if os.WIFSIGNALED(status) else str(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _serve()
