"""Request ids, health, metrics and the docs: what every service has around its routes."""

import asyncio
import json
import logging
import re
from typing import Any
from unittest.mock import AsyncMock

import pytest
from starlette.types import Message, Receive, Scope, Send

from pingfeed import telemetry
from pingfeed.web.health import Readiness
from pingfeed.web.metrics import Metrics
from pingfeed.web.middleware import OutermostLayer
from tests.unit.http_shell import ask, client_of, shell

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


async def test_a_valid_request_id_is_kept() -> None:
    answer = await ask("GET", "/healthz", {"X-Request-Id": "trace:1.2@app"})
    assert answer.headers["x-request-id"] == "trace:1.2@app"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, 'quo"te', "line\u00e9"])
async def test_any_other_request_id_is_replaced(given: str) -> None:
    answer = await ask("GET", "/nowhere", {b"X-Request-Id": given.encode("latin-1")})
    assert UUID7.fullmatch(answer.headers["x-request-id"])
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_log_lines_carry_the_id_of_their_request() -> None:
    lines: list[dict[str, Any]] = []

    class Capture(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(telemetry.JsonFormatter().format(record)))

    handler = Capture()
    logging.getLogger().addHandler(handler)
    try:
        async with client_of(shell()) as client:
            ids = [f"request-{i}" for i in range(5)]
            await asyncio.gather(*(client.get("/raise/bug", headers={"X-Request-Id": i}) for i in ids))
    finally:
        logging.getLogger().removeHandler(handler)
    assert sorted(line["request_id"] for line in lines if line["level"] == "error") == ids
    assert telemetry.request_id.get() is None


async def test_an_error_after_the_response_began_is_logged_and_raised() -> None:
    async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("half a response")

    send = AsyncMock()
    layer = OutermostLayer(breaks_off, metrics=Metrics())
    with pytest.raises(RuntimeError):
        await layer({"type": "http", "method": "GET", "path": "/", "headers": []}, AsyncMock(), send)
    assert [call.args[0]["type"] for call in send.call_args_list] == ["http.response.start"]


async def test_healthz_is_alive() -> None:
    answer = await ask("GET", "/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
async def test_readyz_reports_readiness_and_what_is_missing(ready: bool, status: int) -> None:
    async with client_of(shell(Readiness(ready, ["model"], {"model": "none is live"}))) as client:
        answer = await client.get("/readyz")
    word = "ready" if ready else "unready"
    assert answer.status_code == status
    assert answer.json() == {"status": word, "degraded": ["model"], "detail": {"model": "none is live"}}


async def test_metrics_count_requests_by_template_never_by_value() -> None:
    app = shell()
    async with client_of(app) as client:
        for path in ("/raise/bug", "/raise/invalid", "/nowhere/1", "/nowhere/2"):
            await client.get(path)
        text = (await client.get("/metrics")).text
    assert 'pingfeed_http_requests_total{method="GET",route="/raise/{name}",status="500"} 1.0' in text
    assert 'pingfeed_http_requests_total{method="GET",route="unmatched",status="404"} 2.0' in text
    assert "nowhere" not in text


async def test_two_apps_share_no_number() -> None:
    async with client_of(shell()) as one, client_of(shell()) as other:
        await one.get("/healthz")
        assert 'route="/healthz"' not in (await other.get("/metrics")).text


def test_a_number_kept_elsewhere_is_read_when_scraped() -> None:
    metrics, kept = Metrics(), {"n": 1}
    metrics.counted("things", "Things", lambda: kept["n"])
    kept["n"] = 5
    assert b"pingfeed_things_total 5.0" in metrics.render()


async def test_docs_load_nothing_from_another_host() -> None:
    async with client_of(shell()) as client:
        page = (await client.get("/docs")).text
        assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+", page)
        assert '"validatorUrl": null' in page
        linked = re.findall(r'(?:src|href)="([^"]+)"', page) + re.findall(r"url: '([^']+)'", page)
        assert len(linked) >= 4
        for path in linked:
            answer = await client.get(path)
            assert answer.status_code == 200, path
        assert (await client.get("/redoc")).status_code == 404


async def test_docs_need_no_lifespan_and_name_every_schema() -> None:
    document = (await ask("GET", "/openapi.json")).json()
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert {"HealthBody", "ReadyBody"} <= named


async def test_a_client_may_disconnect_before_its_response() -> None:
    """`httpx` cannot disconnect early over ASGI, so the app is called directly."""
    app, send = shell(), AsyncMock()
    begun: Message = {"type": "http.request", "body": b"{", "more_body": True}
    scope = {"type": "http", "method": "POST", "path": "/body", "root_path": "", "query_string": b"", "headers": []}
    await app(scope, AsyncMock(side_effect=[begun, {"type": "http.disconnect"}]), send)
    async with client_of(app) as client:
        assert 'route="/body",status="499"} 1.0' in (await client.get("/metrics")).text
    send.assert_not_called()
