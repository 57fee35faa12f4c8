"""Ingest as an AWS Lambda function behind an HTTP API: `ingest_api.lambda_handler.handler`.

One execution environment has one event loop, one app and one set of clients, made at its first invocation and used by
all that follow. They are made outside the app's lifespan, which Mangum would enter and leave with every invocation.
Importing this opens nothing and reads no settings: a snapshot that Lambda takes after it (SnapStart) holds neither a
connection nor anything that must be unique.

Between two invocations the environment stands still. So nothing runs after an answer: what a request began without
waiting for it (a set of keys that is read anew, a call that was given up) is waited for here, and then called off. What
died while it stood still is tried again by whoever uses it (`pingfeed/spool/inline.py`).

What was counted goes into the log at the end of an invocation (`pingfeed/web/metrics.py`).
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from mangum import Mangum
from mangum.types import ASGI, LambdaContext
from starlette.types import Receive, Scope, Send

from ingest_api.app import create_app
from ingest_api.wiring import TIMEOUT_S, Services, build_for_lambda
from pingfeed.core.errors import PingfeedError, SettingsError
from pingfeed.settings import Settings, check_open, load, shown
from pingfeed.telemetry import configure_logs
from pingfeed.web.errors import error_response
from pingfeed.web.metrics import MetricLines, Metrics
from pingfeed.web.middleware import OutermostLayer

COUNTED: Final = (
    "events_accepted",
    "events_duplicate",
    "events_rejected",
    "events_rejected_dropped",
    "delivery_failures",
    "signal_failures",
    "signals_given_up",
    "trending_failures",
    "sink_billed_bytes",
    "sink_quarantined",
    "auth_rejected",
    "rate_limited",
)
"""The counters that become metrics of CloudWatch. Requests are counted by the HTTP API itself."""

REST_S: Final = 6.0
"""How long an answer waits for what its request left behind: keys of tokens that are read anew take so long at most."""
_log = logging.getLogger(__name__)


class Function:
    """One execution environment. Called with one event at a time, in one thread."""

    def __init__(
        self,
        build: Callable[[Settings], Services] = build_for_lambda,
        *,
        environ: Mapping[str, str] = os.environ,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        write: Callable[[str], Any] = lambda line: sys.stdout.write(line),
    ) -> None:
        self._build, self._environ, self._new_loop, self._write = build, environ, new_loop, write
        self._loop: asyncio.AbstractEventLoop | None = None
        self._app: ASGI | None = None
        self._lines: MetricLines | None = None

    def __call__(self, event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        """Answer one request of an HTTP API; RuntimeError, which Lambda logs, for an event that is none."""
        loop = self._own_loop()
        # Leaving it waits for its threads: none goes on after the answer.
        with ThreadPoolExecutor(thread_name_prefix="pingfeed") as threads:
            loop.set_default_executor(threads)
            answer = Mangum(self._ready_app(loop, context), lifespan="off")(event, context)
            loop.run_until_complete(_rest())
        if self._lines is not None:
            self._lines.flush()
        return answer

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of all invocations, as the one that Mangum finds. The logs are set up with it."""
        if self._loop is None:
            self._loop = self._new_loop()
            configure_logs()
            logging.getLogger("mangum").setLevel(logging.WARNING)
        asyncio.set_event_loop(self._loop)
        return self._loop

    def _ready_app(self, loop: asyncio.AbstractEventLoop, context: LambdaContext) -> ASGI:
        """The app; where it cannot be made, one that says so. The next invocation tries again."""
        try:
            if self._app is None:
                self._app = loop.run_until_complete(self._made(context))
        except PingfeedError as error:
            _log.error("the function cannot serve: %s", error.message)
            return OutermostLayer(_Refusing(error), metrics=Metrics())
        return self._app

    async def _made(self, context: LambdaContext) -> ASGI:
        """The app of this environment's settings. In the loop, for what is made belongs to it."""
        if context.get_remaining_time_in_millis() < (TIMEOUT_S - 1) * 1000:
            raise SettingsError(f"the function's time-out is under {TIMEOUT_S} s; a request may need that")
        settings = load(self._environ)
        check_open(settings, "an HTTP API")
        services, metrics = self._build(settings), Metrics()
        app = create_app(services, settings, metrics)
        self._lines = MetricLines(metrics, "ingest", COUNTED, clock=services.clock, write=self._write)
        _log.info("settings that apply", extra={"settings": shown(settings)})
        return app


class _Refusing:
    """An app that answers every request with one error."""

    def __init__(self, error: PingfeedError) -> None:
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await error_response(self._error)(scope, receive, send)


async def _rest() -> None:
    """Wait for what was begun and is not over yet, and call off what takes too long."""
    begun = asyncio.all_tasks() - {asyncio.current_task()}
    if begun:
        _, late = await asyncio.wait(begun, timeout=REST_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


handler: Final = Function()
"""What Lambda calls. It does nothing before that."""
