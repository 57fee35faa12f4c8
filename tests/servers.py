"""Real servers for tests: a Redis or Valkey, and MiniStack (an emulator of AWS), as processes of this machine.

Each listens on loopback on a port of its own and is ended by its id. What is missing skips the test that asks for it,
or fails it where REQUIRE_ALL=1 says that nothing may be missing.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

import pytest

from pingfeed.core.breaker import REST_S
from pingfeed.core.errors import Unavailable

ROOT: Final = Path(__file__).parents[1]
START_S: Final = 90
_STOP_S: Final = 15
AWS_ENVIRONMENT: Final = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def required() -> bool:
    """Whether what is missing is a failure."""
    return os.environ.get("REQUIRE_ALL") == "1"


def lacking(what: str) -> NoReturn:
    """Skip the test, or fail it where everything is required."""
    if required():
        pytest.fail(what)
    pytest.skip(what)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process; `start` again after `stop` or `kill` serves on the same port from the same folder."""

    def __init__(
        self, command: Sequence[str], port: int, folder: Path, answers: Callable[[], bool], **environ: str
    ) -> None:
        self.port, self._command, self._folder = port, command, folder
        self._answers, self._environ = answers, environ
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process's id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=os.environ | self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            log_text = (self._folder / "server.log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, f"{self._command[0]} ended: {log_text}"
            assert time.monotonic() < deadline, f"{self._command[0]} did not answer: {log_text}"
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        self._end(lambda process: process.terminate())

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(lambda process: process.kill())

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections, takes new ones (the kernel does), and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT, after `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: Callable[["subprocess.Popen[bytes]"], None]) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        how(process)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_S)


async def answered(call: Callable[[], Awaitable[object]]) -> None:
    """The call succeeds once the breaker lets it through."""
    async with asyncio.timeout(2 * REST_S):
        while True:
            with suppress(Unavailable):
                await call()
                return
            await asyncio.sleep(0.05)


def redis_program() -> str | None:
    """A server that speaks Redis' protocol."""
    return os.environ.get("REDIS_SERVER") or next(
        filter(None, map(shutil.which, ("valkey-server", "redis-server"))), None
    )


def ministack_program() -> str | None:
    """MiniStack's command, in the environment of its own that `make test-real` makes."""
    own = ROOT / ".venv-ministack" / "bin" / "ministack"
    named = os.environ.get("MINISTACK")
    return named or (str(own) if own.exists() else shutil.which("ministack"))


def redis_server(folder: Path, *options: str) -> Server:
    """A Redis or Valkey that keeps nothing on the disk; skips where there is none."""
    command, port = _redis_command(*options)
    return Server(command, port, folder, lambda: _redis_answers(port))


def _redis_command(*more: str) -> tuple[Sequence[str], int]:
    program = redis_program()
    if program is None:
        lacking("there is no valkey-server or redis-server (apt-get install redis-server, or name one in REDIS_SERVER)")
    port = free_port()
    return (program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *more), port


class RedisCluster(Server):
    """A cluster of one node that serves all slots: it refuses commands whose keys are in several."""

    def start(self) -> None:
        """Start it and wait until it serves."""
        super().start()
        with suppress(AssertionError):  # After a restart it has the slots that it had.
            assert self._say(b"CLUSTER ADDSLOTSRANGE 0 16383") == b"+OK"
        deadline = time.monotonic() + START_S
        while b"cluster_state:ok" not in self._say(b"CLUSTER INFO"):
            assert time.monotonic() < deadline, "the cluster did not become ready"
            time.sleep(0.05)

    def _say(self, line: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(line + b"\r\n")
            return connection.recv(65536).strip()


def redis_cluster(folder: Path) -> RedisCluster:
    """A Redis or Valkey as a cluster of one node; skips where there is none."""
    command, port = _redis_command("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    return RedisCluster(command, port, folder, lambda: _redis_answers(port))


def ministack(folder: Path, **more: str) -> Server:
    """MiniStack with no state, and `more` variables of its own; skips where it is not installed."""
    program = ministack_program()
    if program is None:
        lacking("MiniStack is not installed (make test-real installs it, or name its command in MINISTACK)")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Functions that it runs inherit its variables, and so the address of the AWS that they use.
    environ = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "IOT_MTLS_ENABLED": "0", "AWS_ENDPOINT_URL": url}
    return Server(
        (program,),
        port,
        folder,
        lambda: _http_answers(f"{url}/_ministack/health"),
        **environ,
        **AWS_ENVIRONMENT,
        **more,
    )


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, started, and ended afterwards."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _redis_answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
    return False


def _http_answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return int(answer.status) < 500
    return False
