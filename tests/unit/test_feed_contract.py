"""The edge of GET /get-feed: parameters, cursors, keys, health, and what the OpenAPI says."""

import string
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed_api.cursor import read_cursor, write_cursor
from feed_api.stages.respond import MAX_POSITION
from feed_api.state import Chain
from pingfeed.core.errors import InvalidInput
from tests.unit.feed_world import NOW_MS, World, catalogue, feed_world, packet_bytes, snapshot_bytes, until
from tests.unit.http_shell import KEY, OPERATOR_KEY, digest_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with feed_world(tmp_path, catalogue(200)) as world:
        yield world


@pytest.mark.parametrize(
    ("field", "code", "values"),
    [
        ("user_id", "missing_field", [None, ""]),
        ("user_id", "invalid_value", ["two words", "x" * 129, "u\n", "ü"]),
        ("limit", "out_of_range", ["0", "51", "1000", "-1", "9" * 5000]),
        ("limit", "invalid_type", ["ten", "1.5", "", "²"]),
        ("explain", "invalid_type", ["perhaps"]),
        ("cursor", "invalid_value", ["", "garbage", "A" * 32, "ünïcödé"]),
    ],
)
async def test_an_invalid_parameter_is_named_in_one_sentence(
    world: World, field: str, code: str, values: list[str | None]
) -> None:
    for value in values:
        query = {"user_id": "u", field: value}
        answer = await world.get(**{name: given for name, given in query.items() if given is not None})
        body = answer.json()
        assert (answer.status_code, body["error"]["field"], body["error"]["code"]) == (422, field, code), value
        assert body["error"]["message"].startswith(field)
        assert body["request_id"]
    assert world.spooled() == []


@pytest.mark.parametrize("limit", [1, 2, 10, 50])
async def test_a_page_has_limit_items_and_a_version_7_uuid(world: World, limit: int) -> None:
    pages = [await world.feed(limit=limit) for _ in range(2)]
    assert [len(page["items"]) for page in pages] == [limit] * 2
    ids = {page["request_id"] for page in pages}
    assert len(ids) == 2
    assert all(len(i) == 36 and i[14] == "7" for i in ids)


async def test_a_cursor_of_another_user_is_rejected(world: World) -> None:
    cursor = (await world.feed("u"))["next_cursor"]
    assert (await world.get(user_id="u", cursor=cursor)).status_code == 200
    answer = await world.get(user_id="v", cursor=cursor)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "cursor"


async def test_every_truncated_lengthened_or_changed_cursor_is_rejected(world: World) -> None:
    cursor = (await world.feed())["next_cursor"]
    wrong = [cursor[:length] for length in range(len(cursor))] + [cursor + "A", cursor + "=", f" {cursor}"]
    wrong += [cursor[:at] + ("B" if cursor[at] == "A" else "A") + cursor[at + 1 :] for at in range(len(cursor))]
    for text in wrong:
        answer = await world.get(user_id="u", cursor=text)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "cursor"), text


@given(st.integers(0, 2**63), st.integers(0, MAX_POSITION), st.text(string.ascii_letters, min_size=1, max_size=128))
def test_a_cursor_encodes_its_chain_in_32_characters(began_ms: int, position: int, user_id: str) -> None:
    text = write_cursor(Chain(began_ms, position), user_id)
    assert len(text) == 32
    assert set(text) <= set(string.ascii_letters + string.digits + "-_")
    assert read_cursor(text, user_id) == Chain(began_ms, position)


def test_a_cursor_of_another_version_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feed_api.cursor._VERSION", 1)
    text = write_cursor(Chain(NOW_MS, 10), "u")
    monkeypatch.undo()
    with pytest.raises(InvalidInput):
        read_cursor(text, "u")


async def test_a_chain_ends_before_positions_that_events_reject(world: World) -> None:
    near_end = write_cursor(Chain(world.time.now_ms, MAX_POSITION - 10), "u")
    page = await world.feed(cursor=near_end)
    assert page["items"][-1]["position"] < MAX_POSITION
    assert page["next_cursor"] is None


async def test_explain_is_for_operators(tmp_path: Path) -> None:
    keys = {"AUTH": "api_key", "API_KEY_HASHES": digest_of(KEY), "OPERATOR_KEY_HASHES": digest_of(OPERATOR_KEY)}
    async with feed_world(tmp_path, catalogue(20), peer="192.0.2.1", environ=keys) as world:
        rejected = await world.client.get("/get-feed?user_id=u&explain=true", headers={"X-API-Key": KEY})
        assert rejected.status_code == 403
        assert "operator" in rejected.json()["error"]["message"]
        answer = await world.client.get("/get-feed?user_id=u&explain=true", headers={"X-API-Key": OPERATOR_KEY})
        assert "explain" in answer.json()["items"][0]


async def test_ready_without_model_and_snapshot_but_degraded(tmp_path: Path) -> None:
    async with feed_world(tmp_path) as world:
        answer = await world.client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json()["degraded"] == ["model", "snapshot"]
        world.publish_snapshot(snapshot_bytes(catalogue(20)))
        world.candidates.down = world.signals.down = "out of order"

        async def reported() -> bool:
            return (await world.client.get("/readyz")).json()["degraded"] == ["candidates", "model", "signals"]  # type: ignore[no-any-return]

        await until(reported)
        assert (await world.client.get("/healthz")).status_code == 200


async def test_feeds_are_counted(world: World) -> None:
    world.give("u", packet_bytes(range(60)))
    await world.act("seen", "p000", "p001")
    await world.feed()
    assert await world.metric("pingfeed_feed_answers_total") == 1
    assert await world.metric("pingfeed_feed_items_total") == 10
    assert await world.metric("pingfeed_feed_candidates_total") == 100
    assert await world.metric('pingfeed_feed_removed_total{reason="seen"}') == 2
    assert await world.metric('pingfeed_feed_degraded_total{part="model"}') == 1


async def test_the_openapi_document_describes_the_contract(tmp_path: Path) -> None:
    async with feed_world(tmp_path) as world:
        document: dict[str, Any] = (await world.client.get("/openapi.json")).json()
        route = document["paths"]["/get-feed"]["get"]
        required = {
            "user_id": True,
            "limit": False,
            "cursor": False,
            "explain": False,
            "country": False,
            "language": False,
        }
        assert {p["name"]: p["required"] for p in route["parameters"]} == required
        assert set(route["responses"]) == {"200", "401", "403", "422", "429", "503"}
        schema = route["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/Feed"}
        assert set(document["components"]["schemas"]) >= {"Feed", "Item", "Explain", "RemovedItem", "ErrorBody"}
