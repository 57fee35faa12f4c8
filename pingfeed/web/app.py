"""The common part of both services: errors, request ids, health, metrics and offline docs around their routes."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from pingfeed.core.breaker import opened
from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.ids import IdMaker, uuid7
from pingfeed.files import quarantined
from pingfeed.settings import Settings
from pingfeed.web import errors, health, middleware, openapi
from pingfeed.web.auth import Authenticator
from pingfeed.web.health import HealthBody, ReadyBody, ReadyCheck
from pingfeed.web.metrics import Metrics

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_shell(
    title: str,
    description: str,
    settings: Settings,
    *,
    lifespan: Lifespan,
    ready: ReadyCheck,
    metrics: Metrics,
    types: Sequence[Any] = (),
    clock: Clock = system_clock,
    make_id: IdMaker = uuid7,
    monotonic: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """Create an app without routes of its own; the caller adds them with `include_router`.

    `types` are the msgspec structs that the routes name in their OpenAPI (`pingfeed/web/openapi.py`). `clock` and
    `monotonic` (seconds) drive the token cache and the rate limits. /docs needs no network.
    """
    app: FastAPI = FastAPIOffline(
        title=title,
        description=description,
        version=version("pingfeed"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        # Without this FastAPI looks for a tracer on every request; metrics here are Prometheus's.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    # Its address would come from the caller's Host header.
    app.router.redirect_slashes = False
    authenticator = Authenticator(settings, metrics=metrics, clock=clock, monotonic=monotonic)
    app.state.authenticator = authenticator
    metrics.counted("stores_quarantined", "Damaged stores that began anew", quarantined.total)
    metrics.counted("breakers_opened", "Pauses of calls to a store that did not answer", opened.total)
    errors.install(app)
    health.install(app, health.with_keys(ready, lambda: authenticator.keys_problem), metrics)
    openapi.install_page(app)
    openapi.install(app, [HealthBody, ReadyBody, *types], auth_optional=settings.auth == "none")
    middleware.install(app, settings, metrics=metrics, clock=clock, make_id=make_id)
    return app
