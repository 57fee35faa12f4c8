"""What a client's oddities must not cost: a mark before the body, padding after it, context in other forms."""

import gzip
import json
from codecs import BOM_UTF8, BOM_UTF16_LE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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


BLOCK = {"event_type": "block", "user_id": "u1", "creator_id": "c1"}
CONTEXT: list[tuple[str, Any, str | None]] = [
    ("language", "en-US-u-fw-mon", "en-US"),
    ("language", "en_US", "en-US"),
    ("language", "pt_BR", "pt-BR"),
    ("language", "EN-us", "en-US"),
    ("language", "en_US.UTF-8", "en-US"),
    ("language", "de_DE@euro", "de-DE"),
    ("language", "zh_TW_#Hant", "zh-Hant-TW"),
    ("language", "zh-hans-cn", "zh-Hans-CN"),
    ("language", "es-419", "es-419"),
    ("language", "ca-ES-valencia", "ca-ES-valencia"),
    ("language", "sl-Latn-IT-rozaj-nedis-1994-x-mine", "sl-Latn-IT-rozaj-nedis-1994"),
    ("language", "de-Latn-DE-1996-fonipa-fonxsamp-scouse", "de-Latn-DE"),
    ("language", " fr ", "fr"),
    ("language", "", None),
    ("language", "C", None),
    ("language", "english", None),
    ("language", "x-klingon", None),
    ("language", "en\n", "en"),
    ("language", "e" * 5_000, None),
    ("language", 7, None),
    ("country", "de", "DE"),
    ("country", " US", "US"),
    ("country", "", None),
    ("country", "DEU", None),
    ("country", "Germany", None),
    ("country", {"code": "DE"}, None),
    ("device", "", None),
    ("device", "x" * 500, "x" * 64),
    ("device", ["phone"], None),
    ("app_version", 3.1, None),
    ("app_version", " 1.2 ", "1.2"),
    ("app_version", True, None),
]


@pytest.mark.parametrize(("field", "sent", "kept"), CONTEXT)
@pytest.mark.parametrize("more", [{}, {"of_the_app": 1}], ids=["fast", "one by one"])
async def test_context_is_normalised_or_dropped_and_never_costs_the_event(
    world: World, field: str, sent: Any, kept: str | None, more: dict[str, int]
) -> None:
    answer = await world.client.post("/track-event", json=BLOCK | more | {field: sent})
    assert (answer.status_code, answer.json()["accepted"]) == (202, 1)
    (row,) = world.spooled()
    assert row.get(field) == kept
    assert await world.metric(f'pingfeed_context_dropped_total{{field="{field}"}}') == (kept is None)
    assert [act.kind for act in world.signals.applied] == ["block"]


OPTIONAL: list[tuple[str, Any]] = [
    *[("position", bad) for bad in [-1, 10_001, 2**70, 1.5, "3", "", True, [1], {}, 1e300]],
    *[("request_id", bad) for bad in ["", "a b", "x" * 129, "r\n", "\ud800", "ü", 7, False, ["r"], {"id": "r"}]],
    *[("sent_at", bad) for bad in ["", "now", 1_795_348_800_000, [], "2026-13-01T00:00:00Z"]],
]


@pytest.mark.parametrize(("field", "sent"), OPTIONAL)
async def test_a_position_request_id_or_sent_at_of_another_form_is_dropped_and_never_costs_the_act(
    world: World, field: str, sent: Any
) -> None:
    hide, good = LIKE | {"event_type": "hide"}, LIKE | {"position": 3, "request_id": "r1"}
    mute = {"event_type": "mute", "user_id": "u1", "topic": "t"}
    events = [hide | {field: sent}, good, mute | {field: sent}]
    answer = await world.client.post("/track-events", content=json.dumps({"events": events}))
    assert (answer.status_code, answer.json()["accepted"]) == (202, 3)
    first, second, third = world.spooled()
    assert {field, "sent_ms"}.isdisjoint(first.keys() | third.keys())
    assert (second["position"], second["request_id"]) == (3, "r1")
    assert await world.metric(f'pingfeed_context_dropped_total{{field="{field}"}}') == 2
    assert {"hide", "mute"} <= {act.kind for act in world.signals.applied}


async def test_a_ping_id_that_only_credits_is_dropped_and_one_that_is_needed_costs_the_event(world: World) -> None:
    answer = await world.send(BLOCK | {"ping_id": "not an id"}, LIKE | {"ping_id": "not an id"})
    assert [(one["index"], one["field"]) for one in answer.json()["rejected"]] == [(1, "ping_id")]
    assert [row.get("ping_id") for row in world.spooled()] == [None]


@pytest.mark.parametrize("field", ["device", "app_version", "language", "country"])
@pytest.mark.parametrize("text", [r"\ud83d", r"\udc00x", r"\u0000", r"a\u0007\u001b[2J", r"\ufffe\uffff", r"\u202e"])
async def test_half_surrogate_pairs_and_control_characters_in_context_never_cost_the_act(
    world: World, field: str, text: str
) -> None:
    body = msgspec.json.encode(BLOCK)[:-1] + f',"{field}":"{text}"}}'.encode()
    assert (await world.send_bytes(body, "/track-event")).json()["accepted"] == 1
    assert [row["event_type"] for row in world.spooled()] == ["block"]


async def test_an_absent_context_is_not_counted_as_dropped(world: World) -> None:
    await world.send(BLOCK | {"country": None}, BLOCK)
    assert "context_dropped_total{" not in (await world.client.get("/metrics")).text


@pytest.mark.parametrize("more", [{}, {"of_the_app": 1}], ids=["fast", "one by one"])
async def test_a_watch_ratio_above_ten_counts_as_ten_and_below_zero_is_rejected(
    world: World, more: dict[str, int]
) -> None:
    view = LIKE | {"event_type": "view"} | more
    sent = (0, 0.5, 10, 10.000001, 12.5, 1e308, 10**30)
    answer = await world.send(*[view | {"watch_time_ratio": ratio} for ratio in (*sent, -0.001, -(10**30))])
    assert [(one["index"], one["field"]) for one in answer.json()["rejected"]] == [
        (7, "watch_time_ratio"),
        (8, "watch_time_ratio"),
    ]
    assert [row["watch_time_ratio"] for row in world.spooled()] == [0, 0.5, 10, 10, 10, 10, 10]
