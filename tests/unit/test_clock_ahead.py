"""Runs ahead of the clock: refused where they are asked for, and passed over where a wrong clock has made them."""

from pathlib import Path

import pytest

from batch.features import day_state
from batch.jobs import tick
from batch.jobs.nightly import etl
from batch.jobs.schedule import Schedule
from batch.serving import snapshot
from batch.training.train import train
from batch.wiring import Batch, build
from pingfeed import checks
from pingfeed.cli import main
from pingfeed.core.clock import system_clock, to_iso
from tests.unit.lakes import DAY, FIRST, TICK_MS, LakeWorld, like, row

NOW = FIRST + 40
AHEAD = NOW + 200 * DAY


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    return LakeWorld(tmp_path)


def at(world: LakeWorld, number: int) -> Batch:
    """The batch side of a machine whose clock shows this tick."""
    return build(world.batch.settings, clock=(now := lambda: number * TICK_MS + 5_000), wall_clock=now, quiet=True)


@pytest.mark.parametrize("command", ["tick", "etl", "train", "skew"])
def test_a_time_ahead_of_the_clock_is_refused_in_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main([command, "--at", to_iso(system_clock() + 60_000)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "ahead of the clock" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "lake").exists()
    with pytest.raises(SystemExit):
        main([command, "--at", "1969-12-31T23:59:59Z"])
    assert "before 1970" in capsys.readouterr().err


@pytest.mark.parametrize("job", ["tick", "night"])
def test_the_present_reads_what_a_run_ahead_of_the_clock_has_not_read(world: LakeWorld, job: str) -> None:
    world.land([row("ping_created", NOW * TICK_MS - 5, ping_id="p1", creator_id="c")])
    if job == "tick":
        tick.run(at(world, AHEAD), AHEAD)
    else:
        etl(at(world, AHEAD), AHEAD)
        train(at(world, AHEAD), AHEAD)
        tick.run(at(world, AHEAD), AHEAD, everyone=True)
    world.land([row("block", (NOW + 1) * TICK_MS - 1, user_id="ada", creator_id="c"), like(NOW + 1)])
    batch = at(world, NOW + 1)
    assert Schedule(batch).night_is_due(NOW + 1)
    done = tick.run(batch, NOW + 1)
    # A tick lists the last two days: that far ahead it has not read the first file.
    assert (done.events, done.packets) == (3 if job == "tick" else 2, 1)
    assert snapshot.live_tick(batch) == NOW + 1
    later = at(world, NOW + 2 * DAY)
    assert tick.run(later, NOW + 2 * DAY).tick == NOW + 2 * DAY
    assert day_state.current(later, "user_relations", NOW + 2 * DAY)["user_id"].to_pylist() == ["ada"]


def test_a_schedule_goes_on_when_its_clock_was_ahead(world: LakeWorld) -> None:
    plan = Schedule(at(world, NOW), last_tick=AHEAD)
    assert plan.due() == NOW
    assert Schedule(at(world, NOW), last_tick=NOW + 1).due() is None, "a second back is no wrong clock"


def test_doctor_reports_unread_events_and_runs_ahead_of_the_clock(world: LakeWorld) -> None:
    def examined() -> dict[str, checks.Check]:
        environ = {"PINGFEED_HOME": str(world.home)}
        return {one.name: one for one in checks.examine(environ, lambda: (NOW + 1) * TICK_MS + 5_000)}

    tick.run(at(world, NOW), NOW)
    assert examined()["events"].ok
    world.land([like(NOW + 1)])
    assert examined()["events"] == checks.Check("events", True, examined()["events"].detail)
    assert "unread events: 1 in 1 file," in examined()["events"].detail
    world.land([like(NOW - 5, 1), like(NOW - 5, 2)])
    assert not examined()["events"].ok
    assert "unread events: 3 in 2 files" in examined()["events"].detail
    tick.run(at(world, NOW + 1), NOW + 1)
    assert examined()["events"].ok
    assert examined()["runs"].ok
    tick.run(at(world, AHEAD), AHEAD)
    assert not examined()["runs"].ok
