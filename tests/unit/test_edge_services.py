"""Both services at their edge, over real sockets: unknown parameters, prefixes, and web pages without credentials."""

import json
from pathlib import Path

import pytest

from tests.unit.feed_world import catalogue, feed_world
from tests.unit.ingest_world import ingest_world
from tests.unit.test_edge import check_error, serving, talk

BODY = b'{"event_type":"follow","user_id":"u","creator_id":"c"}'


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()


def post(*headers: str, path: str = "/track-event") -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    length = len(BODY)
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n{lines}\r\n"
    return head.encode() + BODY


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/get-feed?user_id=u&langage=de", "langage"),
        ("/get-feed?user_id=u&curser=y&explain=0", "curser"),
        ("/get-feed?user_id=u&%ED%A0%80=y", None),
        ("/demo/person?user_id=u&x=1", "x"),
        ("/demo/pings?id=u", "id"),
        ("/demo/system?countri=DE", "countri"),
        ("/demo/people?x=1", "x"),
        ("/demo/about?x=1", "x"),
    ],
)
async def test_an_unknown_query_parameter_is_named(tmp_path: Path, path: str, field: str | None) -> None:
    async with feed_world(tmp_path, catalogue(20), environ={"DEMO_PAGE": "1"}) as world, serving(world.app) as port:
        error = check_error(await talk(port, get(path)), 422, "unknown_parameter")["error"]
        assert field is None or error["field"] == field


async def test_a_query_parameter_that_is_given_twice_is_named(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(20)) as world, serving(world.app) as port:
        answer = await talk(port, get("/get-feed?user_id=u&limit=5&limit=7"))
        assert check_error(answer, 422, "invalid_value")["error"]["field"] == "limit"


async def test_head_of_a_feed_has_no_body(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(20)) as world, serving(world.app) as port:
        answer = await talk(port, get("/get-feed?user_id=u").replace(b"GET", b"HEAD"))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_services_answer_under_the_root_path(tmp_path: Path, prefix: str) -> None:
    async with (
        ingest_world(tmp_path, environ={"ROOT_PATH": "/api"}) as ingest,
        feed_world(tmp_path / "feed", catalogue(20), environ={"ROOT_PATH": "/api"}) as feed,
        serving(ingest.app) as ingest_port,
        serving(feed.app) as feed_port,
    ):
        assert (await talk(ingest_port, post(path=f"{prefix}/track-event"))).startswith(b"HTTP/1.1 202 ")
        assert (await talk(feed_port, get(f"{prefix}/get-feed?user_id=u"))).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((), 202),
        (("Content-Type: application/json",), 202),
        (("Content-Type: application/x-www-form-urlencoded",), 202),  # what curl -d sends
        (("Content-Type: application/json", "Origin: https://app.example"), 202),
        (("Content-Type: text/plain;charset=UTF-8",), 415),
        (("Content-Type: multipart/form-data; boundary=x",), 415),
        (("Content-Type: text/plain", "Origin: https://evil.example"), 403),
        (("Content-Type: application/x-www-form-urlencoded", "Origin: https://evil.example"), 403),
        (("Origin: null",), 403),
    ],
)
async def test_a_web_page_cannot_post_without_credentials(
    tmp_path: Path, headers: tuple[str, ...], status: int
) -> None:
    environ = {"CORS_ORIGINS": "https://app.example"}
    async with ingest_world(tmp_path, environ=environ) as world, serving(world.app) as port:
        answer = await talk(port, post(*headers))
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert len(world.spooled()) == (status == 202)


async def test_an_unknown_parameter_of_an_event_is_named(tmp_path: Path) -> None:
    async with ingest_world(tmp_path) as world, serving(world.app) as port:
        answer = await talk(port, post(path="/track-event?user_id=u"))
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["field"] == "user_id"
