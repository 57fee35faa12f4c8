"""Whose word counts about who created a ping: a server's key before a user's token."""

from pathlib import Path
from typing import Any

import pytest

from batch.features.catalogue import ids_of
from tests.unit import issuer
from tests.unit.ingest_world import ingest_world
from tests.unit.issuer import bearer, token
from tests.unit.lakes import FIRST, TICK_MS, LakeWorld, row
from tests.unit.test_ingest_authorize import CREATED, KEY, KEYS


def created(tick: int, creator: str, **values: Any) -> dict[str, Any]:
    return row("ping_created", tick * TICK_MS - 1, ping_id="p", creator_id=creator, **values)


async def test_a_users_token_publishes_only_where_a_setting_allows_it(tmp_path: Path) -> None:
    async with ingest_world(tmp_path, environ=issuer.environ(tmp_path)) as world:
        answer = await world.client.post("/track-event", json=CREATED, headers=bearer(token()))
        assert (answer.status_code, answer.json()["error"]["field"]) == (403, "event_type")
        assert world.spooled() == []


async def test_a_row_tells_that_a_users_token_published_it(tmp_path: Path) -> None:
    environ = issuer.environ(tmp_path) | KEYS
    async with ingest_world(tmp_path, environ=environ, USER_CATALOGUE="1") as world:
        await world.client.post("/track-event", json=CREATED | {"by_user": None}, headers=bearer(token()))
        await world.client.post("/track-event", json=CREATED | {"by_user": 1}, headers={"X-API-Key": KEY})
        assert [row.get("by_user") for row in world.spooled()] == [1, None], "a client's own field changes nothing"


@pytest.mark.parametrize("tick_of_the_key", [FIRST, FIRST + 1, FIRST + 30])
def test_a_keys_word_about_a_pings_creator_wins(tmp_path: Path, tick_of_the_key: int) -> None:
    world = LakeWorld(tmp_path)
    for tick, event in sorted(
        [(FIRST, created(FIRST, "mallory", by_user=1, country="XX")), (tick_of_the_key, created(FIRST, "real"))],
        key=lambda one: one[0],
    ):
        world.land([event])
        world.learn(tick, everything=True)
    known = world.catalogue()
    assert [ids_of(known, "creator")[n] for n in known.pings["creator"].to_pylist()] == ["real"]
    assert known.versions["country"].to_pylist() == [None], "of mallory's version nothing is left"


def test_without_a_keys_word_the_first_user_owns_the_ping(tmp_path: Path) -> None:
    world = LakeWorld(tmp_path)
    world.land([created(FIRST, "ann", by_user=1), created(FIRST + 1, "mallory", by_user=1)])
    world.learn(FIRST + 1)
    known = world.catalogue()
    assert [ids_of(known, "creator")[n] for n in known.pings["creator"].to_pylist()] == ["ann"]
