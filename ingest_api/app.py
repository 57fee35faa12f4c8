"""The ingest service: events in, durable and applied before they are acknowledged."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI

from ingest_api.counters import Counters, watch
from ingest_api.receiver import EventReceiver
from ingest_api.routes import TYPES, create_router, handlers
from ingest_api.wiring import Services
from pingfeed import checks
from pingfeed.settings import Settings
from pingfeed.web import middleware
from pingfeed.web.app import create_shell
from pingfeed.web.health import Readiness, ReadyCheck
from pingfeed.web.metrics import Metrics

_DESCRIPTION: Final = (
    "Takes what users do and what creators publish. **202 means durable and applied**: the next feed knows of it, and "
    "no crash loses it. An event that is refused is refused alone, with its reason."
)


def create_app(services: Services, settings: Settings, metrics: Metrics | None = None) -> FastAPI:
    """The app around opened services; its lifespan starts their work and closes them. `metrics` is what it counts."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await services.delivery.start()
            for part in (services.shipper, services.publisher):
                if part is not None:
                    part.start()
            yield
        finally:
            # Delivery first: it flushes through the sink (which it closes) and applies through the other two.
            await services.delivery.close()
            for part in (services.shipper, services.publisher):
                if part is not None:
                    await part.close()
            await services.rejected.close()
            await services.signals.close()
            await services.trending.close()

    metrics = metrics or Metrics()
    watch(metrics, services)
    door = EventReceiver(
        delivery=services.delivery,
        rejected=services.rejected,
        counters=Counters(metrics),
        clock=services.clock,
        make_id=services.make_id,
    )
    answering = handlers(door)
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
        """Ready while events can be made durable; what comes after that is caught up with."""
        problems = await checks.problems(
            spool=services.delivery.check,
            events=services.sink.check,
            signals=services.signals.check,
            trending=services.trending.check,
        )
        return Readiness("spool" not in problems, sorted(problems), problems)

    return ready
