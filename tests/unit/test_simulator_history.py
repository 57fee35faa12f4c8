"""The history: valid rows, lists that match impressions, propensities that add up, the same bytes twice."""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from pingfeed.core.arrow import EVENT_SCHEMA
from pingfeed.core.clock import DAY_MS, day_of, to_iso
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import CLIENT_TYPES
from simulator.history import PolicyState, draw_lists
from simulator.lake import ACTION, PING, open_lake, ping_event_id, uuids, write_history
from simulator.world import TICK_MS, Spec, World

UNTIL_MS = 1_800_000_000_000 // TICK_MS * TICK_MS
SPEC = Spec(users=40, pings=80, days=2, until_ms=UNTIL_MS)
ROW_ONLY = {"received_ms", "timestamp_ms"}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = tmp_path_factory.mktemp("history") / "lake"
    write_history(World.build(SPEC), lake)
    return lake


@pytest.fixture(scope="module")
def rows(lake: Path) -> list[dict[str, Any]]:
    tables = [pq.ParquetFile(path).read() for path in sorted(lake.rglob("*.parquet"))]
    found = [row for table in tables for row in table.to_pylist(maps_as_pydicts="strict")]
    return [{name: value for name, value in row.items() if value is not None} for row in found]


def of(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["event_type"] == kind]


def test_every_row_is_a_valid_event(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["event_type"] != "feed_served":
            event = {name: value for name, value in row.items() if name not in ROW_ONLY}
            event["timestamp"] = to_iso(row["timestamp_ms"])
            struct = CLIENT_TYPES[row["event_type"]]
            msgspec.convert(event, struct)
            assert event.keys() <= set(struct.__struct_fields__) | {"event_type"}


def test_every_event_is_written_once(rows: list[dict[str, Any]]) -> None:
    kinds = Counter(row["event_type"] for row in rows)
    never = {"unlike", "unhide", "unfollow", "block", "unblock", "mute", "unmute", "more", "less", "ping_deleted"}
    assert kinds.keys() | {"report"} == (CLIENT_TYPES.keys() | {"feed_served"}) - never
    assert kinds["ping_created"] == 80
    assert kinds["user_updated"] == 40
    assert len({row["event_id"] for row in rows}) == len(rows)
    follows = [(row["user_id"], row["creator_id"]) for row in of(rows, "follow")]
    assert len(set(follows)) == len(follows)


def test_impressions_are_a_prefix_of_the_served_list(rows: list[dict[str, Any]]) -> None:
    served = {row["request_id"]: row for row in of(rows, "feed_served")}
    seen: dict[str, dict[int, str]] = defaultdict(dict)
    for row in of(rows, "impression"):
        assert served[row["request_id"]]["user_id"] == row["user_id"]
        seen[row["request_id"]][row["position"]] = row["ping_id"]
    # The feeds of the last minutes are cut off by the end of the history.
    whole = [request for request, row in served.items() if row["received_ms"] < UNTIL_MS - 600_000]
    for request in whole:
        pings = served[request]["served_pings"]
        assert [seen[request][at] for at in range(len(seen[request]))] == pings[: len(seen[request])]
        assert len(seen[request]) >= 1
    for row in rows:
        if "position" in row:
            assert served[row["request_id"]]["served_pings"][row["position"]] == row["ping_id"]


def test_a_feed_is_logged_with_propensities_and_without_model_values(rows: list[dict[str, Any]]) -> None:
    served = of(rows, "feed_served")
    assert abs(len(served) - 40 * 5 * 2) < 100
    for row in served:
        assert len(set(row["served_pings"])) == len(row["served_propensities"]) == 10
        assert row["served_sources"] == [0] * 10
        assert all(0 < chance <= 1 for chance in row["served_propensities"])
        unknown = ("served_scores", "served_realtime", "snapshot_tick", "packet_tick", "model_id", "matrix")
        assert not row.keys() & set(unknown)


def test_no_ping_is_served_before_the_tick_that_knows_it(rows: list[dict[str, Any]]) -> None:
    known = {row["ping_id"]: row["received_ms"] // TICK_MS + 1 for row in of(rows, "ping_created")}
    for row in of(rows, "feed_served"):
        assert all(known[ping] <= row["received_ms"] // TICK_MS for ping in row["served_pings"])


def test_events_arrive_seconds_after_their_feed_and_within_the_history(rows: list[dict[str, Any]]) -> None:
    served = {row["request_id"]: row["received_ms"] for row in of(rows, "feed_served")}
    for row in rows:
        assert SPEC.start_ms - TICK_MS <= row["received_ms"] < UNTIL_MS
        assert row["timestamp_ms"] <= row["received_ms"]
        if row["event_type"] != "feed_served" and "request_id" in row:
            assert 0 < row["received_ms"] - served[row["request_id"]] < 900_000


def test_the_initial_catalogue_and_users_are_known_one_tick_before_the_first_feed(rows: list[dict[str, Any]]) -> None:
    before = SPEC.start_ms - TICK_MS
    assert {row["received_ms"] for row in of(rows, "user_updated")} == {before}
    early = [row for row in of(rows, "ping_created") if row["received_ms"] == before]
    assert len(early) >= 25
    assert all(row["timestamp_ms"] < SPEC.start_ms for row in early)
    later = [row for row in of(rows, "ping_created") if row["received_ms"] != before]
    assert all(row["timestamp_ms"] == row["received_ms"] >= SPEC.start_ms for row in later)


def test_files_are_partitioned_by_day_of_arrival_and_sorted(lake: Path) -> None:
    files = [path for path in lake.rglob("*") if path.is_file()]
    assert len(files) == len({day_of(ms) for ms in range(SPEC.start_ms - TICK_MS, UNTIL_MS, TICK_MS)})
    for path in files:
        table = pq.ParquetFile(path).read()
        assert table.schema.equals(EVENT_SCHEMA)
        received = table["received_ms"].to_pylist()
        assert received == sorted(received)
        (day,) = {day_of(ms // DAY_MS * DAY_MS) for ms in received}
        year, month, date = day.split("-")
        assert path == lake / f"events/year={year}/month={month}/day={date}/history-{day}.parquet"


def test_writing_a_world_again_is_identical(lake: Path, tmp_path: Path) -> None:
    write_history(World.build(SPEC), tmp_path / "lake")
    first = {path.relative_to(lake): path.read_bytes() for path in lake.rglob("*.parquet")}
    again = {path.relative_to(tmp_path / "lake"): path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    assert first == again


def test_a_lake_holds_one_worlds_history(lake: Path) -> None:
    write_history(World.build(SPEC), lake)
    with pytest.raises(InvalidInput, match="another history"):
        write_history(World.build(msgspec.structs.replace(SPEC, seed=8)), lake)
    world_file = lake.parent / "world.json"
    kept = world_file.read_bytes()
    world_file.unlink()
    with pytest.raises(InvalidInput, match="another history"):
        write_history(World.build(SPEC), lake)
    world_file.write_bytes(kept)


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/"])
def test_a_history_needs_room_beside_its_lake(url: str) -> None:
    with pytest.raises(InvalidInput, match="s3://bucket/lake"):
        open_lake(url)


def test_ids_are_version_4_uuids_and_distinct_across_kinds() -> None:
    numbers = np.arange(1000)
    kinds = ((7, ACTION), (7, PING), (8, PING))
    ids = [text for seed, kind in kinds for text in uuids(seed, kind, numbers).to_pylist()]
    assert len(set(ids)) == 3000
    shape = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    assert all(shape.fullmatch(text) for text in ids)
    assert ping_event_id(7, 3) == ids[1003]


def test_propensities_match_frequencies() -> None:
    world = World.build(SPEC)
    user, alive = np.full(20_000, 3), np.arange(30)
    pings, chance = draw_lists(world, PolicyState.of(world), user, alive, 2, np.random.default_rng(1))
    first, second = pings.T
    for ping in np.unique(first):
        mine = first == ping
        assert np.unique(chance[mine, 0]).size == 1
        assert abs(mine.mean() - chance[mine, 0][0]) < 0.015
    after = first == np.bincount(first).argmax()
    for ping in np.unique(second[after])[:5]:
        both = after & (second == ping)
        assert abs(both.sum() / after.sum() - chance[both, 1][0]) < 0.05


def test_hidden_pings_are_hardly_served_again() -> None:
    world = World.build(SPEC)
    state = PolicyState.of(world)
    state.factor[:, :40] = 1e-7
    pings, _ = draw_lists(world, state, np.arange(40), np.arange(80), 10, np.random.default_rng(1))
    assert (pings >= 40).all()
