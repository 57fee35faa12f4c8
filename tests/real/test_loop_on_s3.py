"""The whole loop with its lake and its artifacts on S3: a history, two nights, ticks, and a feed that takes them."""

import asyncio
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batch.jobs import tick
from batch.jobs.nightly import etl
from batch.lake.ledger import is_compacted
from batch.lake.tables import parquet_of
from batch.ops.forget import forget_users
from batch.training.train import train
from batch.wiring import Batch, build
from feed_api.artifact_loader import ArtifactLoader
from feed_api.metrics import FeedMetrics
from pingfeed.adapters import registry
from pingfeed.core.arrow import table_of_rows
from pingfeed.core.events import Row
from pingfeed.settings import Settings, load
from pingfeed.web.metrics import Metrics
from simulator.lake import world_beside, write_history
from simulator.measure import newest, open_events
from simulator.world import Spec, World
from tests.conformance.place import Place
from tests.unit.lakes import FIRST, TICK_MS, partition, row

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
END = FIRST + 4 * 96
NIGHT = END + 96
SPEC = Spec(seed=3, users=40, pings=200, days=4, until_ms=END * TICK_MS, tick_ms=TICK_MS)


@dataclass
class Loop:
    """One installation on S3."""

    settings: Settings

    @property
    def lake_url(self) -> str:
        return self.settings.lake_url

    def batch(self, at_tick: int) -> Batch:
        """The batch side as a process of that time would open it."""
        return build(self.settings, clock=lambda: at_tick * TICK_MS + 5_000, quiet=True)

    def land(self, name: str, rows: list[Row]) -> None:
        """A raw file as a sink (Firehose, say) writes it."""
        path = f"events/{partition(rows[0]['received_ms'])}/{name}.parquet"
        registry.open_lake(self.settings).write(path, parquet_of(table_of_rows(rows)))

    def raw(self) -> list[str]:
        return [path for path in registry.open_lake(self.settings).list("events") if "history-" not in path]


@pytest.fixture
def loop(place: Place, tmp_path: Path) -> Iterator[Loop]:
    environ = {
        "PINGFEED_HOME": str(tmp_path),
        "PINGFEED_LAKE_URL": f"s3://{place.bucket}/lake",
        "PINGFEED_EVENTS_URL": "firehose://unused",
        "PINGFEED_ARTIFACTS_URL": f"s3://{place.bucket}/artifacts",
        "PINGFEED_SINK_FLUSH_SECONDS": "0.05",
    }
    yield Loop(load(environ))
    assert not (tmp_path / "lake").exists(), "nothing of the lake is on this machine"
    assert not (tmp_path / "artifacts").exists()


def like(tick_number: int, ping: str) -> Row:
    return row("like", tick_number * TICK_MS - 1, user_id="user-0001", ping_id=ping, country="DE")


async def _taken(loop: Loop) -> ArtifactLoader:
    """What a feed of this installation would serve from."""
    artifacts = registry.open_artifacts(loop.settings)
    loader = ArtifactLoader(artifacts, loop.settings.features, FeedMetrics(Metrics()))
    await loader.refresh()
    await artifacts.close()
    return loader


def test_history_becomes_a_model_and_a_snapshot_that_a_feed_takes(loop: Loop) -> None:
    rows = write_history(World.build(SPEC), loop.lake_url)
    assert world_beside(loop.lake_url) == SPEC
    assert len(newest(open_events(loop.lake_url), END * TICK_MS)) == 10
    assert etl(loop.batch(END), END).kept == rows
    assert train(loop.batch(END), END).manifest is not None
    assert tick.run(loop.batch(END), END, everyone=True).packets == SPEC.users
    live = asyncio.run(_taken(loop)).live
    assert live.snapshot.tick == END
    assert len(live.snapshot) == SPEC.pings

    for number in range(4):
        loop.land(f"part-{number}", [like(END + 1 + number, f"ping-{number:05}")])
        done = tick.run(loop.batch(END + 1 + number), END + 1 + number)
        assert (done.events, done.packets) == (1, 1)
    assert len(loop.raw()) == 4
    assert etl(loop.batch(NIGHT), NIGHT).kept == 0
    assert [is_compacted(path) for path in loop.raw()] == [True]
    assert tick.run(loop.batch(NIGHT), NIGHT, everyone=True).events == 0
    assert asyncio.run(_taken(loop)).live.snapshot.tick == NIGHT


def test_a_deleted_user_is_in_no_object_after_the_nightly_job(loop: Loop) -> None:
    loop.land("a", [like(END, "ping-00001"), row("like", END * TICK_MS - 1, user_id="user-0002", ping_id="ping-00001")])
    loop.land("b", [like(END, "ping-00002")])
    odd = b'{"event_type":"like","received_ms":1,"user_id":"user-0001"}'
    registry.open_lake(loop.settings).write("events/year=2024/month=10/day=04/odd", odd)
    etl(loop.batch(END + 96), END + 96)
    assert {path.partition("/")[0] for path in holding(loop, "user-0001")} == {
        "events",
        "clean",
        "aggregates",
        "rejected",
    }
    forget_users(loop.batch(END + 97), ["user-0001"])
    etl(loop.batch(NIGHT + 96), NIGHT + 96)
    assert holding(loop, "user-0001") == []
    assert {path.partition("/")[0] for path in holding(loop, "user-0002")} == {"events", "clean", "aggregates"}
    assert etl(loop.batch(NIGHT + 97), NIGHT + 97).files == []


def holding(loop: Loop, user: str) -> list[str]:
    """The objects of the lake in which an id stands."""
    lake = registry.open_lake(loop.settings)
    return [path for path in lake.list("") if user in path or user in text_of(path, lake.read(path))]


def text_of(path: str, data: bytes) -> str:
    table = repr(pq.read_table(io.BytesIO(data)).to_pylist()) if path.endswith(".parquet") else ""
    return data.decode("latin-1") + table
