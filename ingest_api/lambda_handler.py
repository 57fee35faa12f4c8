"""Ingest as an AWS Lambda function behind an HTTP API: `ingest_api.lambda_handler.handler`.

An execution environment has one event loop, one app and one set of clients, created by its first invocation and used by
all later ones. They are created outside the app's lifespan, which Mangum would run for every invocation. Importing this
module opens nothing and reads no settings: a snapshot taken after it (SnapStart) holds no connection and nothing that
must be unique.

The environment is frozen between invocations, so nothing may run after a response: tasks that a request has started and
not awaited (a refresh of keys, an abandoned call) are awaited here, then cancelled. Calls on connections that died
meanwhile are retried by their callers (`pingfeed/spool/inline.py`).

Counters are logged at the end of an invocation (`pingfeed/web/metrics.py`).
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
"""The counters that become CloudWatch metrics. The HTTP API itself counts requests."""

REST_S: Final = 6.0
"""How long a response waits for tasks that its request left behind: a refresh of token keys takes at most this long."""
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
        """Handle one request of an HTTP API; RuntimeError, which Lambda logs, for any other event."""
        loop = self._own_loop()
        # Leaving the block waits for its threads: none outlives the response.
        with ThreadPoolExecutor(thread_name_prefix="pingfeed") as threads:
            loop.set_default_executor(threads)
            answer = Mangum(self._ready_app(loop, context), lifespan="off")(event, context)
            loop.run_until_complete(_rest())
        if self._lines is not None:
            self._lines.flush()
        return answer

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of all invocations, made current for Mangum. Logging is configured with it."""
        if self._loop is None:
            self._loop = self._new_loop()
            configure_logs()
            logging.getLogger("mangum").setLevel(logging.WARNING)
        asyncio.set_event_loop(self._loop)
        return self._loop

    def _ready_app(self, loop: asyncio.AbstractEventLoop, context: LambdaContext) -> ASGI:
        """The app, or one that reports why it cannot be created. The next invocation retries."""
        try:
            if self._app is None:
                self._app = loop.run_until_complete(self._made(context))
        except PingfeedError as error:
            _log.error("the function cannot serve: %s", error.message)
            failure = error

            async def failing(scope: Scope, receive: Receive, send: Send) -> None:
                await error_response(failure)(scope, receive, send)

            return OutermostLayer(failing, metrics=Metrics())
        return self._app

    async def _made(self, context: LambdaContext) -> ASGI:
        """Create the app from this environment's settings; runs in the loop because clients belong to it."""
        if context.get_remaining_time_in_millis() < (TIMEOUT_S - 1) * 1000:
            raise SettingsError(f"the function's timeout is under {TIMEOUT_S} s; a request may need that")
        settings = load(self._environ)
        check_open(settings, "an HTTP API")
        services, metrics = self._build(settings), Metrics()
        app = create_app(services, settings, metrics)
        self._lines = MetricLines(metrics, "ingest", COUNTED, clock=services.clock, write=self._write)
        _log.info("settings that apply", extra={"settings": shown(settings)})
        return app


async def _rest() -> None:
    """Wait for unfinished tasks, and cancel those that take too long."""
    begun = asyncio.all_tasks() - {asyncio.current_task()}
    if begun:
        _, late = await asyncio.wait(begun, timeout=REST_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


handler: Final = Function()
"""The entry point that Lambda calls; it does nothing before that."""
