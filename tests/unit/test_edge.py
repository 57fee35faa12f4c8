"""What a client may do to a service before it is authenticated, over real sockets."""

import asyncio
import json
import logging
import re
import resource
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request

from pingfeed.web import protocol, server
from pingfeed.web.middleware import ARRIVED_NS
from pingfeed.web.protocol import Limits
from tests.unit.http_shell import shell

QUICK = Limits(head_s=0.2, body_s=0.3, linger_s=0.2, sweep_s=0.02, log_s=0.05, connections=20)
POST = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def serving(app: FastAPI, limits: Limits = QUICK) -> AsyncIterator[int]:
    """The port at which the app answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, access_log=False)
    running = server.Server(config, limits)
    task = asyncio.create_task(running.serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        running.should_exit = running.force_exit = True
        await task


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serving(shell()) as found:
        yield found


async def talk(port: int, *parts: bytes, pause_s: float = 0) -> bytes:
    """Everything that the service sends until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(reader.read())
    try:
        for part in parts:
            if answer.done():
                break
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        return await asyncio.wait_for(answer, 5)
    finally:
        answer.cancel()
        writer.close()


def check_error(answer: bytes, status: int, code: str) -> dict[str, Any]:
    """The answer is an error of the one shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"content-type: application/json" in head
    found: dict[str, Any] = json.loads(body)
    assert found["error"]["code"] == code
    assert found["request_id"].encode() in head
    return found


@pytest.mark.parametrize("protocol_name", [b"h2c", b"websocket", b"TLS/1.0"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_offer_to_upgrade_is_ignored(port: int, protocol_name: bytes, framing: str) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol_name + b"\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    body = (
        b"Content-Length: 3\r\n\r\nabc"
        if framing == "length"
        else b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    answer = await talk(port, b"POST /body HTTP/1.1\r\nHost: a\r\n" + offer + body + HEALTH)
    first, second = re.findall(rb"HTTP/1.1 (\d+) ", answer)
    assert (first, second) == (b"200", b"200"), answer
    assert b"\r\n\r\nabc" in answer


async def test_an_upgrades_body_may_come_later(port: int) -> None:
    head = b"POST /body HTTP/1.1\r\nHost: a\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n"
    assert (await talk(port, head, b"ab", b"c", pause_s=0.02)).endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize(
    "parts",
    [
        [b"POST /body HTTP/1.1\r\nHo"],
        [b"X", *[b"Y"] * 40],
        [POST % 5 + b"ab"],
        [POST % 1000, *[b"a"] * 60],
        [b"POST /body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\na\r\n"] * 60],
    ],
    ids=["half head", "slow head", "half body", "slow body", "slow chunks"],
)
async def test_a_request_has_a_deadline(port: int, parts: Sequence[bytes]) -> None:
    began = time.monotonic()
    answer = await asyncio.wait_for(talk(port, *parts, pause_s=0.02), 5)
    if parts[0] == b"X":
        assert answer[9:12] in (b"400", b"408")
    else:
        check_error(answer, 408, "timeout")
    assert time.monotonic() - began < 3


async def test_a_connection_that_sends_nothing_is_closed(port: int) -> None:
    assert await asyncio.wait_for(talk(port), 3) == b""


@pytest.mark.parametrize("half", [b"POST /body HTTP/1.1\r\nHo", POST % 9 + b"a", b""], ids=["head", "body", "nothing"])
async def test_idle_connections_lock_no_client_out(half: bytes, caplog: pytest.LogCaptureFixture) -> None:
    patient = Limits(sweep_s=0.02, log_s=0.05, connections=20)
    began = time.monotonic()
    async with serving(shell(), patient) as port:
        held = []
        for _ in range(100):
            held.append(await asyncio.open_connection("127.0.0.1", port))
            held[-1][1].write(half)
        for _ in range(20):
            assert (await talk(port, HEALTH)).startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(0.15)
        for _, writer in held:
            writer.close()
    lines = [record.getMessage() for record in caplog.records if record.name == protocol.__name__]
    assert any("too many connections: " in line for line in lines)
    assert len(lines) < 3 + (time.monotonic() - began) / patient.log_s, "one line an interval"


def test_the_cap_on_connections_follows_the_limit_of_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        assert Limits().connections == 32
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


_START = b"POST /body HTTP/1.1\r\nHost: a\r\n"
_CHUNKED = _START + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "endless"),
    [
        (_START, b"a: b\r\n" * 100),
        (_START + b"X-Long: ", b"a" * 8192),
        (b"GET /", b"a" * 8192),
        (_START + b"X" * 10, b"a" * 8192),
        (_CHUNKED + b"1;", b"a" * 8192),
        (_CHUNKED, b"1;aaaaaaaaa\r\nb\r\n" * 100),
        (_CHUNKED + b"0\r\n", b"a: b\r\n" * 100),
        (_CHUNKED + b"0\r\nX-Long: ", b"a" * 8192),
    ],
    ids=["headers", "value", "url", "name", "chunk extension", "chunk extensions", "trailers", "trailer"],
)
async def test_headers_are_limited_while_they_arrive(start: bytes, endless: bytes) -> None:
    async with serving(shell(), Limits(sweep_s=0.02)) as port:
        check_error(await talk(port, start, *[endless] * 30), 431, "headers_too_large")
        assert (await talk(port, HEALTH)).startswith(b"HTTP/1.1 200 ")


async def test_a_whole_head_over_the_limit_never_reaches_the_app(port: int) -> None:
    check_error(
        await talk(port, b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n"), 431, "headers_too_large"
    )
    hundred = b"".join(b"X-%d: a\r\n" % n for n in range(99))
    assert (await talk(port, HEALTH[:-2] + hundred[: hundred.index(b"X-98")] + b"\r\n")).startswith(b"HTTP/1.1 200 ")
    check_error(await talk(port, HEALTH[:-2] + hundred + b"\r\n"), 431, "headers_too_large")


async def test_trailers_are_not_headers(port: int) -> None:
    app = shell()

    @app.post("/names")
    async def names(request: Request) -> list[str]:
        await request.body()
        return list(request.headers)

    async with serving(app) as port:
        head = b"POST /names HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await talk(port, head + b"1\r\na\r\n", b"0\r\nX-API-Key: a\r\n\r\n", pause_s=0.02)
    assert b"x-api-key" not in answer


async def test_more_requests_at_once_than_the_cap_get_a_503() -> None:
    app, go = shell(), asyncio.Event()

    @app.get("/wait")
    async def wait() -> str:
        await go.wait()
        return "done"

    request = b"GET /wait HTTP/1.1\r\nConnection: close\r\n\r\n"
    async with serving(app, Limits(in_flight=2, sweep_s=0.02)) as port:
        slow = [asyncio.create_task(talk(port, POST % 9)) for _ in range(5)]
        waiting = [asyncio.create_task(talk(port, request)) for _ in range(2)]
        await asyncio.sleep(0.1)
        answer = await talk(port, request)
        check_error(answer, 503, "unavailable")
        assert re.search(rb"\r\nretry-after: [123]\r\n", answer.lower())
        assert (await talk(port, HEALTH)).startswith(b"HTTP/1.1 200 ")
        go.set()
        assert all(one.startswith(b"HTTP/1.1 200 ") for one in await asyncio.gather(*waiting))
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_a_request_arrives_when_the_kernel_has_it_not_when_the_loop_reads_it() -> None:
    app = shell()

    @app.get("/waited")
    async def waited(request: Request) -> float:
        return (time.monotonic_ns() - int(request.scope["state"][ARRIVED_NS])) / 1e9

    async with serving(app) as port:
        for new in (True, False):  # the connection's first request waits to be accepted too
            if new:
                sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(b"GET /waited HTTP/1.1\r\nHost: a\r\n\r\n")
            time.sleep(0.2)  # noqa: ASYNC251 - the loop is busy
            answer = b""
            while not answer.partition(b"\r\n\r\n")[2]:
                answer += await asyncio.to_thread(sock.recv, 65536)
            assert float(answer.rpartition(b"\r\n\r\n")[2]) > 0.15, answer
        sock.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_malformed_http_gets_the_one_error_shape(port: int, garbage: bytes) -> None:
    status, code = (405, "method_not_allowed") if garbage.startswith(b"CONNECT") else (400, "malformed_http")
    check_error(await talk(port, garbage), status, code)


async def test_a_range_of_a_static_file_is_ignored(port: int) -> None:
    answer = await talk(port, b"GET /static-offline-docs/favicon.png" + HEALTH[12:-2] + b"Range: bytes=x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("count", [1, 3])
async def test_a_client_may_end_its_side_before_the_response(port: int, count: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write((POST % 3 + b"abc") * count)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert answer.count(b"\r\n\r\nabc") == count


@pytest.mark.parametrize("rest", [(POST % 1 + b"a") * 40, b"GARBAGE\r\n\r\n"], ids=["too many", "malformed"])
async def test_a_rejected_pipeline_is_no_error_of_ours(
    port: int, rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    check_error(await talk(port, POST % 3 + b"abc" + rest), 400, "malformed_http")
    await asyncio.sleep(0.05)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("path", [b"/healthz/", b"//healthz", b"/docs/"])
async def test_there_are_no_redirects(port: int, path: bytes) -> None:
    check_error(await talk(port, b"GET " + path + HEALTH[12:]), 404, "not_found")


@pytest.mark.parametrize("path", [b"/healthz", b"/readyz", b"/docs", b"/openapi.json", b"/metrics"])
async def test_head_answers_as_get_without_the_body(port: int, path: bytes) -> None:
    answer = await talk(port, b"HEAD " + path + HEALTH[12:])
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b""
    assert int(re.findall(rb"content-length: (\d+)", head)[0]) > 0


@pytest.mark.parametrize("prefix", [b"", b"/api"])
@pytest.mark.parametrize("path", [b"/healthz", b"/docs", b"/openapi.json", b"/static-offline-docs/swagger-ui.css"])
async def test_the_root_path_may_be_stripped_or_not(prefix: bytes, path: bytes) -> None:
    async with serving(shell(ROOT_PATH="/api")) as port:
        answer = await talk(port, b"GET " + prefix + path + HEALTH[12:])
        assert answer.startswith(b"HTTP/1.1 200 ")
        if path == b"/docs":
            assert b"/api/openapi.json" in answer
        if path == b"/openapi.json":
            assert b'"url":"/api"' in answer
        check_error(await talk(port, b"GET /apihealthz" + HEALTH[12:]), 404, "not_found")


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "Via",
        "X-Forwarded-Host",
        "X-Forwarded-New",
        "X-Real-IP",
        "CF-Connecting-IP",
        "CF-Ray",
        "X-Client-IP",
        "True-Client-IP",
        "Fastly-Client-IP",
        "X-Envoy-External-Address",
        "X-Amzn-Trace-Id",
        "X-Original-For",
    ],
)
async def test_a_request_through_a_proxy_is_not_local(port: int, header: str) -> None:
    request = b"GET /who HTTP/1.1\r\nConnection: close\r\n%b\r\n"
    assert b'"operator":true' in await talk(port, request % b"Accept: a\r\nX-Request-Id: a\r\nUser-Agent: a\r\n")
    assert b'"operator":false' in await talk(port, request % f"{header}: a\r\n".encode())


async def test_operator_by_loopback_can_be_switched_off() -> None:
    async with serving(shell(OPERATOR_LOOPBACK="0")) as port:
        check_error(await talk(port, b"GET /metrics" + HEALTH[12:]), 401, "unauthenticated")
        assert b'"operator":false' in await talk(port, b"GET /who" + HEALTH[12:])


async def test_readyz_gives_reasons_to_operators_only() -> None:
    from pingfeed.web.health import Readiness

    app = shell(Readiness(True, ["signals"], {"signals": "redis://10.0.0.1 cannot be reached"}))
    async with serving(app) as port:
        assert b"10.0.0.1" in await talk(port, b"GET /readyz" + HEALTH[12:])
        answer = await talk(port, b"GET /readyz" + HEALTH[12:-2] + b"Via: proxy\r\n\r\n")
        assert b'"degraded":["signals"]' in answer
        assert b"10.0.0.1" not in answer


async def test_the_arrival_of_the_first_byte_is_in_the_scope() -> None:
    app = shell()

    @app.post("/arrived")
    async def arrived(request: Request) -> int:
        await request.body()
        arrived_ns: int = request.scope["state"][ARRIVED_NS]
        return time.monotonic_ns() - arrived_ns

    async with serving(app, Limits()) as port:
        parts = [b"P", b"OST /arrived HTTP/1.1\r\nConnection: close\r\nContent-Length: 1\r\n\r\n", b"a"]
        body = (await talk(port, *parts, pause_s=0.05)).rpartition(b"\r\n")[2]
    assert 90e6 < int(body) < 2e9
    assert logging.getLogger(protocol.__name__).isEnabledFor(logging.WARNING)
