"""Functions in Lambda's own runtime client, with the CPU that Lambda gives to their memory: `make bench-lambda`.

Behind them is MiniStack, which shares this machine; a relay measures the time in which a request waits for it. Cold
starts: an import that takes over 10 s is ended and repeated within the first invocation, as on Lambda. `bare` is the
least that a feed function could import (`benchmarks/bare_function.py`). CPU times and ratios travel, milliseconds do
not. How long Lambda itself takes to start an environment, only AWS can show.
"""

import argparse
import asyncio
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import boto3
import numpy as np
from starlette.types import Message

from benchmarks.serving import prepare
from deploy import stream, tables
from pingfeed.adapters import registry
from pingfeed.core.ids import uuid7
from pingfeed.core.ranker import Pointer, model_key, pointer_key
from pingfeed.settings import load
from simulator.world import user_id
from tests.cpu_quota import quota
from tests.http_api import AUTH, body_of, events, request
from tests.relay import Relay
from tests.runtime_api import INIT_S, Environment, environment
from tests.servers import AWS_ENVIRONMENT, ministack, running
from tests.unit.lambda_world import Context, lambda_world

INGEST: Final = "ingest_api.lambda_handler.handler"
FEED: Final = "feed_api.lambda_handler.handler"
BARE: Final = "benchmarks.bare_function.handler"
NAME: Final = "pingfeed-bench"
SHELL_CALLS: Final = 1000
BUDGET_MS: Final = 2000
"""Of a feed: the emulator takes longer than DynamoDB and Firehose."""


class TimedRelay(Relay):
    """Measures how long at least one request waits for its response (`busy_s`)."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.busy_s = 0.0
        self._waiting: set[socket.socket] = set()
        self._since = 0.0
        self._lock = threading.Lock()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        is_request = any(source is client for client, _ in self._pairs)
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if is_request:
                    self._note(source, waits=True)
                    sink.sendall(data)
                else:
                    sink.sendall(data)
                    self._note(sink, waits=False)
            sink.shutdown(socket.SHUT_WR)
        self._note(source if is_request else sink, waits=False)

    def _note(self, client: socket.socket, *, waits: bool) -> None:
        with self._lock:
            before = bool(self._waiting)
            (self._waiting.add if waits else self._waiting.discard)(client)
            now = time.perf_counter()
            if not before and self._waiting:
                self._since = now
            elif before and not self._waiting:
                self.busy_s += now - self._since


@contextmanager
def world(folder: Path) -> Iterator[tuple[dict[str, str], TimedRelay]]:
    """MiniStack with a stream, a table, a bucket, a week's model, snapshot and packets; a function's variables."""
    os.environ |= AWS_ENVIRONMENT
    with running(ministack(folder / "ministack")) as server:
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{server.port}"
        boto3.client("s3").create_bucket(Bucket=NAME)
        tables.ensure(f"dynamodb://{NAME}")
        stream.ensure(f"firehose://{NAME}", f"s3://{NAME}/lake", interval_s=60)
        urls = {
            "PINGFEED_ARTIFACTS_URL": f"s3://{NAME}/artifacts",
            "PINGFEED_CANDIDATES_URL": f"dynamodb://{NAME}",
            "PINGFEED_SIGNALS_URL": f"dynamodb://{NAME}",
        }
        prepare(folder / "home", urls)
        (folder / "model.txt").write_bytes(asyncio.run(_model(urls | {"PINGFEED_HOME": str(folder / "home")})))
        relay = TimedRelay(server.port)
        try:
            yield (
                {
                    **AWS_ENVIRONMENT,
                    **AUTH,
                    **urls,
                    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}",
                    "PINGFEED_EVENTS_URL": f"firehose://{NAME}",
                    "PINGFEED_LAKE_URL": f"s3://{NAME}/lake",
                    "PINGFEED_TRENDING_URL": "snapshot://",
                    "PINGFEED_HOME": str(folder / "function"),
                    "PINGFEED_FEED_BUDGET_MS": str(BUDGET_MS),
                    "BARE_MODEL": str(folder / "model.txt"),
                },
                relay,
            )
        finally:
            relay.close()


async def _model(environ: Mapping[str, str]) -> bytes:
    """The text of the live model."""
    settings = load(environ)
    artifacts = registry.open_artifacts(settings)
    try:
        pointer = await artifacts.get(pointer_key(settings.features.digest, "model"))
        return await artifacts.get(model_key(Pointer.parse(pointer, "model").current, "model.txt"))
    finally:
        await artifacts.close()


def ask(number: int) -> dict[str, Any]:
    """A feed of one of the users."""
    return request("/get-feed", method="GET") | {"rawQueryString": f"user_id={user_id(number % 300)}"}


def post(number: int) -> dict[str, Any]:
    """20 views of one of the users."""
    user = user_id(number % 300)
    view = {"event_type": "view", "user_id": user, "watch_time_ratio": 0.5}
    ids = (uuid7(int(time.time() * 1000)) for _ in range(20))
    return events(*({**view, "ping_id": f"p{place}", "event_id": one} for place, one in enumerate(ids)))


EVENT: Final[Mapping[str, Callable[[int], dict[str, Any]]]] = {
    INGEST: post,
    FEED: ask,
    BARE: lambda _number: request("/healthz", method="GET"),
}


def cold(name: str, handler: str, memory_mb: int, starts: int, folder: Path, environ: Mapping[str, str]) -> float:
    """Print the cold starts of a function; the median of its import, in CPU milliseconds."""
    made: list[tuple[Environment, float, float]] = []
    good = 0
    for number in range(starts):
        with environment(handler, folder, environ, memory_mb=memory_mb, init_s=INIT_S) as function:
            answer = function.invoke(EVENT[handler](number))
            good += answer.outcome == "response" and 200 <= answer.body["statusCode"] < 300
            made.append((function, answer.ms, answer.cpu_ms))
    imports = [function.init_cpu_ms for function, _, _ in made]
    shares = [function.init_cpu_ms / (function.init_cpu_ms + cpu_ms) for function, _, cpu_ms in made]
    say(
        f"{name} at {memory_mb:,} MB: {good} of {starts} cold starts were 2xx; "
        f"import {_spread([function.init_ms for function, _, _ in made])} ms, {_spread(imports)} ms CPU "
        f"({statistics.median(shares):.0%} of the cold start's CPU, at least {min(shares):.0%}); "
        f"first invocation {_spread([ms for _, ms, _ in made])} ms; "
        f"imports repeated: {sum(function.inits - 1 for function, _, _ in made)}"
    )
    return statistics.median(imports)


def warm(name: str, handler: str, memory_mb: int, requests: int, folder: Path, world: tuple[Any, TimedRelay]) -> None:
    """Print the invocations of a warm function, with and without the time in which it waited for the emulator."""
    environ, relay = world
    whole, own, cpu, degraded = [], [], [], 0
    with environment(handler, folder, environ, memory_mb=memory_mb) as function:
        for number in range(requests + 20):
            busy_s = relay.busy_s
            answer = function.invoke(EVENT[handler](number))
            assert 200 <= answer.body["statusCode"] < 300, answer.body
            if number >= 20:
                whole.append(answer.ms)
                own.append(answer.ms - (relay.busy_s - busy_s) * 1000)
                cpu.append(answer.cpu_ms)
                degraded += bool(handler == FEED and body_of(answer.body)["degraded"])
    say(
        f"{name} at {memory_mb:,} MB, warm: {_tail(whole)} ms; without the emulator {_tail(own)} ms; "
        f"CPU {statistics.mean(cpu):.1f} ms a request; {degraded} of {requests} degraded"
    )


def shell() -> None:
    """Print what the shell costs above the app, in this process and over fakes."""
    with lambda_world() as world:
        event = request("/healthz", method="GET")
        world(event)
        app, loop = world.function._app, world.loops[0]
        assert app is not None
        scope = _scope(event)

        async def call() -> None:
            async def receive() -> Message:
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(_message: Message) -> None: ...

            await app({**scope}, receive, send)

        through = _cpu_ms(lambda: world(event, Context()))
        alone = _cpu_ms(lambda: loop.run_until_complete(call()))
    say(f"the shell: {through:.2f} ms CPU an invocation, the app alone {alone:.2f}: {through - alone:.2f} above it")


def _scope(event: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": event["rawPath"],
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in event["headers"].items()],
        "client": ("203.0.113.9", 0),
        "aws.event": event,
    }


def _cpu_ms(call: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(SHELL_CALLS):
        call()
    return (time.process_time() - began) * 1000 / SHELL_CALLS


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} (at most {max(values):,.0f})"


def _tail(values: Sequence[float]) -> str:
    return f"p50 {np.percentile(values, 50):.0f}, p99 {np.percentile(values, 99):.0f}"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=20, help="cold starts of each function")
    parser.add_argument("--requests", type=int, default=300, help="warm requests")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quota(256) as cpu:
            say(f"CPU is limited by {cpu.how}")
        shell()
        with world(folder) as made:
            environ = made[0]
            cold("ingest", INGEST, 256, asked.starts, folder, environ)
            warm("ingest", INGEST, 256, asked.requests // 3, folder, made)
            for memory_mb in (512, 1769):
                feed = cold("feed", FEED, memory_mb, asked.starts, folder, environ)
                bare = cold("bare", BARE, memory_mb, asked.starts, folder, environ)
                say(f"the feed's import is {feed / bare:.2f} times the bare set's")
            warm("feed", FEED, 1769, asked.requests, folder, made)


if __name__ == "__main__":
    main()
