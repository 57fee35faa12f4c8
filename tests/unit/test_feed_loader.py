"""What is live: swapped while serving, and never replaced by something that is damaged or of another feature set."""

from pathlib import Path

import pytest

from feed_api.artifact_loader import RETRY_REJECTED_S, ArtifactLoader
from feed_api.metrics import FeedMetrics
from feed_api.state import Live
from pingfeed.core.ranker import model_key, pointer_key, snapshot_key
from pingfeed.web.metrics import Metrics
from tests.unit.fakes import MemoryArtifacts
from tests.unit.feed_world import (
    FEATURES,
    FULL_PACKET,
    TICK,
    TICK_MS,
    World,
    catalogue,
    feed_world,
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
    async with feed_world(tmp_path, catalogue(120, creators=120), packet=FULL_PACKET) as world:
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


class Loading:
    """A loader, the store that it reads, and the time that a test moves."""

    def __init__(self, folder: Path) -> None:
        self.artifacts, self.metrics, self.seconds = MemoryArtifacts(), Metrics(), 0.0
        self.data = self.artifacts.data
        self.loader = ArtifactLoader(self.artifacts, FEATURES, FeedMetrics(self.metrics), lambda: self.seconds)

    async def refresh(self, **pointers: str) -> Live:
        """What is live after a refresh that finds these pointers."""
        for what, current in pointers.items():
            self.data[pointer_key(FEATURES.digest, what)] = b'{"current": "%s"}' % current.encode()
        await self.loader.refresh()
        return self.loader.live

    async def publish_7(self) -> Live:
        put_snapshot(self.data, snapshot_bytes(catalogue(3), tick=7), 7)
        return await self.refresh(snapshot="7")

    def rejected(self, what: str) -> float | None:
        return self.metrics.registry.get_sample_value("pingfeed_feed_artifacts_rejected_total", {"what": what})


@pytest.fixture
def loading(tmp_path: Path) -> Loading:
    return Loading(tmp_path)


@pytest.mark.parametrize("pointers", [{}, {"snapshot": ""}])
async def test_before_anything_is_published_the_fallback_ranker_serves(
    loading: Loading, pointers: dict[str, str]
) -> None:
    live = await loading.refresh(**pointers)
    assert not live.has_model
    assert not live.has_snapshot
    assert len(live.snapshot) == 0
    assert live.ranker.model_id is None


async def test_a_live_artifact_is_not_loaded_again(loading: Loading) -> None:
    first = await loading.publish_7()
    loading.artifacts.gets.clear()
    assert await loading.refresh() is first
    assert loading.artifacts.gets == [pointer_key(FEATURES.digest, what) for what in ("snapshot", "model")]


@pytest.mark.parametrize(
    "damaged",
    [b"", b"garbage", snapshot_bytes(catalogue(3), tick=8)[:-5000], snapshot_bytes(catalogue(3), digest="f" * 16)],
)
async def test_a_damaged_or_foreign_snapshot_is_rejected_and_the_old_one_serves(
    loading: Loading, damaged: bytes
) -> None:
    await loading.publish_7()
    put_snapshot(loading.data, damaged, 8)
    assert (await loading.refresh(snapshot="8")).snapshot.tick == 7
    assert loading.rejected("snapshot") == 1


async def test_a_damaged_or_foreign_model_is_rejected_and_the_old_one_serves(loading: Loading) -> None:
    data = loading.data
    put_model(data, "good")
    put_model(data, "foreign", digest="f" * 16)
    put_model(data, "cut")
    put_model(data, "narrow")
    data[model_key("cut", "model.txt")] = data[model_key("cut", "model.txt")][:5000]
    data[model_key("narrow", "model.txt")] = train(width=10).model_to_string().encode()
    data[model_key("no-text", "manifest.json")] = manifest()
    data[model_key("no-manifest", "model.txt")] = b""
    await loading.refresh(model="good")
    for count, bad in enumerate(("foreign", "cut", "narrow", "no-text", "no-manifest", "absent"), 1):
        assert (await loading.refresh(model=bad)).ranker.model_id == "good"
        assert loading.rejected("model") == count


@pytest.mark.parametrize(
    "pointer",
    [b"", b"{}", b'{"current": 5}', b"garbage", *(b'{"current": "%s"}' % t for t in (b"../7", b"-1", b"seven"))],
)
async def test_a_pointer_that_is_damaged_or_names_no_tick_is_rejected(loading: Loading, pointer: bytes) -> None:
    loading.data[pointer_key(FEATURES.digest, "snapshot")] = pointer
    assert not (await loading.refresh()).has_snapshot
    assert loading.rejected("snapshot") == 1


async def test_a_rejected_artifact_is_retried_after_a_while(loading: Loading) -> None:
    loading.data[snapshot_key(7)] = b"garbage"
    await loading.refresh(snapshot="7")
    assert not (await loading.publish_7()).has_snapshot
    assert loading.rejected("snapshot") == 1
    loading.seconds += RETRY_REJECTED_S
    assert (await loading.refresh()).snapshot.tick == 7


async def test_a_rejected_model_does_not_block_a_snapshot(loading: Loading) -> None:
    await loading.refresh(model="absent")
    live = await loading.publish_7()
    assert live.has_snapshot
    assert not live.has_model


async def test_a_store_that_is_down_changes_nothing(loading: Loading) -> None:
    await loading.publish_7()
    loading.artifacts.down = "out of order"
    assert (await loading.refresh(snapshot="8")).snapshot.tick == 7
    assert loading.rejected("snapshot") is None
