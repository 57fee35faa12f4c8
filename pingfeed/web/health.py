"""/healthz (liveness), /readyz (readiness; the service hands its checks in) and /metrics."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from pingfeed.web.auth import authenticator_of, require_operator
from pingfeed.web.errors import json_response
from pingfeed.web.metrics import CONTENT_TYPE, Metrics
from pingfeed.web.openapi import answer


@dataclass(frozen=True)
class Readiness:
    """Whether a service can take traffic, and which parts it runs without.

    `degraded` names the parts that are unavailable while requests are still answered; `detail` says why, by part.
    """

    ready: bool
    degraded: Sequence[str] = ()
    detail: Mapping[str, str] = field(default_factory=dict)


ReadyCheck = Callable[[], Awaitable[Readiness]]


def with_keys(ready: ReadyCheck, problem: Callable[[], str | None]) -> ReadyCheck:
    """`ready`, which also names `keys` while the keys of tokens cannot be refreshed."""

    async def also() -> Readiness:
        found, why = await ready(), problem()
        return (
            found if why is None else Readiness(found.ready, [*found.degraded, "keys"], {**found.detail, "keys": why})
        )

    return also


class HealthBody(msgspec.Struct, frozen=True):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class ReadyBody(msgspec.Struct, frozen=True):
    """Whether the service can take traffic; `degraded` names unavailable parts, `detail` tells operators why."""

    status: Literal["ready", "unready"]
    degraded: list[str]
    detail: dict[str, str]


def install(app: FastAPI, ready: ReadyCheck, metrics: Metrics) -> None:
    """Add the three routes."""

    @app.get("/healthz", tags=["health"], summary="Liveness", responses={200: answer(HealthBody)})
    async def healthz() -> Response:
        return json_response(HealthBody())

    @app.get(
        "/readyz",
        tags=["health"],
        summary="Readiness",
        responses={200: answer(ReadyBody), 503: answer(ReadyBody, meaning="not ready")},
    )
    async def readyz(request: Request) -> Response:
        found = await ready()
        # The reasons may name hosts and paths.
        detail = dict(found.detail) if await authenticator_of(request).is_operator(request.scope) else {}
        body = ReadyBody("ready" if found.ready else "unready", list(found.degraded), detail)
        return json_response(body, 200 if found.ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def prometheus(request: Request) -> Response:
        await require_operator(request, "/metrics")
        return Response(await metrics.render_all(), media_type=CONTENT_TYPE)
