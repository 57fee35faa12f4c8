"""An import as a whole: twice is once, broken off is taken up again, a dry run leaves nothing behind."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batch.engine import Engine
from batch.importers import formats
from batch.importers.staging import Staging
from pingfeed import cli
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import InvalidInput, Unavailable
from pingfeed.core.events import encode_rows
from tests.unit.import_world import BASIC, END_MS, NOW_MS, ImportWorld, csv_log, write
from tests.unit.lakes import LakeWorld, row

HEADER = "user,item,action,at"
T0 = END_MS // 1000 - 5 * 86_400
LINES = [HEADER, *(f"u{n % 7},p{n % 5},like,{T0 + 40_000 * n}" for n in range(10))]


@pytest.fixture
def world(tmp_path: Path) -> ImportWorld:
    return ImportWorld(tmp_path / "home")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path / "log.csv", LINES)


@pytest.mark.parametrize("keep_dates", [True, False])
def test_a_second_import_adds_nothing(world: ImportWorld, log: Path, tmp_path: Path, keep_dates: bool) -> None:
    first = world.run(log, csv_log(), keep_dates=keep_dates)
    before = world.files()
    world.learn(world.batch.ticks.of(world.time.now_ms), everything=True)
    world.time.now_ms += 3 * DAY_MS
    renamed = log.rename(tmp_path / "renamed.csv")
    again = world.run(renamed, csv_log(), keep_dates=keep_dates)
    assert (again.again, again.events, again.files) == (True, 0, first.files)
    assert {path: data for path, data in world.files().items() if path in before} == before
    learned = world.learn(world.batch.ticks.of(world.time.now_ms), everything=True)
    assert (learned.read, learned.kept) == (0, 0)


def test_other_times_for_the_same_log_are_rejected(world: ImportWorld, log: Path) -> None:
    world.run(log, csv_log())
    with pytest.raises(InvalidInput, match="imported before with other times"):
        world.run(log, csv_log(), keep_dates=False)


def test_another_mapping_of_the_same_log_keeps_its_times_and_shared_events_once(world: ImportWorld, log: Path) -> None:
    world.run(log, csv_log(), keep_dates=False)
    world.time.now_ms += 2 * DAY_MS
    corrected = world.run(log, csv_log(f"{BASIC},country==DE"), keep_dates=False)
    liked_too = world.run(log, csv_log("user_id=user,ping_id=item,timestamp=at,event_type==share"), keep_dates=False)
    assert corrected.otherwise
    assert (corrected.introduced, liked_too.introduced) == (0, 0)
    assert max(one["received_ms"] for one in world.raw()) == END_MS
    learned = world.learn(world.batch.ticks.of(world.time.now_ms), everything=True)
    assert (learned.read, learned.kept) == (25, 25)


def test_a_log_that_has_grown_adds_what_is_new(world: ImportWorld, log: Path) -> None:
    world.run(log, csv_log())
    world.learn(world.batch.ticks.of(world.time.now_ms), everything=True)
    log.write_text(log.read_text() + f"u9,p9,like,{T0 + 400_000}\nu9,p0,like,{T0 + 400_000}\n")
    world.time.now_ms = NOW_MS + DAY_MS
    assert world.run(log, csv_log()).introduced == 1
    learned = world.learn(world.batch.ticks.of(world.time.now_ms), everything=True)
    assert (learned.read, learned.kept) == (3, 3)


@dataclass
class FailingLake:
    """A lake whose disk is full after some files."""

    lake: Any
    room: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lake, name)

    def write(self, path: str, data: bytes) -> None:
        if path.startswith("events/"):
            if self.room == 0:
                raise Unavailable("the disk is full")
            self.room -= 1
        self.lake.write(path, data)


@pytest.mark.parametrize("room", [0, 1, 4, 7])
def test_an_import_that_was_broken_off_is_taken_up_again(
    world: ImportWorld, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr("batch.importers.staging.MAX_ROWS", 3)
    whole = world.batch.tables.lake
    monkeypatch.setattr(world.batch.tables, "lake", FailingLake(whole, room))
    with pytest.raises(Unavailable):
        world.run(log, csv_log(), keep_dates=False)
    monkeypatch.setattr(world.batch.tables, "lake", whole)
    world.learn(world.batch.ticks.of(world.time.now_ms), everything=True)
    world.time.now_ms += DAY_MS
    outcome = world.run(log, csv_log(), keep_dates=False)
    world.learn(world.batch.ticks.of(world.time.now_ms), everything=True)
    straight = ImportWorld(tmp_path / "straight")
    straight.run(log, csv_log(), keep_dates=False)
    assert not outcome.again
    assert world.raw() == straight.raw()
    today = END_MS // DAY_MS
    assert world.batch.tables.clean(today - 6, today).num_rows == len(straight.raw()) == 15


def test_a_dry_run_writes_nothing_and_says_what_would_come(world: ImportWorld, log: Path) -> None:
    log.write_text(log.read_text() + "nonsense\n")
    outcome = world.run(log, csv_log(), dry_run=True)
    assert world.files() == {}
    assert (outcome.events, outcome.introduced, outcome.rejected.kept[0].line) == (15, 5, 12)
    assert [one["event_type"] for one in outcome.sample] == ["like"] * 3 + ["ping_created"] * 3
    assert outcome.sample[0]["user_id"] == "u0"


def test_pings_that_the_lake_has_met_are_not_introduced_again(world: ImportWorld, log: Path, tmp_path: Path) -> None:
    """From the catalogue, and from raw files that no run has read: a second version would take their topics away."""
    early = (T0 - 86_400) * 1000
    world.land([row("ping_created", early, ping_id="p0", creator_id="ann", topics=["soup"])])
    world.learn(world.batch.ticks.of(early) + 1)
    world.time.now_ms = NOW_MS
    catalogue = write(tmp_path / "pings.csv", ["id,by,when", f"p1,bob,{T0 - 50_000}"])
    world.run(catalogue, csv_log("ping_id=id,creator_id=by,timestamp=when,event_type==ping_created"))
    world.land([row("like", early, ping_id="p2", user_id="u")])
    # Firehose without conversion leaves JSON; what cannot be read at all is left to the runs to tell of.
    lake = world.batch.tables.lake
    lake.write(
        "events/year=2026/month=11/day=20/stream-1", encode_rows([row("like", early, ping_id="p2", user_id="u")])
    )
    lake.write("events/year=2026/month=11/day=20/torn", b"PAR1")
    assert world.run(log, csv_log()).introduced == 3
    lake.delete("events/year=2026/month=11/day=20/stream-1")
    lake.delete("events/year=2026/month=11/day=20/torn")
    created = [one["ping_id"] for one in world.raw() if one["event_type"] == "ping_created"]
    assert sorted(created) == ["p0", "p1", "p2", "p3", "p4"]


def test_rejected_records_are_kept_with_their_reason_and_bounded(
    world: ImportWorld, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_KEPT", 50)
    monkeypatch.setattr("batch.importers.csv_reader.BATCH", 7)
    log.write_text(log.read_text() + "nonsense\n" * 70 + "u1,p1,dance,1\n" * 70)
    outcome = world.run(log, csv_log())
    assert (outcome.rejected.count, len(outcome.rejected.kept)) == (140, 50)
    assert outcome.rejected_file is not None
    kept = [json.loads(line) for line in world.batch.tables.lake.read(outcome.rejected_file).splitlines()]
    assert len(kept) == 50
    assert kept[0] == {
        "received_ms": world.time.now_ms,
        "code": "malformed",
        "field": None,
        "body": "nonsense",
        "message": "the record has 1 field, the header 4",
        "source": "log.csv",
        "record": 11,
        "line": 12,
    }
    assert outcome.rejected_file.startswith("rejected/day=2026-11-22/import-")


def test_a_log_of_which_nothing_fits_may_be_imported_again(world: ImportWorld, tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [HEADER, "u1,p1,buy,soon"])
    assert world.run(path, csv_log()).events == 0
    assert not world.run(path, csv_log()).again


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


AT = ("--at", "2026-11-22T12:01:00Z")


def test_the_command_shows_a_dry_run_then_imports_then_says_that_it_was_there(
    home: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_text(log.read_text() + "[bold]nonsense\n" * 30)
    command = ["import", "csv", str(log), "--map", BASIC, "--allow-rejected", *AT]
    assert cli.main([*command, "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert "dry run: nothing was written" in dry
    assert "[bold]nonsense" in dry
    assert "10 more" in dry
    assert not home.exists()
    assert cli.main(command) == 0
    done = capsys.readouterr().out
    assert "40 lines, 15 events (10 like, 5 ping_created)" in done
    assert "Next: pingfeed etl" in done
    assert "pingfeed train needs 500 feed requests" in done
    assert "fallback" in done
    assert cli.main(command) == 0
    assert "nothing to add" in capsys.readouterr().out


def test_the_command_prints_json(home: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_text(log.read_text() + "nonsense\n")
    assert cli.main(["import", "csv", str(log), "--map", BASIC, "--end-now", "--json", *AT]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["lines"], printed["events"], printed["introduced"]) == (11, 15, 5)
    assert printed["last"] == "2026-11-22T11:59:59.999Z"
    assert [one["line"] for one in printed["rejected"]["lines"]] == [12]
    assert all((home / "lake" / path).exists() for path in (*printed["files"], printed["rejected"]["file"]))


def test_long_queries_draw_no_progress_where_json_is_printed(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    assert staging.query("SELECT current_setting('enable_progress_bar')") == [(False,)]
    assert Engine()._connection.sql("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]
    staging.close()


def test_the_command_fails_if_nothing_could_be_imported(home: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [HEADER, "u1,p1,buy,1"])
    assert cli.main(["import", "csv", str(path), "--map", BASIC]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["csv", "FILE", "--map", BASIC, "--delimiter", "::"], "--delimiter must be one character"),
        (["csv", "FILE", "--map", BASIC, "--separator", ""], "--separator must not be empty"),
        (
            ["csv", "FILE", "--map", "user_id=user,timestamp==1795000000,event_type==like", "--end-now"],
            "cannot be moved",
        ),
        (["csv", "nowhere.csv", "--map", BASIC], "nowhere.csv does not exist"),
        (["metarank", "FILE", "--stretch", "long"], "'long' is not a length"),
        (["metarank", "FILE", "--events", "click=view"], "an interaction can become one of impression"),
        (["metarank", "FILE"], "no list and no interaction"),
        (["metarank", "FILE", "--keep-dates", "--end-now"], "--keep-dates and --end-now exclude each other"),
    ],
)
def test_what_the_caller_got_wrong_is_one_sentence(
    home: Path, log: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["import", *(str(log) if one == "FILE" else one for one in arguments)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"pingfeed import {arguments[0]}: ")
    assert message in error
    assert error.count("\n") == 1


def test_an_import_waits_for_no_tick_and_runs_beside_none(
    home: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LakeWorld(home).batch.lease():
        assert cli.main(["import", "csv", str(log), "--map", BASIC]) == 1
        assert "another etl, tick or train is running" in capsys.readouterr().err
        assert cli.main(["import", "csv", str(log), "--map", BASIC, "--dry-run"]) == 0
