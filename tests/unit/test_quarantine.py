"""Whatever a row does to a step, that row is quarantined with its reason, and the run goes on."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batch.features import catalogue
from batch.jobs import tick
from batch.lake.ledger import in_words
from batch.lake.quarantine import quarantined
from batch.ops.expiry import expire
from pingfeed import checks
from tests.unit.lakes import FIRST, FIRST_DAY, TICK_MS, LakeWorld, like, row


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
    checked = {one.name: one for one in checks.examine({"PINGFEED_HOME": str(world.home)}, world.time)}
    assert "could not take: 2; load" in checked["quarantine"].detail
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


def test_quarantined_rows_expire_with_the_nightly_job(world: LakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, "p1")
    world.land([row("ping_created", FIRST * TICK_MS - 1, ping_id="p1", creator_id="c")])
    world.learn(FIRST)
    for days, left in ((29, 1), (30, 0)):
        expire(world.batch, FIRST_DAY + days)
        assert len(list(quarantined(world.batch.tables.lake))) == left
