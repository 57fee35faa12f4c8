"""What is live: swapped while serving, and never replaced by something that is damaged or of another feature set."""

from pathlib import Path

import pytest

from feed_api.artifact_loader import RETRY_REJECTED_S, ArtifactLoader
from feed_api.metrics import FeedMetrics
from pingfeed.core.ranker import model_key, pointer_key, snapshot_key
from pingfeed.web.metrics import Metrics
from tests.unit.fakes import MemoryArtifacts
from tests.unit.feed_world import (
    FEATURES,
    TICK,
    TICK_MS,
    Time,
    World,
    catalogue,
    feed_world,
    packet_bytes,
    ping_ids,
    put_snapshot,
    snapshot_bytes,
)
from tests.unit.small_model import manifest, train


def put_model(data: dict[str, bytes], model_id: str, *, sign: float = 1, digest: str | None = None) -> None:
    described = manifest(model_id=model_id, **({"digest": digest} if digest else {}))
    data[model_key(model_id, "manifest.json")] = described
    data[model_key(model_id, "model.txt")] = train(sign=sign).model_to_string().encode()


async def serves(world: World, model_id: str) -> None:
    await world.feed_until(lambda feed: feed["model_id"] == model_id, "watcher")


async def test_a_model_is_swapped_while_serving(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(120, creators=120)) as world:
        world.give("u", packet_bytes(range(100)))
        put_model(world.artifacts.data, "best-first")
        put_model(world.artifacts.data, "worst-first", sign=-1)
        world.point("model", "best-first")
        await serves(world, "best-first")
        assert ping_ids(await world.feed())[0] == "p000"
        world.point("model", "worst-first")
        await serves(world, "worst-first")
        feed = await world.feed()
        assert feed["degraded"] == []
        assert feed["items"][0]["ping_id"] != "p000"
        world.point("model", "best-first")  # a roll-back is a pointer too
        await serves(world, "best-first")
        assert await world.metric('pingfeed_feed_artifacts_loaded_total{what="model"}') == 3


async def test_feeds_continue_while_snapshots_are_swapped(tmp_path: Path) -> None:
    async with feed_world(tmp_path, catalogue(120)) as world:
        for tick in range(TICK + 1, TICK + 4):
            world.publish_snapshot(snapshot_bytes(catalogue(120 + tick - TICK), tick=tick), tick)
            seen = 0
            while seen != tick * TICK_MS:
                feed = await world.feed(limit=50)
                assert len(feed["items"]) == 50
                seen = feed["tick_ms"]


@pytest.fixture
def data() -> dict[str, bytes]:
    return {}


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def artifacts(tmp_path: Path, data: dict[str, bytes]) -> MemoryArtifacts:
    return MemoryArtifacts(folder=tmp_path, data=data)


@pytest.fixture
def loader(artifacts: MemoryArtifacts, metrics: Metrics, time: Time) -> ArtifactLoader:
    return ArtifactLoader(artifacts, FEATURES, FeedMetrics(metrics), lambda: time.seconds)


def point(data: dict[str, bytes], what: str, current: bytes) -> None:
    data[pointer_key(FEATURES.digest, what)] = b'{"current": "%s"}' % current


def rejected(metrics: Metrics, what: str) -> float | None:
    return metrics.registry.get_sample_value("pingfeed_feed_artifacts_rejected_total", {"what": what})


async def publish_7(loader: ArtifactLoader, data: dict[str, bytes]) -> None:
    put_snapshot(data, snapshot_bytes(catalogue(3), tick=7), 7)
    point(data, "snapshot", b"7")
    await loader.refresh()


@pytest.mark.parametrize("pointer", [{}, {pointer_key(FEATURES.digest, "snapshot"): b'{"current": ""}'}])
async def test_before_anything_is_published_the_fallback_ranker_serves(
    loader: ArtifactLoader, data: dict[str, bytes], pointer: dict[str, bytes]
) -> None:
    data |= pointer
    await loader.refresh()
    assert not loader.live.has_model
    assert not loader.live.has_snapshot
    assert len(loader.live.snapshot) == 0
    assert loader.live.ranker.model_id is None


async def test_a_live_artifact_is_not_loaded_again(
    loader: ArtifactLoader, data: dict[str, bytes], artifacts: MemoryArtifacts
) -> None:
    await publish_7(loader, data)
    first = loader.live
    artifacts.gets.clear()
    await loader.refresh()
    assert loader.live is first
    assert artifacts.gets == [pointer_key(FEATURES.digest, what) for what in ("snapshot", "model")]


@pytest.mark.parametrize(
    "damaged",
    [b"", b"garbage", snapshot_bytes(catalogue(3), tick=8)[:-5000], snapshot_bytes(catalogue(3), digest="f" * 16)],
)
async def test_a_damaged_or_foreign_snapshot_is_rejected_and_the_old_one_serves(
    loader: ArtifactLoader, data: dict[str, bytes], metrics: Metrics, damaged: bytes
) -> None:
    await publish_7(loader, data)
    put_snapshot(data, damaged, 8)
    point(data, "snapshot", b"8")
    await loader.refresh()
    assert loader.live.snapshot.tick == 7
    assert rejected(metrics, "snapshot") == 1


async def test_a_damaged_or_foreign_model_is_rejected_and_the_old_one_serves(
    loader: ArtifactLoader, data: dict[str, bytes], metrics: Metrics
) -> None:
    put_model(data, "good")
    put_model(data, "foreign", digest="f" * 16)
    put_model(data, "cut")
    put_model(data, "narrow")
    data[model_key("cut", "model.txt")] = data[model_key("cut", "model.txt")][:5000]
    data[model_key("narrow", "model.txt")] = train(width=10).model_to_string().encode()
    data[model_key("no-text", "manifest.json")] = manifest()
    data[model_key("no-manifest", "model.txt")] = b""
    point(data, "model", b"good")
    await loader.refresh()
    for count, bad in enumerate((b"foreign", b"cut", b"narrow", b"no-text", b"no-manifest", b"absent"), 1):
        point(data, "model", bad)
        await loader.refresh()
        assert loader.live.ranker.model_id == "good"
        assert rejected(metrics, "model") == count


@pytest.mark.parametrize(
    "pointer",
    [b"", b"{}", b'{"current": 5}', b"garbage", *(b'{"current": "%s"}' % t for t in (b"../7", b"-1", b"seven"))],
)
async def test_a_pointer_that_is_damaged_or_names_no_tick_is_rejected(
    loader: ArtifactLoader, data: dict[str, bytes], metrics: Metrics, pointer: bytes
) -> None:
    data[pointer_key(FEATURES.digest, "snapshot")] = pointer
    await loader.refresh()
    assert not loader.live.has_snapshot
    assert rejected(metrics, "snapshot") == 1


async def test_a_rejected_artifact_is_retried_after_a_while(
    loader: ArtifactLoader, data: dict[str, bytes], metrics: Metrics, time: Time
) -> None:
    data[snapshot_key(7)] = b"garbage"
    point(data, "snapshot", b"7")
    await loader.refresh()
    put_snapshot(data, snapshot_bytes(catalogue(3), tick=7), 7)
    await loader.refresh()
    assert not loader.live.has_snapshot
    assert rejected(metrics, "snapshot") == 1
    time.seconds += RETRY_REJECTED_S
    await loader.refresh()
    assert loader.live.snapshot.tick == 7


async def test_a_rejected_model_does_not_block_a_snapshot(loader: ArtifactLoader, data: dict[str, bytes]) -> None:
    point(data, "model", b"absent")
    await publish_7(loader, data)
    assert loader.live.has_snapshot
    assert not loader.live.has_model


async def test_a_store_that_is_down_changes_nothing(
    loader: ArtifactLoader, data: dict[str, bytes], artifacts: MemoryArtifacts, metrics: Metrics
) -> None:
    await publish_7(loader, data)
    artifacts.down = "out of order"
    point(data, "snapshot", b"8")
    await loader.refresh()
    assert loader.live.snapshot.tick == 7
    assert rejected(metrics, "snapshot") is None
