"""The feed service: turns a packet, a snapshot and a user's signals into a page of pings."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI

from feed_api.admission import Admission
from feed_api.artifact_loader import ArtifactLoader
from feed_api.demo_page import routes as demo_page
from feed_api.metrics import FeedMetrics
from feed_api.pipeline import Pipeline
from feed_api.request_refresh import RequestRefresh
from feed_api.routes import TYPES, create_router, handlers
from feed_api.stages.log_served import ServedLog
from feed_api.trending_cache import TrendingCache
from feed_api.wiring import Services
from pingfeed import checks
from pingfeed.ports import PacketCache
from pingfeed.settings import Settings
from pingfeed.spool.tasks import Repeated
from pingfeed.web import middleware
from pingfeed.web.app import create_shell
from pingfeed.web.health import Readiness, ReadyCheck
from pingfeed.web.metrics import Metrics
from pingfeed.web.peers import Peers

_DESCRIPTION: Final = (
    "Ranks a page of pings for a user, from candidates prepared by the batch side, the live model and what the user "
    "did seconds ago. **Every valid request gets a feed**: `degraded` names the parts that were unavailable."
)
_NO_SNAPSHOT: Final = "none is published: run `pingfeed tick`"
_NO_MODEL: Final = "none is live: the fallback ranker serves"


def create_app(services: Services, settings: Settings, shell_metrics: Metrics | None = None) -> FastAPI:
    """The app around opened services; its lifespan warms it up, refreshes it and closes them."""
    shell_metrics = shell_metrics or Metrics()
    metrics = FeedMetrics(shell_metrics)
    metrics.watch(services.delivery)
    peers = Peers(services.worker, shell_metrics.render) if services.worker else None
    if isinstance(services.candidates, PacketCache):
        metrics.watch_cache(services.candidates)
    loader = ArtifactLoader(services.artifacts, settings.features, metrics)
    trending = TrendingCache(services.trending, services.clock, metrics)
    served_log = ServedLog(services.delivery, services.acts, metrics, services.make_id, settings.log_matrix_share)
    tasks: tuple[Repeated, ...] = ()
    in_requests: RequestRefresh | None = None
    if services.in_request:
        in_requests = RequestRefresh(loader, trending, services.clock, metrics, old_ms=settings.tick_ms)
    else:
        tasks = (
            Repeated("loader", loader.refresh, services.refresh_s),
            Repeated("trending cache", trending.refresh, services.trending_s, trending.wanted),
        )
    metrics.watch_tasks(lambda: sum(task.failures for task in tasks))
    pipeline = Pipeline(
        settings=settings,
        candidates=services.candidates,
        signals=services.signals,
        loader=loader,
        trending=trending,
        log_served=served_log,
        metrics=metrics,
        monotonic=services.monotonic,
        refresh=in_requests,
    )

    async def warm_up() -> None:
        """Load what is live, and open the clients, which takes longer than a request's budget; /readyz checks again."""
        try:
            await asyncio.gather(
                in_requests.start() if in_requests else asyncio.gather(loader.refresh(), trending.refresh()),
                checks.problems(
                    candidates=services.candidates.check,
                    signals=services.signals.check,
                    spool=services.delivery.check,
                ),
            )
        finally:
            pipeline.warm_up(services.clock())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await services.delivery.start()
            if services.publisher is not None:
                services.publisher.start()
            await warm_up()
            for task in tasks:
                task.start()
            for delivery, publisher in services.left:
                await delivery.start()
                publisher.start()
            if peers is not None:
                shell_metrics.render_all = peers.render
                await peers.start()
            yield
        finally:
            if peers is not None:
                await peers.close()
            for task in tasks:
                await task.stop()
            # Served feeds go into the spool before it closes; closing it still applies them to the signals.
            await served_log.drain()
            await services.delivery.close()
            if services.publisher is not None:
                await services.publisher.close()
            for delivery, publisher in services.left:
                await delivery.close()
                await publisher.close()
            for store in (services.candidates, services.signals, services.trending, services.artifacts):
                await store.close()

    app = create_shell(
        "pingfeed feed",
        _DESCRIPTION,
        settings,
        lifespan=lifespan,
        ready=_ready(services, loader, tasks),
        metrics=shell_metrics,
        types=TYPES,
        clock=services.clock,
        make_id=services.make_id,
    )
    app.state.warm_up = warm_up
    admission = Admission(settings.feed_budget_ms / 1000, monotonic=services.monotonic, shed=metrics.shed.inc)
    routes = handlers(pipeline, admission, services.clock, services.make_id)
    app.include_router(create_router(routes))
    middleware.install_direct(app, routes)
    if settings.demo_page:
        app.include_router(demo_page.create_router(services, settings, loader))
    return app


def _ready(services: Services, loader: ArtifactLoader, tasks: tuple[Repeated, ...]) -> ReadyCheck:
    async def ready() -> Readiness:
        """Ready while the background tasks run; any other missing part only degrades the feed."""
        stopped = {task.name: "is not running" for task in tasks if not task.alive}
        problems = stopped | await checks.problems(
            candidates=services.candidates.check,
            signals=services.signals.check,
            trending=services.trending.check,
            artifacts=services.artifacts.check,
            spool=services.delivery.check,
        )
        if problem := loader.problem("snapshot") or (not loader.live.has_snapshot and _NO_SNAPSHOT):
            problems["snapshot"] = problem
        if problem := loader.problem("model") or (not loader.live.has_model and _NO_MODEL):
            problems["model"] = problem
        return Readiness(not stopped, sorted(problems), problems)

    return ready
