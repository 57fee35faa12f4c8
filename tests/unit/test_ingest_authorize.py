"""A user's token may send that user's events, others are rejected alone; a key may send everything."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit import issuer
from tests.unit.ingest_world import World, ingest_world
from tests.unit.issuer import bearer, token

KEY = "a-key-of-a-server"
KEYS = {"API_KEY_HASHES": hashlib.sha256(KEY.encode()).hexdigest()}
MINE: dict[str, Any] = {"event_type": "like", "user_id": "u1", "ping_id": "p1"}
CREATED: dict[str, Any] = {"event_type": "ping_created", "ping_id": "p1", "creator_id": "u1"}
DELETED: dict[str, Any] = {"event_type": "ping_deleted", "ping_id": "p1"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with ingest_world(tmp_path, environ=issuer.environ(tmp_path), USER_CATALOGUE="1") as opened:
        yield opened


@pytest.mark.parametrize(
    "event",
    [
        MINE,
        MINE | {"event_type": "view", "watch_time_ratio": 1},
        {"event_type": "follow", "user_id": "u1", "creator_id": "u2"},
        {"event_type": "user_updated", "user_id": "u1", "country": "DE"},
        CREATED,
        CREATED | {"user_id": None},
        CREATED | {"user_id": "u1"},
    ],
)
async def test_a_user_may_send_their_own_events(world: World, event: dict[str, Any]) -> None:
    answer = await world.client.post("/track-event", json=event, headers=bearer(token()))
    assert (answer.status_code, answer.json()["accepted"]) == (202, 1)


async def sent(world: World, *events: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    body = {"events": list(events)}
    answer = await world.client.post("/track-events", json=body, headers=headers or bearer(token()))
    return answer.status_code, answer.json()


async def test_events_of_others_are_rejected_alone(tmp_path: Path) -> None:
    theirs = MINE | {"user_id": "u2", "event_id": "0193f5a0-7b1c-7c1e-9d56-0f3f6a1b2c3d"}
    async with ingest_world(tmp_path, environ=issuer.environ(tmp_path), USER_CATALOGUE="1") as world:
        status, answer = await sent(world, theirs, MINE, 5, DELETED, CREATED, {"event_type": "like", "user_id": "u1"})
        assert (status, answer["accepted"]) == (202, 2)
        assert [(r["index"], r["code"], r["field"]) for r in answer["rejected"]] == [
            (0, "forbidden", "user_id"),
            (2, "invalid_type", None),
            (3, "forbidden", "event_type"),
            (5, "missing_field", "ping_id"),
        ]
        assert answer["rejected"][0]["event_id"] == theirs["event_id"]
        assert [row["user_id"] for row in world.spooled() if "user_id" in row] == ["u1"]
        assert await world.metric('pingfeed_events_rejected_total{code="forbidden"}') == 2
    assert [line["code"] for line in world.rejected_lines()] == [r["code"] for r in answer["rejected"]]


@pytest.mark.parametrize(
    ("others", "status", "code"),
    [([MINE], 202, None), ([5], 422, None), ([MINE | {"user_id": "u2"}], 403, "forbidden")],
    ids=["beside a duplicate", "beside a malformed event", "alone"],
)
async def test_a_request_is_403_only_if_every_event_is_forbidden(
    world: World, others: list[Any], status: int, code: str | None
) -> None:
    once = {"event_id": "0193f5a0-7b1c-7c1e-9d56-0f3f6a1b2c3d"}
    await sent(world, MINE | once)
    events = [event | once if event == MINE else event for event in others]
    found, answer = await sent(world, DELETED, *events)
    assert (found, answer.get("error", {}).get("code")) == (status, code)
    assert answer.get("duplicates", 0) == (status == 202)


@pytest.mark.parametrize("headers", [{"X-API-Key": KEY}, bearer(KEY), {"X-API-Key": KEY} | bearer(token("u9"))])
async def test_a_key_may_send_for_all_users_beside_tokens(tmp_path: Path, headers: dict[str, str]) -> None:
    async with ingest_world(tmp_path, environ=issuer.environ(tmp_path) | KEYS) as world:
        status, answer = await sent(world, MINE, CREATED, DELETED, headers=headers)
        assert (status, answer["accepted"]) == (202, 3)
