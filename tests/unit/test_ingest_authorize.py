"""A user's token sends that user's events, the rest of a request is refused alone; a key sends everything."""

import hashlib
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
async def test_a_user_sends_what_is_theirs(tmp_path: Path, event: dict[str, Any]) -> None:
    async with ingest_world(tmp_path, environ=issuer.environ(tmp_path)) as world:
        answer = await world.client.post("/track-event", json=event, headers=bearer(token()))
        assert (answer.status_code, answer.json()["accepted"]) == (202, 1)


async def sent(world: World, *events: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    body = {"events": list(events)}
    answer = await world.client.post("/track-events", json=body, headers=headers or bearer(token()))
    return answer.status_code, answer.json()


async def test_what_is_not_theirs_is_refused_alone(tmp_path: Path) -> None:
    theirs = MINE | {"user_id": "u2", "event_id": "0193f5a0-7b1c-7c1e-9d56-0f3f6a1b2c3d"}
    async with ingest_world(tmp_path, environ=issuer.environ(tmp_path)) as world:
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


async def test_a_duplicate_beside_what_is_forbidden_is_a_202(tmp_path: Path) -> None:
    once = MINE | {"event_id": "0193f5a0-7b1c-7c1e-9d56-0f3f6a1b2c3d"}
    async with ingest_world(tmp_path, environ=issuer.environ(tmp_path)) as world:
        assert (await sent(world, once))[0] == 202
        status, answer = await sent(world, once, DELETED)
        assert (status, answer["accepted"], answer["duplicates"]) == (202, 0, 1)


async def test_what_is_bad_for_other_reasons_too_is_a_422(tmp_path: Path) -> None:
    async with ingest_world(tmp_path, environ=issuer.environ(tmp_path)) as world:
        status, answer = await sent(world, DELETED, 5)
        assert (status, [r["code"] for r in answer["rejected"]]) == (422, ["forbidden", "invalid_type"])
        status, answer = await sent(world, DELETED, MINE | {"user_id": "u2"})
        assert (status, answer["error"]["code"], answer["error"]["field"]) == (403, "forbidden", "event_type")


@pytest.mark.parametrize("headers", [{"X-API-Key": KEY}, bearer(KEY), {"X-API-Key": KEY} | bearer(token("u9"))])
async def test_a_key_sends_for_everybody_beside_tokens(tmp_path: Path, headers: dict[str, str]) -> None:
    async with ingest_world(tmp_path, environ=issuer.environ(tmp_path) | KEYS) as world:
        status, answer = await sent(world, MINE, CREATED, DELETED, headers=headers)
        assert (status, answer["accepted"]) == (202, 3)
