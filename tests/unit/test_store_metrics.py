"""Both services show their sink's counters, from which its bill can be computed; the feed its cache's too."""

import re
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


class _Cached(MemoryCandidates):
    passed_by = 7


async def test_ingest_shows_its_sinks_counters(tmp_path: Path) -> None:
    async with ingest_world(tmp_path) as world:
        world.sink.counters = COUNTED
        assert {name: await world.metric(name) for name in SHOWN} == SHOWN


async def test_the_feed_shows_its_sinks_counters_and_bypassed_cache_reads(tmp_path: Path) -> None:
    async with feed_world(tmp_path, sink=MemorySink(counters=COUNTED), candidates=_Cached()) as world:
        assert {name: await world.metric(name) for name in SHOWN} == SHOWN
        assert await world.metric("pingfeed_packet_cache_passed_by_total") == 7


async def test_both_services_show_what_accounting_needs_under_the_same_names(tmp_path: Path) -> None:
    """docs/accounting.md names them; only ingest has rejected and duplicate events."""
    named = set(re.findall(r"`(pingfeed_\w+)", (Path(__file__).parents[2] / "docs" / "accounting.md").read_text()))
    ingest_only = {name for name in named if re.search("rejected|duplicate", name)}
    feed = {name for name in named if "feed_served" in name}
    async with ingest_world(tmp_path / "ingest") as world:
        await world.send({"event_type": "wink"})
        assert named - feed <= _names((await world.client.get("/metrics")).text)
    async with feed_world(tmp_path / "feed") as town:
        assert named - ingest_only <= _names((await town.client.get("/metrics")).text)
    assert len(named) == 8


def _names(text: str) -> set[str]:
    return {re.split(r"[ {]", line)[0] for line in text.splitlines() if not line.startswith("#")}
