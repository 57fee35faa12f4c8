"""What `benchmarks/ingest.py` serves: the ingest app as it is, with parts taken out, and the floors below it.

python -m benchmarks.ingest_apps NAME PORT     with PINGFEED_HOME in the environment; see `APPS`
"""

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ingest_api import wiring
from ingest_api.app import create_app
from pingfeed.core.events import Row
from pingfeed.ports import SinkCounters
from pingfeed.settings import Settings, load
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.spool import Spool
from pingfeed.spool.stats import Counters
from pingfeed.telemetry import configure_logs
from pingfeed.web import server
from pingfeed.web.app import create_shell
from pingfeed.web.health import Readiness
from pingfeed.web.metrics import Metrics

ANSWER: Final = b'{"accepted":1,"duplicates":0,"rejected":[]}'


class NotDurable:
    """In the place of `Delivery`: takes everything, keeps nothing."""

    counters = Counters()
    sink_counters = SinkCounters()

    async def start(self) -> None: ...

    async def accept(self, rows: Sequence[Row]) -> None: ...

    async def check(self) -> None: ...

    async def close(self) -> None: ...


class NoSignals:
    """In the place of the signal writer."""

    trending_failures = 0

    async def __call__(self, rows: Sequence[Row]) -> None: ...


def _whole(settings: Settings) -> FastAPI:
    return create_app(wiring.build(settings), settings)


def _without_signals(settings: Settings) -> FastAPI:
    services = wiring.build(settings)
    delivery = Delivery(
        Spool(settings.spool_dir / "without-signals"),
        services.sink,
        apply=NoSignals(),
        flush_seconds=settings.sink_flush_seconds,
    )
    return create_app(replace(services, delivery=delivery), settings)


def _without_durability(settings: Settings) -> FastAPI:
    delivery: Any = NotDurable()
    return create_app(replace(wiring.build(settings), delivery=delivery), settings)


def _bare_fastapi(_: Settings) -> FastAPI:
    """A POST that does nothing."""
    app = FastAPI()

    @app.post("/track-event")
    @app.post("/track-events")
    async def post() -> Response:
        return Response(ANSWER, 202, media_type="application/json")

    return app


def _shell(settings: Settings) -> FastAPI:
    """The same, in the shell that both services share: request ids, counts, errors."""

    async def ready() -> Readiness:
        return Readiness(True)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield

    bare = _bare_fastapi(settings)
    app = create_shell("floor", "", settings, lifespan=lifespan, ready=ready, metrics=Metrics())
    app.include_router(bare.router)
    return app


class _Drain(FastAPI):
    """A bare ASGI app that reads the body and answers."""

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})


APPS: Final = {
    "drain": lambda _: _Drain(),
    "fastapi": _bare_fastapi,
    "shell": _shell,
    "not durable": _without_durability,
    "durable": _without_signals,
    "durable, signals": _whole,
}


def main() -> None:
    name, port = sys.argv[1:]
    configure_logs()
    server.run(lambda: APPS[name](load(os.environ)), "127.0.0.1", int(port))


if __name__ == "__main__":
    main()
