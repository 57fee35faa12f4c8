"""Ingest as an AWS Lambda function: `ingest_api.lambda_handler.handler` (`pingfeed/web/lambda_shell.py`)."""

from collections.abc import Callable
from functools import partial
from typing import Final

from ingest_api.app import create_app
from ingest_api.wiring import TIMEOUT_S, Services, build_for_lambda
from pingfeed import checks
from pingfeed.settings import Settings
from pingfeed.web.lambda_shell import HttpFunction, Opened, open_at_import
from pingfeed.web.metrics import Metrics

COUNTED: Final = (
    "events_accepted",
    "events_duplicate",
    "events_rejected",
    "events_rejected_dropped",
    "delivery_failures",
    "signal_failures",
    "signals_given_up",
    "sink_billed_bytes",
    "sink_quarantined",
    "auth_rejected",
)
"""The counters that become CloudWatch metrics. The HTTP API itself counts requests."""


def create(build: Callable[[Settings], Services], settings: Settings) -> Opened:
    """The app over these services."""
    services, metrics = build(settings), Metrics()

    async def warm_up() -> None:
        await checks.problems(
            events=services.sink.check, signals=services.signals.check, trending=services.trending.check
        )

    return Opened(create_app(services, settings, metrics), metrics, warm_up, services.clock)


handler: Final = HttpFunction(
    "ingest", partial(create, build_for_lambda), counted=COUNTED, timeout_s=TIMEOUT_S, prefix="/ingest"
)
"""The entry point that Lambda calls."""
open_at_import(handler, f"{__name__}.handler")
