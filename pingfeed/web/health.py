"""/healthz (the process lives), /readyz (it may get traffic) and /metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from pingfeed.core.errors import PingfeedError
from pingfeed.web.auth import require_operator
from pingfeed.web.metrics import CONTENT_TYPE, Metrics
from pingfeed.web.openapi import answer
from pingfeed.web.responses import json_response


@dataclass(frozen=True)
class Readiness:
    """Whether a service may get traffic, and what it does without meanwhile.

    `degraded` names parts that are missing while requests are still answered; `detail` says why, by part.
    """

    ready: bool
    degraded: Sequence[str] = ()
    detail: Mapping[str, str] = field(default_factory=dict)


LOOK_S: Final = 2.0
"""How long a part may take to answer before it counts as missing: a probe of the whole service has little patience."""


async def look(problems: dict[str, str], **checks: Awaitable[None]) -> None:
    """Note in `problems`, by part, why it is not available, if it is not. All are looked at at once."""

    async def one(part: str, check: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                await check
        except TimeoutError:
            problems[part] = f"did not answer within {LOOK_S:g} s"
        except PingfeedError as error:
            problems[part] = error.message

    await asyncio.gather(*(one(part, check) for part, check in checks.items()))


ReadyCheck = Callable[[], Awaitable[Readiness]]


class HealthBody(msgspec.Struct, frozen=True):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class ReadyBody(msgspec.Struct, frozen=True):
    """Whether the service may get traffic; `degraded` names what it does without, `detail` says why."""

    status: Literal["ready", "unready"]
    degraded: list[str]
    detail: dict[str, str]


def install(app: FastAPI, ready: ReadyCheck, metrics: Metrics) -> None:
    """Add the three routes."""

    @app.get("/healthz", tags=["health"], summary="Is the process alive?", responses={200: answer(HealthBody)})
    async def healthz() -> Response:
        return json_response(HealthBody())

    @app.get(
        "/readyz",
        tags=["health"],
        summary="May it get traffic?",
        responses={200: answer(ReadyBody), 503: answer(ReadyBody, meaning="not ready")},
    )
    async def readyz() -> Response:
        found = await ready()
        body = ReadyBody("ready" if found.ready else "unready", list(found.degraded), dict(found.detail))
        return json_response(body, 200 if found.ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def prometheus(request: Request) -> Response:
        await require_operator(request, "/metrics")
        return Response(metrics.render(), media_type=CONTENT_TYPE)
