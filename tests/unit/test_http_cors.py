"""Pages of other origins: only the listed ones may call."""

import pytest

from tests.unit.http_shell import ask

PAGE = "http://127.0.0.1:8001"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,x-api-key",
}


async def test_without_the_setting_no_origin_is_allowed() -> None:
    answer = await ask("GET", "/healthz", {"Origin": PAGE})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    assert (await ask("OPTIONS", "/body", PREFLIGHT)).status_code == 405


async def test_a_listed_origin_may_post_json_with_a_key() -> None:
    answer = await ask("OPTIONS", "/body", PREFLIGHT, CORS_ORIGINS=f"{PAGE},https://app.example")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert {"content-type", "x-api-key"} <= set(answer.headers["access-control-allow-headers"].lower().split(", "))


async def test_another_origin_is_not_allowed() -> None:
    answer = await ask("GET", "/healthz", {"Origin": "http://127.0.0.1:9999"}, CORS_ORIGINS=PAGE)
    assert "access-control-allow-origin" not in answer.headers
    rejected = await ask("OPTIONS", "/body", PREFLIGHT | {"Origin": "https://evil.example"}, CORS_ORIGINS=PAGE)
    assert rejected.status_code == 400
    assert rejected.json()["error"] == {"code": "forbidden", "message": "Disallowed CORS origin", "field": None}
    assert rejected.json()["request_id"] == rejected.headers["x-request-id"]


@pytest.mark.parametrize(("name", "status"), [("unavailable", 503), ("bug", 500)])
async def test_a_page_can_read_errors_and_when_to_come_back(name: str, status: int) -> None:
    answer = await ask("GET", f"/raise/{name}", {"Origin": PAGE}, CORS_ORIGINS=PAGE)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "Retry-After" in answer.headers["access-control-expose-headers"]


async def test_no_origin_gets_a_users_cookies() -> None:
    answer = await ask("GET", "/healthz", {"Origin": PAGE}, CORS_ORIGINS="*")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
