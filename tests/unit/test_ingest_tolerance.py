"""What a client's oddities must not cost: a mark before the body, padding after it, context that is not as it should be."""

import gzip
from codecs import BOM_UTF8, BOM_UTF16_LE
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.unit.ingest_world import World, ingest_world

LIKE = {"event_type": "like", "user_id": "u1", "ping_id": "p1"}
ONE, MANY = msgspec.json.encode(LIKE), msgspec.json.encode({"events": [LIKE]})
GZIP = {"Content-Encoding": "gzip"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with ingest_world(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(("path", "body"), [("/track-event", ONE), ("/track-events", MANY)])
@pytest.mark.parametrize("bad", [{}, {"no": "type"}], ids=["good", "with a bad neighbour"])
async def test_a_byte_order_mark_is_skipped(world: World, path: str, body: bytes, bad: dict[str, str]) -> None:
    if bad and path == "/track-events":
        body = msgspec.json.encode({"events": [LIKE, bad]})
    for sent, headers in ((BOM_UTF8 + body, {}), (gzip.compress(BOM_UTF8 + body), GZIP)):
        answer = await world.send_bytes(sent, path, **headers)
        assert (answer.status_code, answer.json()["accepted"]) == (202, 1)


async def test_another_byte_order_mark_is_a_400(world: World) -> None:
    answer = await world.send_bytes(BOM_UTF16_LE + MANY.decode().encode("utf-16-le"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed")


PACKED = gzip.compress(MANY)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(PACKED + b"\0", 202, id="a NUL"),
        pytest.param(PACKED + b"\0" * 100_000, 202, id="many"),
        pytest.param(gzip.compress(MANY[:9]) + b"\0" * 3 + gzip.compress(MANY[9:]) + b"\0" * 512, 202, id="between"),
        pytest.param(PACKED + b"\0" * 512 + b"x", 400, id="then a byte"),
        pytest.param(PACKED + b"\n", 400, id="a line feed"),
        pytest.param(b"\0" + PACKED, 400, id="before"),
        pytest.param(PACKED[:-8] + b"\0" * 8, 400, id="instead of the checksum"),
    ],
)
async def test_nuls_after_gzip_are_padding_and_other_bytes_are_a_400(world: World, body: bytes, status: int) -> None:
    assert (await world.send_bytes(body, "/track-events", **GZIP)).status_code == status
    assert len(world.spooled()) == (status == 202)
