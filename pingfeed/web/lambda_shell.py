"""A service as an AWS Lambda function: one event loop, one app and one set of clients for all invocations.

    handler = HttpFunction("ingest", create, counted=COUNTED, timeout_s=22, prefix="/ingest")
    open_at_import(handler, f"{__name__}.handler")

They are opened when Lambda imports the handler's module: during the first request that would take seconds on a small
function. They are created outside the app's lifespan, which Mangum would run for every invocation.

A snapshot of the imported process (SnapStart) starts many environments, and a fork several processes. Each of them
opens everything again (`renew`), so that none shares a connection, random state or the name of a writer with another.

The environment is frozen between invocations, so nothing may run after a response: tasks that a request has started and
not awaited (a refresh of keys, an abandoned call) are awaited here, then cancelled. Calls on connections that died
meanwhile are retried by their callers (`pingfeed/spool/inline.py`).

API Gateway passes the path with the stage, and with the base path of a custom domain: both become the app's root path
(`_RootPath`). Counters are logged at the end of an invocation (`pingfeed/web/metrics.py`).
"""

import asyncio
import gc
import logging
import os
import random
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import unquote

from fastapi import FastAPI
from mangum import Mangum
from mangum.types import ASGI, LambdaContext
from starlette.types import Receive, Scope, Send

from pingfeed.aws import open_clients
from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.errors import PingfeedError, SettingsError
from pingfeed.settings import PREFIX, Settings, load, shown
from pingfeed.telemetry import configure_logs
from pingfeed.web.errors import error_response
from pingfeed.web.metrics import MetricLines, Metrics
from pingfeed.web.middleware import OutermostLayer

DRAIN_S: Final = 6.0
"""How long a response waits for tasks that its request has left: a refresh of token keys takes at most this long."""
WARM_UP_S: Final = 3.0
"""How long opening waits for the stores: Lambda ends an import after 10 s."""
_DEFAULT_STAGE: Final = "$default"
_left_behind: Final[list[object]] = []
"""What was opened before a snapshot or fork. It is kept: to close a socket here would also affect the other process."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """What a function serves with. `warm_up` makes the first calls to the stores; it may fail or be cancelled."""

    app: FastAPI
    metrics: Metrics
    warm_up: Callable[[], Awaitable[object]]
    clock: Clock = system_clock


Create = Callable[[Settings], Opened]
"""Builds services and app in the running event loop, opening no connection; raises PingfeedError."""


class HttpFunction:
    """One execution environment. Called with one event at a time, in one thread.

    `counted` are the counters that become CloudWatch metrics; `timeout_s` is the minimum timeout of the
    function; `prefix` is a path under which the API publishes the service besides the root. A response waits `drain_s`
    for unfinished tasks; with None it does not wait, and they go on in the next invocation.
    """

    def __init__(
        self,
        service: str,
        create: Create,
        *,
        counted: Collection[str],
        timeout_s: float,
        prefix: str = "",
        drain_s: float | None = DRAIN_S,
        environ: Mapping[str, str] = os.environ,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        write: Callable[[str], Any] = lambda line: sys.stdout.write(line),
    ) -> None:
        self._service, self._create, self._counted, self._timeout_s = service, create, counted, timeout_s
        self._prefix, self._drain_s = prefix, drain_s
        self._environ, self._new_loop, self._write = environ, new_loop, write
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._app: ASGI | None = None
        self._lines: MetricLines | None = None
        self._invocations = 0

    def __call__(self, event: Any, context: LambdaContext) -> dict[str, Any]:
        """Handle one request; RuntimeError, which Lambda logs, for an event that is not an HTTP request."""
        if not _is_request(event):
            raise RuntimeError(
                f"the {self._service} function answers HTTP requests (of API Gateway, a function URL or a load "
                "balancer); this event is not one"
            )
        if self._loop is not None and self._process != os.getpid():
            self.renew()
        self._check_timeout(context)
        with self._running() as loop:
            answer = Mangum(self._ready_app(loop), lifespan="off")(event, context)
            loop.run_until_complete(_drain(self._drain_s))
        if self._lines is not None:
            self._lines.flush()
        return answer

    def start(self) -> None:
        """Open everything before the first invocation. That one retries if it fails, and reports why."""
        with self._running() as loop:
            self._ready_app(loop)
            loop.run_until_complete(_drain(self._drain_s))

    def renew(self) -> None:
        """Open everything again, in a process that was copied from another one by a snapshot or a fork."""
        _left_behind.append((self._loop, self._app, self._lines))
        self._loop = self._app = self._lines = None
        random.seed()
        self.start()

    @contextmanager
    def _running(self) -> Iterator[asyncio.AbstractEventLoop]:
        """The process's loop, made current for Mangum. On leaving no thread of it runs any more."""
        if self._loop is None:
            self._loop, self._process = self._new_loop(), os.getpid()
            configure_logs()
            logging.getLogger("mangum").setLevel(logging.WARNING)
        asyncio.set_event_loop(self._loop)
        with ThreadPoolExecutor(thread_name_prefix="pingfeed") as threads:
            self._loop.set_default_executor(threads)
            yield self._loop

    def _ready_app(self, loop: asyncio.AbstractEventLoop) -> ASGI:
        """The app, or one that reports why it cannot be created. The next invocation retries."""
        try:
            if self._app is None:
                self._app = loop.run_until_complete(self._open())
        except PingfeedError as error:
            _log.error("the function cannot serve: %s", error.message)
            failure = error

            async def failing(scope: Scope, receive: Receive, send: Send) -> None:
                await error_response(failure)(scope, receive, send)

            return OutermostLayer(failing, metrics=Metrics())
        return self._app

    async def _open(self) -> ASGI:
        """Create the app from the environment's settings; runs in the loop because clients belong to it."""
        # A gateway's callers are never on this machine.
        settings = replace(load(self._environ), operator_loopback=False)
        if settings.auth == "none":
            variable = f"{PREFIX}AUTH"
            raise SettingsError(f"{variable} is none; a function needs gateway_jwt, jwt or api_key", field=variable)
        opened = self._create(replace(settings, root_path=""))  # `_RootPath` sets it.
        await open_clients()
        try:
            async with asyncio.timeout(WARM_UP_S):
                await opened.app.state.authenticator.warm_up()
                await opened.warm_up()
        except (PingfeedError, TimeoutError) as error:
            _log.warning("a store did not answer yet", extra={"reason": str(error) or f"after {WARM_UP_S:g} s"})
        self._lines = MetricLines(opened.metrics, self._service, self._counted, clock=opened.clock, write=self._write)
        _log.info("settings that apply", extra={"settings": shown(settings)})
        return _RootPath(opened.app, settings.root_path, self._prefix)

    def _check_timeout(self, context: LambdaContext) -> None:
        """Report a timeout that is too short. The first invocation may have spent time on a second import."""
        self._invocations += 1
        if self._invocations == 2 and context.get_remaining_time_in_millis() < (self._timeout_s - 1) * 1000:
            _log.error("the function's timeout is under %g s; a request may need that", self._timeout_s)


def open_at_import(function: HttpFunction, name: str) -> None:
    """Open `function` if it is the one (`module.name`) that Lambda has imported the module for.

    What the import has made lives as long as the process: no collection looks at it again, which would take a request
    up to 200 ms of CPU.
    """
    if os.environ.get("_HANDLER") != name:
        return
    gc.disable()
    function.start()
    gc.freeze()
    gc.enable()
    try:
        from snapshot_restore_py import register_after_restore
    except ImportError:  # It is part of Lambda's own runtime client, and only that one restores snapshots.
        return
    register_after_restore(function.renew)


def _is_request(event: Any) -> bool:
    context = event.get("requestContext") if isinstance(event, dict) else None
    return isinstance(context, dict) and ("http" in context or "httpMethod" in event)


async def _drain(patience_s: float | None) -> None:
    """Wait for unfinished tasks, and cancel those that take too long."""
    begun = asyncio.all_tasks() - {asyncio.current_task()}
    if begun and patience_s is not None:
        _, late = await asyncio.wait(begun, timeout=patience_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


class _RootPath:
    """Passes a request on with the app's own path; what precedes it becomes the scope's root path.

    That may be the stage, the base path of a custom domain (PINGFEED_ROOT_PATH) and the service's own prefix.
    """

    def __init__(self, app: ASGI, root_path: str, prefix: str) -> None:
        self._app, self._root_path, self._prefix = app, root_path, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        root, path = self._split(scope["path"], scope["aws.event"])
        await self._app({**scope, "root_path": root, "path": root + path}, receive, send)

    def _split(self, path: str, event: Mapping[str, Any]) -> tuple[str, str]:
        """The public root path and the path below it."""
        context = event["requestContext"]
        rest, unused = path, [_stage_in_path(event), self._root_path]
        while found := next((prefix for prefix in unused if _is_below(rest, prefix)), ""):
            unused.remove(found)
            rest = rest.removeprefix(found)
        # A REST API's path has no stage; the context has the path as the client sent it.
        sent = unquote(context.get("path") or path)
        root = sent.removesuffix(rest) if sent.endswith(rest) else ""
        if self._root_path and (not root or "execute-api" not in context.get("domainName", "")):
            root = self._root_path
        own = self._prefix if _is_below(rest, self._prefix) else ""
        return root + own, rest.removeprefix(own) or "/"


def _stage_in_path(event: Mapping[str, Any]) -> str:
    """The stage as an HTTP API, whose events have a version, puts it before the path; "" if it does not."""
    stage = event["requestContext"].get("stage")
    return f"/{stage}" if "version" in event and stage and stage != _DEFAULT_STAGE else ""


def _is_below(path: str, prefix: str) -> bool:
    return bool(prefix) and (path == prefix or path.startswith(f"{prefix}/"))
