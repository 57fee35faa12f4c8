"""Whatever a row, a group or a user does to a step, that one is quarantined with its reason, and the run goes on."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batch.features import catalogue
from batch.jobs import tick
from batch.lake.ledger import in_words
from batch.lake.quarantine import quarantined
from batch.lake.tables import parquet_of
from batch.ops.expiry import expire
from batch.serving import user_profile
from batch.training import train as training
from batch.training import training_set
from pingfeed import checks
from pingfeed.cli import main
from pingfeed.core.clock import to_iso
from pingfeed.core.errors import FormatError
from tests.unit.lakes import DAY, FIRST, FIRST_DAY, TICK_MS, LakeWorld, like, row


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    return LakeWorld(tmp_path)


def poison(monkeypatch: pytest.MonkeyPatch, *pings: str) -> None:
    """Make a step fail, halfway through, on these pings."""
    real = catalogue.add

    def add(tables: Any, run: int, events: Any) -> None:
        real(tables, run, events)
        if pc.any(pc.is_in(events["ping_id"], value_set=pa.array(pings))).as_py():
            raise OverflowError("offset overflow while concatenating")

    monkeypatch.setattr("batch.jobs.load_events.catalogue.add", add)


def test_a_row_that_a_step_cannot_take_is_quarantined_and_the_others_are_loaded(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, "p7", "p40")
    world.land([row("ping_created", FIRST * TICK_MS - 1, ping_id=f"p{i}", creator_id="c") for i in range(50)])
    done = world.learn(FIRST)
    assert (done.read, done.kept, done.quarantined) == (50, 48, 2)
    assert "2 quarantined" in in_words(read=50, kept=48, rejected=0, left_out=0, quarantined=2)
    assert "could not take: 2; load" in told(world)
    assert len(world.catalogue().pings) == 48
    found = list(quarantined(world.batch.tables.lake))
    assert [(one.step, one.rows) for one in found] == [("load", 1), ("load", 1)]
    assert all("offset overflow" in one.reason for one in found)
    assert {name for one in found for name in ("p7", "p40") if f'"{name}"' in one.bodies[0]} == {"p7", "p40"}


def test_rows_that_all_fail_cost_a_bounded_number_of_attempts(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.lake.quarantine._MAX_PIECES", 4)
    poison(monkeypatch, *(f"p{i}" for i in range(40)))
    world.land([row("ping_created", FIRST * TICK_MS - 1, ping_id=f"p{i}", creator_id="c") for i in range(41)])
    done = world.learn(FIRST)
    assert done.kept + done.quarantined == done.read == 41
    assert len(list(quarantined(world.batch.tables.lake))) < 15


def test_an_event_of_20000_facets_from_an_earlier_version_stops_no_tick(world: LakeWorld) -> None:
    huge = row(
        "ping_created",
        FIRST * TICK_MS - 1,
        ping_id="p",
        creator_id="mallory",
        topics=["x" * 128] * 64,
        facets={f"f{i}": ["a"] for i in range(20_000)},
    )
    world.land([huge, *(like(FIRST, i, user=f"u{i % 50}") for i in range(120_000))])
    world.time.now_ms = FIRST * TICK_MS + 5_000
    assert tick.run(world.batch, FIRST).events == 120_001


def told(world: LakeWorld) -> str:
    checked = {one.name: one for one in checks.examine({"PINGFEED_HOME": str(world.home)}, world.time)}
    return checked["quarantine"].detail


def test_a_user_whose_packet_cannot_be_made_is_quarantined_and_the_others_get_theirs(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.land([row("ping_created", FIRST * TICK_MS - 1, ping_id="p1", creator_id="c")])
    world.land([like(FIRST, i, user=f"u{i}") for i in range(20)])
    real = user_profile.profile_of

    def profile_of(user_id: str, *more: Any) -> Any:
        if user_id == "u7":
            raise FormatError("a packet of 5000 bytes is over the limit")
        return real(user_id, *more)

    monkeypatch.setattr(user_profile, "profile_of", profile_of)
    monkeypatch.setenv("PINGFEED_HOME", str(world.home))
    assert main(["tick", "--at", to_iso(FIRST * TICK_MS + 5_000)]) == 0
    said = capsys.readouterr().out
    assert "19 packets" in said
    assert "users whose packet could not be made: 1 (quarantined)" in said
    assert "packets, user u7: FormatError: a packet of 5000" in told(world)


def test_a_group_that_cannot_be_trained_on_is_quarantined_and_the_others_are_trained_on(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.land([row("ping_created", FIRST * TICK_MS - 1, ping_id=f"p{i}", creator_id="c") for i in range(10)])
    world.learn(FIRST)
    for request in range(40):
        about: dict[str, Any] = {"user_id": f"u{request}", "request_id": f"r{request}"}
        shown = [row("impression", FIRST * TICK_MS + 1, ping_id=f"p{i}", position=i, **about) for i in range(10)]
        world.land([*shown, row("like", FIRST * TICK_MS + 1, ping_id=f"p{request % 10}", **about)])
    world.learn(FIRST + 1)
    world.at(FIRST + 3 * DAY)
    monkeypatch.setattr(training, "MIN_ENGAGED_REQUESTS", 5)
    training_set.collect(world.batch, FIRST + 3 * DAY, 30)
    lake = world.batch.tables.lake
    [path] = lake.list("training")
    table = pq.read_table(pa.BufferReader(lake.read(path)))
    theirs = pc.is_in(table["request_id"], value_set=pa.array(["r3", "r17", "r39"]))
    spoilt = pc.if_else(pc.and_(theirs, pc.equal(table["position"], 5)), 12, table["grade"])
    lake.write(path, parquet_of(table.set_column(table.column_names.index("grade"), "grade", spoilt)))
    found = training.train(world.batch, FIRST + 3 * DAY).manifest
    assert found is not None
    assert found.trained_requests + found.held_out_requests == 37
    assert {one.what for one in quarantined(lake)} == {f"request r{i} of user u{i}" for i in (3, 17, 39)}
    assert "request r3 of user u3" in told(world)


def test_quarantined_rows_expire_with_the_nightly_job(world: LakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, "p1")
    world.land([row("ping_created", FIRST * TICK_MS - 1, ping_id="p1", creator_id="c")])
    world.learn(FIRST)
    for days, left in ((29, 1), (30, 0)):
        expire(world.batch, FIRST_DAY + days)
        assert len(list(quarantined(world.batch.tables.lake))) == left
