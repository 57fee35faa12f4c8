"""Both services show what their sink counts, so that its bill can be computed from /metrics; the feed its cache too."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from pingfeed.ports import SinkCounters
from tests.unit.fakes import MemoryCandidates, MemorySink
from tests.unit.feed_world import feed_world
from tests.unit.ingest_world import ingest_world

COUNTED = SinkCounters(bytes=5000, billed_bytes=5120, records=1, retried=2, quarantined=3)
SHOWN = {
    "pingfeed_sink_bytes_total": 5000,
    "pingfeed_sink_billed_bytes_total": 5120,
    "pingfeed_sink_records_total": 1,
    "pingfeed_sink_retried_records_total": 2,
    "pingfeed_sink_quarantined_total": 3,
}


async def _shown(metric: Callable[[str], Awaitable[float]]) -> dict[str, float]:
    return {name: await metric(name) for name in SHOWN}


async def test_ingest_shows_them(tmp_path: Path) -> None:
    async with ingest_world(tmp_path) as world:
        world.sink.counters = COUNTED
        assert await _shown(world.metric) == SHOWN


async def test_the_feed_shows_them(tmp_path: Path) -> None:
    async with feed_world(tmp_path, sink=MemorySink(counters=COUNTED)) as world:
        assert await _shown(world.metric) == SHOWN


async def test_both_services_show_what_accounting_needs_under_the_same_names(tmp_path: Path) -> None:
    """docs/accounting.md names them; refused and duplicate events are the door's alone."""
    named = set(re.findall(r"`(pingfeed_\w+)", (Path(__file__).parents[2] / "docs" / "accounting.md").read_text()))
    door = {name for name in named if re.search("rejected|duplicate", name)}
    feed = {name for name in named if "feed_served" in name}
    async with ingest_world(tmp_path / "ingest") as world:
        await world.send({"event_type": "wink"})
        assert named - feed <= _names((await world.client.get("/metrics")).text)
    async with feed_world(tmp_path / "feed") as town:
        assert named - door <= _names((await town.client.get("/metrics")).text)
    assert len(named) == 8


def _names(text: str) -> set[str]:
    return {re.split(r"[ {]", line)[0] for line in text.splitlines() if not line.startswith("#")}


class _Cached(MemoryCandidates):
    passed_by = 7


async def test_the_feed_shows_how_often_its_cache_was_passed_by(tmp_path: Path) -> None:
    async with feed_world(tmp_path, candidates=_Cached()) as world:
        assert await world.metric("pingfeed_packet_cache_passed_by_total") == 7
