"""Two AWS Lambda functions: ingest (`handler`, see `pingfeed/web/lambda_shell.py`) and `refresh_keys`.

Functions in a VPC without a way out cannot fetch the keys of tokens. So `refresh_keys`, outside of it and scheduled,
copies them from the issuer (PINGFEED_JWT_JWKS_SOURCE) to the S3 object that the others read (PINGFEED_JWT_JWKS).
"""

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ingest_api.app import create_app
from ingest_api.wiring import TIMEOUT_S, Services, build_for_lambda, open_keys_copy
from pingfeed import checks
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.settings import Settings, load
from pingfeed.telemetry import configure_logs
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


def refresh_keys(_event: Any, _context: Any) -> dict[str, int]:
    """The function that copies the keys. An unusable set raises and leaves the object as it is."""
    configure_logs()
    return asyncio.run(_copy_keys(load(os.environ)))


async def _copy_keys(settings: Settings) -> dict[str, int]:
    from pingfeed.web.jwks import parse, source_of  # needs a cryptography library

    copies, name = open_keys_copy(settings)
    try:
        body = await source_of(settings.jwt_jwks_source)()
        usable = parse(body, settings.jwt_algorithms)
    except (Unavailable, FormatError) as error:
        raise type(error)(f"PINGFEED_JWT_JWKS_SOURCE {error.message}; the copy stays as it is") from error
    else:
        await copies.put(name, body)
    finally:
        await copies.close()
    logging.getLogger(__name__).info("copied the token signing keys", extra={"keys": len(usable)})
    return {"keys": len(usable)}
