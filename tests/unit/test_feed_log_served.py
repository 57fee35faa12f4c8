"""What a served feed leaves behind: the logged event, the `served` act, and neither when there is nothing to tell."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feed_api.stages.featurize import hour_of
from pingfeed.core.events import COLUMNS, FeedServed, Row
from pingfeed.core.features import REALTIME, SOURCES, Float32, assemble
from pingfeed.core.packet import decode, unknown_user, user_block
from pingfeed.core.ranker import model_key
from pingfeed.core.signals import Act, Served
from pingfeed.core.snapshot import Snapshot
from pingfeed.spool.delivery import Delivery
from tests.unit.fakes import MemorySink
from tests.unit.feed_world import (
    FEATURES,
    TICK,
    Ping,
    World,
    feed_world,
    numbered_ids,
    packet_bytes,
    ping_ids,
    snapshot_bytes,
    until,
    user_part,
)
from tests.unit.small_model import manifest, train

PINGS = [Ping(f"p{i:03d}", i % 20, (i % 7, 10 + i % 3), 1 - i / 10_000, impressions=i) for i in range(200)]
LISTS = {"trending:DE": range(120, 130), "evergreen": range(130, 150), "fresh": range(150, 180)}
PACKET = packet_bytes(range(100), user=user_part(creators={1: 0.5, 3: -0.5}, topics={2: 0.25, 11: 1.0}))


async def busy(world: World) -> None:
    """A user about whom every group of features knows something."""
    world.give("u", PACKET)
    await world.act("follow", "c3", "c7")
    await world.act("engaged", "p160", "p161", "p161")
    await world.act("seen", "p001", "p002")
    await world.likes("p170", users=12)
    await world.likes("p010", users=5)
    await world.feed_until(lambda feed: "p170" in ping_ids(feed), limit=50)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with feed_world(tmp_path, PINGS, LISTS) as world:
        yield world


async def test_feed_served_logs_items_sources_and_values(world: World) -> None:
    await busy(world)
    feed = await world.feed(explain=True)
    row = await world.served_row(feed["request_id"])
    assert row["received_ms"] == row["timestamp_ms"] == world.time.now_ms
    request = {"event_type": "feed_served", "user_id": "u", "country": "DE"}
    served = {"snapshot_tick": TICK, "packet_tick": TICK - 1, "served_pings": ping_ids(feed)}
    assert row.items() >= (request | served).items()
    assert "model_id" not in row
    explained = [item["explain"] for item in feed["items"]]
    for bits, why in zip(row["served_sources"], explained, strict=True):
        assert [name for bit, name in enumerate(SOURCES) if bits >> bit & 1] == why["sources"]
    assert row["served_scores"] == [why["features"]["retrieval_score"] for why in explained]
    names = [feature.name for feature in REALTIME]
    assert row["served_realtime"] == [why["features"][name] for why in explained for name in names]
    assert row["served_propensities"] == [1.0] * 10
    assert "matrix" not in row


async def test_feed_served_fits_the_event_schema(tmp_path: Path) -> None:
    async with feed_world(tmp_path, PINGS, LISTS, LOG_MATRIX_SHARE="1") as world:
        await busy(world)
        row = await world.served_row((await world.feed())["request_id"])
        assert set(row) <= {column.name for column in COLUMNS}
        assert set(row) <= {"event_type", *FeedServed.__struct_fields__}


def recomputed(row: Row, now_ms: int, packet: bytes | None) -> Float32:
    """The logged matrix as offline recomputation gets it: from the snapshot, the packet, and what the row logged."""
    snapshot = Snapshot(snapshot_bytes(PINGS, LISTS))
    found = decode(packet, FEATURES.digest) if packet else None
    user = found.user if found and found.user else unknown_user(FEATURES)
    rows = snapshot.rows_of_pings(row["served_pings"])
    scores = np.array([np.nan if s is None else s for s in row["served_scores"]], np.float32)
    realtime = np.array([np.nan if v is None else v for v in row["served_realtime"]], np.float32)
    return assemble(
        FEATURES,
        snapshot.block(rows),
        user_block(user, len(rows)),
        np.full(len(rows), hour_of(now_ms), np.float32),
        np.array(row["served_sources"], np.uint8),
        scores,
        realtime.reshape(len(rows), len(REALTIME)),
    )


@pytest.mark.parametrize("user_id", ["u", "unknown"])
async def test_the_logged_matrix_equals_assemble_of_the_logged_values(tmp_path: Path, user_id: str) -> None:
    async with feed_world(tmp_path, PINGS, LISTS, LOG_MATRIX_SHARE="1", EXPLORE_SHARE="1") as world:
        await busy(world)
        for _ in range(5):
            feed = await world.feed(user_id)
            row = await world.served_row(feed["request_id"])
            matrix = np.frombuffer(base64.b64decode(row["matrix"]), "<f4").reshape(-1, len(FEATURES.names))
            assert len(matrix) == len(row["matrix_pings"]) >= 100
            assert len(set(row["matrix_pings"])) == len(matrix)
            logged = matrix[[row["matrix_pings"].index(ping_id) for ping_id in row["served_pings"]]]
            packet = PACKET if user_id == "u" else None
            np.testing.assert_array_equal(logged, recomputed(row, row["timestamp_ms"], packet))


async def test_only_a_share_of_requests_logs_the_matrix(tmp_path: Path) -> None:
    async with feed_world(tmp_path, PINGS, LISTS, LOG_MATRIX_SHARE="0.3", make_id=numbered_ids()) as world:
        for _ in range(200):
            feed = await world.feed()
        await world.served_row(feed["request_id"])
        logged = sum("matrix" in row for row in world.spooled())
        assert 35 <= logged <= 85


async def test_an_unknown_user_is_logged_without_a_packet_tick(world: World) -> None:
    row = await world.served_row((await world.feed("unknown"))["request_id"])
    assert "packet_tick" not in row
    assert "country" not in row
    assert row["served_scores"] == [None] * 10


async def test_the_live_model_is_logged(world: World) -> None:
    world.artifacts.data[model_key("m1", "model.txt")] = train().model_to_string().encode()
    world.artifacts.data[model_key("m1", "manifest.json")] = manifest()
    world.point("model", "m1")
    await world.feed_until(lambda feed: feed["model_id"] == "m1")
    feed = await world.feed()
    assert feed["degraded"] == []
    assert (await world.served_row(feed["request_id"]))["model_id"] == "m1"


async def served_acts(world: World) -> list[Served]:
    return (await world.signals.read("u", world.time.now_ms)).state.session.served


async def test_the_served_act_is_applied_once_before_the_response(tmp_path: Path) -> None:
    async with feed_world(tmp_path, PINGS, LISTS) as world:
        feed = await world.feed()
        assert [(s.request_id, s.pings) for s in await served_acts(world)] == [(feed["request_id"], ping_ids(feed))]
        await world.served_row(feed["request_id"])
    assert [act.kind for act in world.signals.applied] == ["served"]


@pytest.mark.parametrize("fault", [{"down": "out of order"}, {"hangs": True}], ids=["failed", "late"])
async def test_a_failed_or_late_act_delays_no_response_and_is_applied_from_the_spool(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    async with feed_world(tmp_path, PINGS, LISTS, FEED_BUDGET_MS="20") as world:
        vars(world.signals).update(fault)
        feed = await world.feed()
        assert len(feed["items"]) == 10
        await world.served_row(feed["request_id"])
        assert await world.metric("pingfeed_feed_served_act_failures_total") == 1
        vars(world.signals).update(down="", hangs=False)
        await until(partial(served_acts, world))


async def test_a_page_after_a_late_act_does_not_repeat_the_page_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with feed_world(tmp_path, PINGS, LISTS, FEED_BUDGET_MS="1000") as world:
        apply = world.signals.apply

        async def late(acts: Sequence[Act]) -> None:
            await asyncio.sleep(0.4)
            await apply(acts)

        monkeypatch.setattr(world.signals, "apply", late)
        first = await world.feed()
        assert await world.metric("pingfeed_feed_served_act_failures_total") == 1
        second = await world.feed(cursor=first["next_cursor"])
        assert set(ping_ids(first)).isdisjoint(ping_ids(second))


async def test_shutdown_delivers_everything_served_although_the_spool_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = Delivery.accept

    async def slowly(delivery: Delivery, rows: Sequence[Row]) -> None:
        await asyncio.sleep(0.05)
        await accept(delivery, rows)

    monkeypatch.setattr(Delivery, "accept", slowly)
    sink = MemorySink()
    async with feed_world(tmp_path, PINGS, LISTS, sink=sink) as world:
        feeds = await asyncio.gather(*(world.feed(f"u{i}") for i in range(10)))
    assert sorted(row["request_id"] for row in sink.rows) == sorted(feed["request_id"] for feed in feeds)
    assert sink.closed
    assert world.candidates.closed


async def test_a_full_spool_loses_and_counts_the_event_but_serves_the_feed(tmp_path: Path) -> None:
    async with feed_world(tmp_path, PINGS, LISTS, max_spool_bytes=10) as world:
        assert len((await world.feed())["items"]) == 10
        await world.metric_until("pingfeed_feed_served_lost_total", 1)


async def test_events_left_in_the_spool_are_applied_before_serving(tmp_path: Path) -> None:
    sink = MemorySink(down="out of order")  # so that it stays in the spool
    async with feed_world(tmp_path, PINGS, LISTS, sink=sink) as world:
        ids = [(await world.feed())["request_id"] for _ in range(3)]
        for request_id in ids:
            await world.served_row(request_id)
    async with feed_world(tmp_path, PINGS, LISTS) as again:
        state = (await again.signals.read("u", world.time.now_ms)).state
        assert [served.request_id for served in state.session.served] == ids
