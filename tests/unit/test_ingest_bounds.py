"""How large one event may be: what passes these limits, every later step can take."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pingfeed.core.events import MAX_LIST, MAX_NAMES, MAX_ROW_BYTES
from tests.unit.ingest_world import World, ingest_world

CREATED = {"event_type": "ping_created", "ping_id": "p", "creator_id": "c"}
LIKE = {"event_type": "like", "user_id": "u1", "ping_id": "p1"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with ingest_world(tmp_path) as opened:
        yield opened


def named(count: int, value: Any) -> dict[str, Any]:
    return {f"f{i}": value for i in range(count)}


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"topics": ["x"] * (MAX_LIST + 1)}, "topics"),
        ({"topics": ["x" * 129]}, "topics[0]"),
        ({"topics": [""]}, "topics[0]"),
        ({"facets": named(MAX_NAMES + 1, ["a"])}, "facets"),
        ({"facets": named(20_000, ["a"])}, "facets"),
        ({"facets": {"f": ["a"] * (MAX_LIST + 1)}}, "facets[...]"),
        ({"attributes": named(MAX_NAMES + 1, 1.5)}, "attributes"),
        ({"attributes": {"x" * 33: 1}}, "attributes"),
    ],
)
async def test_more_of_a_ping_than_the_limits_is_rejected_by_name(
    world: World, more: dict[str, Any], field: str
) -> None:
    answer = await world.send(LIKE, CREATED | more)
    (rejected,) = answer.json()["rejected"]
    assert (answer.status_code, answer.json()["accepted"], rejected["field"]) == (202, 1, field)
    assert rejected["message"].startswith(field)


LARGE = [
    pytest.param(CREATED | {"facets": named(MAX_NAMES, ["é" * 30 + str(i) for i in range(MAX_LIST)])}, id="facets"),
    pytest.param(LIKE | {"of_the_app": "x" * MAX_ROW_BYTES}, id="an unknown field"),
    pytest.param(LIKE | {"of_the_app": '"' * (MAX_ROW_BYTES // 3)}, id="quotes, which double"),
    pytest.param(LIKE | {f"x{i}": i for i in range(2_000)}, id="many unknown fields"),
]


@pytest.mark.parametrize("event", LARGE)
async def test_an_event_that_becomes_too_large_a_row_is_rejected_alone(world: World, event: dict[str, Any]) -> None:
    answer = await world.send(LIKE, event)
    (rejected,) = answer.json()["rejected"]
    assert (answer.status_code, rejected["code"], rejected["index"]) == (202, "too_large", 1)
    assert "at most 16,384" in rejected["message"]
    assert len(world.spooled()) == 1
    alone = await world.client.post("/track-event", json=event)
    assert alone.status_code == 422


async def test_the_largest_that_each_limit_allows_is_accepted(world: World) -> None:
    room = MAX_ROW_BYTES - 1_000
    events = [
        CREATED | {"topics": ["t" * 128] * MAX_LIST},
        CREATED | {"facets": named(MAX_NAMES, ["v" * 20] * MAX_LIST)},
        CREATED | {"attributes": named(MAX_NAMES, 1.7976931348623157e308)},
        LIKE | {"of_the_app": "x" * room},
        dict.fromkeys(("user_id", "ping_id", "request_id"), "i" * 128) | {"event_type": "like", "position": 10_000},
    ]
    assert (await world.send(*events)).json()["accepted"] == len(events)
    assert max(len(msgspec.json.encode(row)) for row in world.spooled()) <= MAX_ROW_BYTES
