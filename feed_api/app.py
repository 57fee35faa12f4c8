"""The feed service: a packet, a snapshot and a user's signals become a page of pings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI

from feed_api.artifact_loader import Loader
from feed_api.cursor import Cursors
from feed_api.demo_page import routes as demo_page
from feed_api.metrics import FeedMetrics
from feed_api.pipeline import Pipeline
from feed_api.routes import TYPES, create_router, handlers
from feed_api.stages.log_served import Effects
from feed_api.trending_cache import TrendingBoard
from feed_api.wiring import Services
from pingfeed import checks
from pingfeed.ports import PacketCache
from pingfeed.settings import Settings
from pingfeed.spool.tasks import Repeated
from pingfeed.web import direct
from pingfeed.web.app import create_shell
from pingfeed.web.health import Readiness, ReadyCheck
from pingfeed.web.metrics import Metrics

_DESCRIPTION: Final = (
    "Ranks a page of pings for a user: by what the batch side prepared for them, by the live model, and by what they "
    "did seconds ago. **It always answers**: `degraded` names what it had to do without."
)


def create_app(services: Services, settings: Settings) -> FastAPI:
    """The app around opened services; its lifespan warms it up, keeps it current and closes them."""
    shell_metrics = Metrics()
    metrics = FeedMetrics(shell_metrics)
    metrics.watch(services.delivery)
    if isinstance(services.candidates, PacketCache):
        metrics.watch_cache(services.candidates)
    cursors = Cursors(settings)
    loader = Loader(services.artifacts, settings.features, metrics)
    board = TrendingBoard(services.trending, services.clock, metrics)
    effects = Effects(services.delivery, services.acts, metrics, services.make_id, settings.log_matrix_share)
    pipeline = Pipeline(
        settings=settings,
        candidates=services.candidates,
        signals=services.signals,
        loader=loader,
        board=board,
        effects=effects,
        cursors=cursors,
        metrics=metrics,
        monotonic=services.monotonic,
    )
    keepers = (
        Repeated("loader", loader.refresh, services.refresh_s),
        Repeated("trending board", board.refresh, services.trending_s, board.wanted),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await services.delivery.start()
            if services.publisher is not None:
                services.publisher.start()
            await loader.refresh()
            await board.refresh()
            # Opens their clients, which takes longer than a first request may. What is down is looked at again.
            await checks.problems(candidates=services.candidates.check, signals=services.signals.check)
            pipeline.warm_up(services.clock())
            for keeper in keepers:
                keeper.start()
            yield
        finally:
            for keeper in keepers:
                await keeper.stop()
            # What was served goes into the spool before the spool closes; that applies through the signals.
            await effects.drain()
            await services.delivery.close()
            if services.publisher is not None:
                await services.publisher.close()
            for store in (services.candidates, services.signals, services.trending, services.artifacts):
                await store.close()

    app = create_shell(
        "pingfeed feed",
        _DESCRIPTION,
        settings,
        lifespan=lifespan,
        ready=_ready(services, loader, keepers),
        metrics=shell_metrics,
        types=TYPES,
        clock=services.clock,
        make_id=services.make_id,
    )
    answering = handlers(pipeline, cursors, services.clock, services.make_id)
    app.include_router(create_router(answering))
    direct.install(app, answering)
    if settings.demo_page:
        app.include_router(demo_page.create_router(services, settings, loader))
    return app


def _ready(services: Services, loader: Loader, keepers: tuple[Repeated, ...]) -> ReadyCheck:
    async def ready() -> Readiness:
        """Ready once warmed up; every part that is missing is done without."""
        stopped = {keeper.name: "is not running" for keeper in keepers if not keeper.alive}
        problems = stopped | await checks.problems(
            candidates=services.candidates.check,
            signals=services.signals.check,
            trending=services.trending.check,
            artifacts=services.artifacts.check,
            spool=services.delivery.check,
        )
        if not loader.live.has_snapshot:
            problems["snapshot"] = "none is published: run `pingfeed tick`"
        if not loader.live.has_model:
            problems["model"] = "none is live: the fallback ranker serves"
        return Readiness(not stopped, sorted(problems), problems)

    return ready
