"""The feed as an AWS Lambda function: `feed_api.lambda_handler.handler` (`pingfeed/web/lambda_shell.py`)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from feed_api.app import create_app
from feed_api.wiring import TIMEOUT_S, Services, build_for_lambda
from pingfeed.settings import Settings
from pingfeed.web.lambda_shell import HttpFunction, Opened, open_at_import
from pingfeed.web.metrics import Metrics

COUNTED: Final = (
    "feed_answers",
    "feed_degraded",
    "feed_incomplete",
    "feed_served_dropped",
    "feed_served_act_failures",
    "feed_refresh_failures",
    "feed_artifacts_rejected",
    "events_accepted",
    "sink_billed_bytes",
    "auth_rejected",
)
"""The counters that become CloudWatch metrics. The HTTP API itself counts requests."""


def create(build: Callable[[Settings], Services], settings: Settings) -> Opened:
    """The app over these services."""
    services, metrics = build(settings), Metrics()
    app = create_app(services, settings, metrics)
    return Opened(app, metrics, app.state.warm_up, services.clock)


def function(build: Callable[[Settings], Services] = build_for_lambda, **options: Any) -> HttpFunction:
    """One execution environment. What a feed leaves behind goes on in the next one: no response waits for it."""
    return HttpFunction("feed", partial(create, build), counted=COUNTED, timeout_s=TIMEOUT_S, drain_s=None, **options)


handler: Final = function()
"""The entry point that Lambda calls."""
open_at_import(handler, f"{__name__}.handler")
