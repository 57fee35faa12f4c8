"""The ingest app: events are durable and applied before they are acknowledged."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI

from ingest_api.receiver import EventReceiver
from ingest_api.routes import TYPES, create_router, handlers
from ingest_api.wiring import Counters, Services, watch
from pingfeed import checks
from pingfeed.settings import Settings
from pingfeed.web import middleware
from pingfeed.web.app import create_shell
from pingfeed.web.health import Readiness, ReadyCheck
from pingfeed.web.metrics import Metrics

_DESCRIPTION: Final = (
    "Records what users do and what creators publish. **202 means durable and applied**: the next feed shows it, and "
    "no crash loses it. A bad event is rejected alone, with its reason."
)


def create_app(services: Services, settings: Settings, metrics: Metrics | None = None) -> FastAPI:
    """The app around opened services; its lifespan starts and closes them."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await services.delivery.start()
            services.rejected.start()
            if services.publisher is not None:
                services.publisher.start()
            yield
        finally:
            # Delivery first: it flushes into the sink (which it closes) and applies to signals and trending.
            await services.delivery.close()
            if services.publisher is not None:
                await services.publisher.close()
            await services.rejected.close()
            await services.signals.close()
            await services.trending.close()

    metrics = metrics or Metrics()
    watch(metrics, services)
    receiver = EventReceiver(
        delivery=services.delivery,
        rejected=services.rejected,
        counters=Counters(metrics),
        clock=services.clock,
        make_id=services.make_id,
        user_catalogue=settings.user_catalogue,
    )
    answering = handlers(receiver)
    app = create_shell(
        "pingfeed ingest",
        _DESCRIPTION,
        settings,
        lifespan=lifespan,
        ready=_ready(services),
        metrics=metrics,
        types=TYPES,
        clock=services.clock,
        make_id=services.make_id,
    )
    app.include_router(create_router(answering))
    middleware.install_direct(app, answering)
    return app


def _ready(services: Services) -> ReadyCheck:
    async def ready() -> Readiness:
        """Ready while events can be made durable; everything after that catches up."""
        problems = await checks.problems(
            spool=services.delivery.check,
            events=services.sink.check,
            signals=services.signals.check,
            trending=services.trending.check,
        )
        return Readiness("spool" not in problems, sorted(problems), problems)

    return ready
