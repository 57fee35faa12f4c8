"""The shell of a service: errors, request ids, health, metrics and offline docs around its routes."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from pingfeed.core.clock import Clock, system_clock
from pingfeed.core.ids import IdMaker, uuid7
from pingfeed.settings import Settings
from pingfeed.web import cors, docs, errors, health, openapi
from pingfeed.web.auth import Authenticator
from pingfeed.web.health import HealthBody, ReadyBody, ReadyCheck
from pingfeed.web.metrics import Metrics
from pingfeed.web.middleware import OutermostLayer

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
    """An app without routes of its own; the caller adds them with `include_router`.

    `types` are the msgspec structs that its routes name in their OpenAPI (`pingfeed/web/openapi.py`). `clock`
    and `monotonic` (seconds that only grow) are what tokens and limits go by. /docs needs no network.
    """
    app: FastAPI = FastAPIOffline(
        title=title,
        description=description,
        version=version("pingfeed"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        # It would look for a tracer at every request; what is counted here is Prometheus's.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.doorkeeper = Authenticator(settings, metrics=metrics, clock=clock, monotonic=monotonic)
    errors.install(app)
    health.install(app, ready, metrics)
    docs.install(app)
    openapi.install(app, [HealthBody, ReadyBody, *types], open_door=settings.auth == "none")
    app.add_middleware(OutermostLayer, metrics=metrics, clock=clock, make_id=make_id)
    cors.install(app, settings)
    return app
