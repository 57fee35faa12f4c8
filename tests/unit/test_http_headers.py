"""Headers for browsers: on every answer, whatever became of the request."""

import base64
import hashlib
import re
from pathlib import Path

import pytest

from pingfeed.web.middleware import SECURITY
from tests.unit.feed_world import feed_world
from tests.unit.http_shell import ask, client_of, shell

POLICY = "content-security-policy"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nowhere", 404),
        ("DELETE", "/healthz", 405),
        ("GET", "/limited", 422),
        ("GET", "/raise/bug", 500),
        ("GET", "/raise/unavailable", 503),
    ],
)
async def test_every_answer_has_them_once(method: str, path: str, status: int) -> None:
    async with client_of(shell(CORS_ORIGINS="*")) as client:
        answer = await client.request(method, path, headers={"Origin": "https://app.example"})
    assert answer.status_code == status
    for name, value in SECURITY:
        assert answer.headers.get_list(name.decode()) == [value.decode()]


async def test_a_preflight_has_them_too() -> None:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answer = await ask("OPTIONS", "/body", headers, CORS_ORIGINS="*")
    assert answer.status_code == 200
    assert {name.decode() for name, _ in SECURITY} <= set(answer.headers)


async def test_the_docs_run_their_own_script_and_no_other() -> None:
    async with client_of(shell()) as client:
        page = await client.get("/docs")
        (script,) = re.findall(rb"<script>(.*?)</script>", page.content, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
        (policy,) = page.headers.get_list(POLICY)
        assert f"script-src 'self' 'sha256-{digest}';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy
        for path in re.findall(rb'(?:src|href)="([^"]+)"', page.content):
            assert (await client.get(path.decode())).status_code == 200


async def test_the_demo_page_keeps_its_own_policy(tmp_path: Path) -> None:
    async with feed_world(tmp_path, DEMO_PAGE="1") as world:
        page = await world.client.get("/")
        (policy,) = page.headers.get_list(POLICY)
        assert "script-src 'sha256-" in policy
        assert page.headers.get_list("x-frame-options") == ["DENY"]
        assert page.headers.get_list("cache-control") == ["no-cache"]
