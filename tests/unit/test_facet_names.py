"""Beside each snapshot lie the names of its facet values, for who shows pings."""

import json
from pathlib import Path

from batch.jobs import tick
from pingfeed.core.features import NO_VALUE
from pingfeed.core.snapshot import Snapshot
from tests.unit.lakes import FIRST, TICK_MS, LakeWorld, row

AT_MS = FIRST * TICK_MS + 5_000


def ping(name: str, topics: list[str], tags: list[str]) -> dict[str, object]:
    return row("ping_created", AT_MS - 10_000, ping_id=name, creator_id="c", topics=topics, facets={"tags": tags})


def test_a_snapshots_facet_values_have_their_names_beside_it(tmp_path: Path) -> None:
    world = LakeWorld(tmp_path, {"PINGFEED_SINK_FLUSH_SECONDS": "0.05", "PINGFEED_FACETS": "topics,tags"})
    world.time.now_ms = AT_MS
    world.land([ping("p1", ["bread", "a=b"], ["slow"]), ping("p2", ["music"], []), ping("p3", [], ["slow", "loud"])])
    tick.run(world.batch, FIRST)
    folder = tmp_path / "artifacts" / "snapshots" / str(FIRST)
    snapshot = Snapshot.open(folder / "snapshot.bin")
    names = json.loads((folder / "facets.json").read_bytes())
    told = {
        snapshot.ping_id(at): [
            [names[facet][str(number)] for number in numbers if number != NO_VALUE]
            for facet, numbers in zip(snapshot.facets, snapshot.facet_values[at].tolist(), strict=True)
        ]
        for at in range(len(snapshot))
    }
    assert told == {"p1": [["bread", "a=b"], ["slow"]], "p2": [["music"], []], "p3": [[], ["slow", "loud"]]}


def test_names_go_with_the_snapshot_that_they_belong_to(tmp_path: Path) -> None:
    world = LakeWorld(tmp_path, {"PINGFEED_SINK_FLUSH_SECONDS": "0.05"})
    for at in range(10):
        world.time.now_ms = (FIRST + at) * TICK_MS + 5_000
        tick.run(world.batch, FIRST + at)
    folders = (tmp_path / "artifacts" / "snapshots").glob("*/*")
    kept = {name: {path.parent.name for path in folders if path.name == name} for name in ("facets.json",)}
    snapshots = {path.parent.name for path in (tmp_path / "artifacts" / "snapshots").glob("*/snapshot.bin")}
    assert kept["facets.json"] == snapshots
