"""The response to any body: status, code and field of each rejection; valid events beside it are kept."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pingfeed.core.clock import DAY_MS, to_iso
from pingfeed.core.errors import TooLarge
from pingfeed.core.events import MAX_EVENTS, order_key
from tests.unit.ingest_world import NOW_MS, World, ingest_world

LIKE = {"event_type": "like", "user_id": "u1", "ping_id": "p1"}
VIEW = {"event_type": "view", "user_id": "u1", "ping_id": "p1", "watch_time_ratio": 0.5}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with ingest_world(tmp_path) as opened:
        yield opened


def around(raw: bytes) -> bytes:
    """Raw JSON between two good events."""
    good = msgspec.json.encode(LIKE)
    return b'{"events":[' + good + b"," + raw + b"," + good + b"]}"


async def test_one_event_is_a_202(world: World) -> None:
    answer = await world.client.post("/track-event", json=LIKE)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "duplicates": 0, "rejected": []})
    assert [row["event_type"] for row in world.spooled()] == ["like"]


ABOUT = {
    "unlike": "ping_id",
    "unhide": "ping_id",
    "unblock": "creator_id",
    "mute": "topic",
    "unmute": "creator_id",
    "more": "ping_id",
    "less": "topic",
}


async def test_what_takes_back_and_steers_is_accepted(world: World) -> None:
    events: list[dict[str, Any]] = [{"event_type": kind, "user_id": "u1", of: "x1"} for kind, of in ABOUT.items()]
    ahead = {"timestamp": to_iso(NOW_MS + 60_000), "interests": ["bread"]}
    answer = await world.send(*events, {"event_type": "user_updated", "user_id": "u1"} | ahead)
    assert (answer.status_code, answer.json()["accepted"]) == (202, 8)
    keys = [order_key(row) for row in world.spooled()]
    assert [key[:3] for key in keys] == [(NOW_MS, NOW_MS, seq) for seq in range(8)]


async def test_500_events_go_into_one_request_and_one_more_is_a_413(world: World) -> None:
    assert (await world.send(*[LIKE] * MAX_EVENTS)).json()["accepted"] == 500
    answer = await world.send(*[LIKE] * (MAX_EVENTS + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, TooLarge.code)
    assert answer.json()["error"]["field"] == "events"
    assert "501" in answer.json()["error"]["message"]
    assert len(world.spooled()) == 500


BAD_EVENTS = [
    pytest.param({"event_type": "wave", "user_id": "u"}, "unknown_event_type", "event_type", id="unknown type"),
    pytest.param({"event_type": "like", "user_id": "u"}, "missing_field", "ping_id", id="missing ping_id"),
    pytest.param(LIKE | {"user_id": 5}, "invalid_type", "user_id", id="wrong type"),
    pytest.param(VIEW | {"watch_time_ratio": -1}, "out_of_range", "watch_time_ratio", id="ratio -1"),
    pytest.param(LIKE | {"timestamp": to_iso(NOW_MS + 7 * DAY_MS)}, "timestamp_ahead", "timestamp", id="next week"),
    pytest.param({"event_type": "feed_served", "user_id": "u"}, "not_accepted", "event_type", id="feed_served"),
    pytest.param({"event_type": "mute", "user_id": "u"}, "missing_field", "creator_id", id="mute of nothing"),
    pytest.param(
        {"event_type": "less", "user_id": "u", "creator_id": "c", "topic": "t"}, "invalid_value", "creator_id", id="two"
    ),
    pytest.param("like", "invalid_type", None, id="no object"),
    pytest.param(None, "invalid_type", None, id="null"),
]


@pytest.mark.parametrize(("event", "code", "field"), BAD_EVENTS)
async def test_a_bad_event_is_rejected_and_kept_beside_others_and_alone_a_422(
    tmp_path: Path, event: Any, code: str, field: str | None
) -> None:
    raw = msgspec.json.encode(event)
    async with ingest_world(tmp_path) as world:
        for answer, status, accepted in (
            (await world.send(LIKE, event, VIEW), 202, 2),
            (await world.send(event), 422, 0),
            (await world.send_bytes(raw, "/track-event"), 422, 0),
        ):
            body = answer.json()
            assert (answer.status_code, body["accepted"], body["duplicates"]) == (status, accepted, 0)
            (rejected,) = body["rejected"]
            assert (rejected["index"], rejected["code"], rejected["field"]) == (accepted // 2, code, field)
            assert rejected["message"].startswith(field or "an event")
        assert [row["event_type"] for row in world.spooled()] == ["like", "view"]
    kept = [(line["code"], line["field"], msgspec.json.decode(line["body"])) for line in world.rejected_lines()]
    assert kept == [(code, field, event)] * 3


async def test_a_rejected_events_id_is_returned(world: World) -> None:
    answer = await world.send({"event_type": "like", "event_id": "mine-17"})
    assert answer.json()["rejected"][0]["event_id"] == "mine-17"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        pytest.param(b"5", "invalid_type", None, id="a number"),
        pytest.param(b"[]", "invalid_type", None, id="a list"),
        pytest.param(b"{}", "missing_field", "events", id="no events"),
        pytest.param(b'{"events":5}', "invalid_type", "events", id="events a number"),
        pytest.param(b'{"events":{"0":{}}}', "invalid_type", "events", id="events an object"),
        pytest.param(b'{"events":[]}', "out_of_range", "events", id="events empty"),
        pytest.param(b'{"events":5,"x":1e999}', "invalid_type", "events", id="no events, and undecodable"),
    ],
)
async def test_a_body_without_events_is_a_422_that_says_so(
    world: World, body: bytes, code: str, field: str | None
) -> None:
    answer = await world.send_bytes(body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, code, field)
    assert error["message"].startswith(field or "the body")


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut short"),
        pytest.param(b"{'events': []}", id="single quotes"),
        pytest.param(b'{"events":[]} x', id="a tail"),
        pytest.param(b"\xff\xfe", id="not text"),
        pytest.param(around(b'{"watch_time_ratio":NaN}'), id="NaN"),
        pytest.param(around(b'{"watch_time_ratio":Infinity}'), id="Infinity"),
        pytest.param(around(b'{"device":"a\x00b"}'), id="a bare NUL"),
        pytest.param(around(DEEP), id="deep list"),
        pytest.param(around(DEEP.replace(b"[", b'{"a":').replace(b"]", b"}").replace(b":}", b":1}")), id="deep object"),
    ],
)
async def test_a_body_that_is_not_json_is_a_400_and_kept(tmp_path: Path, body: bytes) -> None:
    async with ingest_world(tmp_path) as world:
        for path in ("/track-events", "/track-event"):
            answer = await world.send_bytes(body, path)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["field"]) == (400, "malformed", None)
            assert error["message"].startswith("the ")
        assert world.spooled() == []
    assert [line["code"] for line in world.rejected_lines()] == ["malformed", "malformed"]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        pytest.param(b'{"event_type":"like","x":1e400}', "out_of_range", id="beyond a double"),
        pytest.param(b'{"event_type":"like","x":' + b"9" * 5000 + b"}", "out_of_range", id="5000 digits"),
        pytest.param(b'{"event_type":"like","x":"\xff"}', "malformed", id="not UTF-8"),
    ],
)
async def test_an_unreadable_event_is_rejected_alone(tmp_path: Path, raw: bytes, code: str) -> None:
    async with ingest_world(tmp_path) as world:
        answer = await world.send_bytes(around(raw))
        assert (answer.status_code, answer.json()["accepted"]) == (202, 2)
        assert [(r["index"], r["code"]) for r in answer.json()["rejected"]] == [(1, code)]
        assert answer.json()["rejected"][0]["message"].startswith("the event ")
        alone = await world.send_bytes(raw, "/track-event")
        assert (alone.status_code, alone.json()["rejected"][0]["code"]) == (422, code)
    assert world.rejected_lines()[0]["body"].startswith('{"event_type":"like"')


@pytest.mark.parametrize(
    ("field", "raw", "kept"),
    [
        ("device", b'"\\ud83d"', "\ufffd"),
        ("device", b'"cut \\ud83d here"', "cut \ufffd here"),
        ("device", b'"\\ude00\\ud83d"', "\ufffd\ufffd"),
        ("device", b'"\\ud83d\\ude00"', "\U0001f600"),
        ("device", b'"\\\\ud83d"', "\\ud83d"),
        ("device", b'"nul \\u0000"', "nul \0"),
        ("extra", b"[" * 300 + b"]" * 300, '{"x":' + "[" * 300 + "]" * 300 + "}"),
        ("extra", b"9" * 300, '{"x":' + "9" * 300 + "}"),
    ],
    ids=["half an emoji", "inside", "halves reversed", "whole emoji", "escaped backslash", "NUL", "nested", "huge"],
)
async def test_odd_but_valid_values_are_kept(world: World, field: str, raw: bytes, kept: str) -> None:
    name = {"extra": b"x"}.get(field, field.encode())
    event = b'{"event_type":"like","user_id":"u1","ping_id":"p1","' + name + b'":' + raw + b"}"
    answer = await world.send_bytes(around(event))
    assert (answer.status_code, answer.json()["accepted"]) == (202, 3)
    assert world.spooled()[1][field] == kept


async def test_half_an_emoji_in_an_id_is_rejected(world: World) -> None:
    raw = b'{"event_type":"like","user_id":"u\\ud83d","ping_id":"p1"}'
    answer = await world.send_bytes(around(raw))
    assert [(r["index"], r["field"]) for r in answer.json()["rejected"]] == [(1, "user_id")]


async def test_every_depth_around_the_limit_gets_a_clean_answer(world: World) -> None:
    for depth in range(900, 1000, 3):
        raw = b'{"event_type":"like","user_id":"u1","ping_id":"p1","x":' + b"[" * depth + b"]" * depth + b"}"
        assert (await world.send_bytes(around(raw))).status_code in (202, 400)


async def test_authentication_comes_before_the_body(tmp_path: Path) -> None:
    async with ingest_world(tmp_path, AUTH="api_key", API_KEY_HASHES="0" * 64) as world:
        answer = await world.send_bytes(b"{")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")


async def test_every_event_is_counted_once(world: World) -> None:
    twice = LIKE | {"event_id": "0193f5a0-7b1c-7c1e-9d56-0f3f6a1b2c3d"}
    await world.send(LIKE, twice, twice, {"event_type": "like"}, VIEW)
    assert await world.metric("pingfeed_events_accepted_total") == 3
    assert await world.metric("pingfeed_events_duplicate_total") == 1
    assert await world.metric('pingfeed_events_rejected_total{code="missing_field"}') == 1
