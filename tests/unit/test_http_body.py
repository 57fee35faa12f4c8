"""The body: gzip is inflated, and the limit holds while it arrives and while it inflates."""

import gzip
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest

from pingfeed.core.events import MAX_BODY_BYTES
from tests.unit.http_shell import client_of, shell

GZIP = {"Content-Encoding": "gzip"}


async def answer_to(body: bytes | AsyncIterator[bytes], headers: dict[str, str] | None = None) -> httpx.Response:
    async with client_of(shell()) as client:
        return await client.post("/body", content=body, headers=headers or {})


async def post(body: bytes | AsyncIterator[bytes], headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    answer = await answer_to(body, headers)
    return answer.status_code, answer.content


@pytest.mark.parametrize("size", [0, 1, 70_000, MAX_BODY_BYTES])
async def test_a_body_up_to_the_limit_arrives_whole(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert await post(body) == (200, body)
    assert await post(gzip.compress(body), GZIP) == (200, body)


async def test_one_byte_more_is_too_large() -> None:
    body = b"x" * (MAX_BODY_BYTES + 1)
    assert (await post(body))[0] == 413
    assert (await post(gzip.compress(body), GZIP))[0] == 413


async def test_a_bomb_is_rejected_before_it_is_inflated() -> None:
    """128 MiB of zeros, then bytes that are not gzip: inflating all of it would end in a 400."""
    squeeze = zlib.compressobj(9, wbits=31)
    bomb = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(128)) + squeeze.flush() + b"tail"
    assert len(bomb) < MAX_BODY_BYTES
    assert (await post(bomb, GZIP))[0] == 413


async def test_the_limit_holds_without_a_declared_length() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 16)

    assert (await post(endless()))[0] == 413


async def test_gzip_members_may_follow_one_another_and_keep_the_limit_together() -> None:
    assert await post(gzip.compress(b"one ") + gzip.compress(b"two"), GZIP) == (200, b"one two")
    half = gzip.compress(b"x" * (MAX_BODY_BYTES // 2 + 1))
    assert (await post(half + half, GZIP))[0] == 413


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{}", id="plain"),
        pytest.param(gzip.compress(b"{}" * 100)[:-9], id="cut short"),
        pytest.param(gzip.compress(b"{}" * 100)[:-8] + b"\0" * 8, id="wrong checksum"),
        pytest.param(gzip.compress(b"{}") + b"tail", id="with a tail"),
        pytest.param(zlib.compress(b"{}"), id="zlib"),
        pytest.param(gzip.compress(b"") * 1001, id="too many members"),
    ],
)
async def test_broken_gzip_is_malformed(body: bytes) -> None:
    answer = await answer_to(body, GZIP)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed")
    assert "gzip" in answer.json()["error"]["message"]


async def test_another_encoding_is_rejected_by_name() -> None:
    answer = await answer_to(b"{}", {"Content-Encoding": "br"})
    assert answer.status_code == 400
    assert "Content-Encoding" in answer.json()["error"]["message"]


async def test_a_body_in_many_small_pieces_is_the_same_body() -> None:
    packed = gzip.compress(b'{"events":[]}' * 50)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(len(packed)):
            yield packed[at : at + 1]

    assert await post(pieces(), GZIP) == (200, b'{"events":[]}' * 50)
