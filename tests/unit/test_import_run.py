"""An import as a whole: twice is once, broken off is taken up again, a dry run leaves nothing behind."""

import json
from pathlib import Path

import pytest

from batch.engine import Engine
from batch.importers import formats
from batch.importers.staging import Staging
from pingfeed import cli
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import encode_rows
from tests.unit.dying_lake import deaths
from tests.unit.import_world import BASIC, END_MS, HEADER, NOW_MS, ImportWorld, csv_log, write
from tests.unit.lakes import LakeWorld, row

T0 = END_MS // 1000 - 5 * 86_400
LINES = [HEADER, *(f"u{n % 7},p{n % 5},like,{T0 + 40_000 * n}" for n in range(10))]


@pytest.fixture
def world(tmp_path: Path) -> ImportWorld:
    return ImportWorld(tmp_path / "home")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path / "log.csv", LINES)


def learn_all(world: ImportWorld) -> tuple[int, int]:
    """How many events the run of now reads, and how many it keeps."""
    learned = world.learn(world.batch.ticks.of(world.time.now_ms), everything=True)
    return learned.read, learned.kept


@pytest.mark.parametrize("keep_dates", [True, False])
def test_a_second_import_adds_nothing(world: ImportWorld, log: Path, tmp_path: Path, keep_dates: bool) -> None:
    first = world.run(log, csv_log(), keep_dates=keep_dates)
    before = world.files()
    learn_all(world)
    world.time.now_ms += 3 * DAY_MS
    renamed = log.rename(tmp_path / "renamed.csv")
    again = world.run(renamed, csv_log(), keep_dates=keep_dates)
    assert (again.again, again.events, again.files) == (True, 0, first.files)
    assert {path: data for path, data in world.files().items() if path in before} == before
    assert learn_all(world) == (0, 0)


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
    assert learn_all(world) == (25, 25)


def test_a_log_that_has_grown_adds_what_is_new(world: ImportWorld, log: Path) -> None:
    world.run(log, csv_log())
    learn_all(world)
    log.write_text(log.read_text() + f"u9,p9,like,{T0 + 400_000}\nu9,p0,like,{T0 + 400_000}\n")
    world.time.now_ms = NOW_MS + DAY_MS
    assert world.run(log, csv_log()).introduced == 1
    assert learn_all(world) == (3, 3)


def test_an_import_that_was_broken_off_is_taken_up_again(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.importers.staging.MAX_ROWS", 3)
    straight = ImportWorld(tmp_path / "straight")
    straight.run(log, csv_log(), keep_dates=False)
    today = END_MS // DAY_MS
    for attempt in deaths(least=8, most=40):
        world = ImportWorld(tmp_path / f"died-{attempt.changes}")
        with attempt.in_lake(world.batch.tables):
            world.run(log, csv_log(), keep_dates=False)
        learn_all(world)
        world.time.now_ms += DAY_MS if world.batch.tables.lake.list("imports") else 0  # else it had not begun
        again = world.run(log, csv_log(), keep_dates=False).again
        assert again or attempt.died  # a run that died after its commit is complete, too
        learn_all(world)
        assert world.raw() == straight.raw(), f"died at change {attempt.changes}"
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
    json_rows = encode_rows([row("like", early, ping_id="p2", user_id="u")])
    others = {f"events/year=2026/month=11/day=20/{name}": data for name, data in (("s", json_rows), ("torn", b"PAR1"))}
    for path, data in others.items():
        world.batch.tables.lake.write(path, data)
    assert world.run(log, csv_log()).introduced == 3
    for path in others:
        world.batch.tables.lake.delete(path)
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


def test_a_log_of_which_nothing_fits_may_be_imported_again(world: ImportWorld) -> None:
    for _ in range(2):
        outcome = world.csv(["u1,p1,buy,soon"])
        assert (outcome.events, outcome.again) == (0, False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


CONSTANT_TIME = "user_id=user,timestamp==1795000000,event_type==like"
AT = ("--at", "2026-11-22T12:01:00Z")


def test_the_command_shows_a_dry_run_then_imports_then_says_that_it_was_there(
    home: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_text(log.read_text() + "[bold]nonsense\n" * 30)
    command = ["import", "csv", str(log), "--map", BASIC, "--allow-rejected", *AT]
    assert cli.main([*command, "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert [part for part in ("dry run: nothing was written", "[bold]nonsense", "10 more") if part not in dry] == []
    assert not home.exists()
    assert cli.main(command) == 0
    done = capsys.readouterr().out
    said = ("40 lines, 15 events (10 like, 5 ping_created)", "Next: pingfeed etl")
    assert [part for part in (*said, "train needs 500 feed requests", "fallback") if part not in done] == []
    assert cli.main(command) == 0
    assert "nothing to add" in capsys.readouterr().out


_HEAD = "user,item,action,at,request"
_WITH_REQUEST = f"{BASIC},request_id=request"
_FRESH, _OLD = NOW_MS - 12 * 3_600_000, NOW_MS - 40 * 86_400_000


def _lists(count: int, at_ms: int, *acts: str) -> list[str]:
    """Lists of two pings, of which users do `acts` about the first."""
    lines = []
    for n in range(count):
        shown = [f"u{n % 7},p{n % 3},{act},{at_ms + n},r{n}" for act in ("impression", *acts)]
        lines += [*shown, f"u{n % 7},p3,impression,{at_ms + n},r{n}"]
    return lines


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        pytest.param([*_lists(500, _FRESH, "like")], 500, id="enough"),
        pytest.param([*_lists(500, _FRESH, "share", "report")], 0, id="what is reported is no interaction"),
        pytest.param([*_lists(500, _OLD, "like")], 0, id="too old to train on"),
        pytest.param([*_lists(500, NOW_MS - 3_600_000, "like")], 0, id="label windows still open"),
        pytest.param(
            [line for line in _lists(500, _FRESH, "like") if ",p3," not in line], 0, id="nothing else was shown"
        ),
        pytest.param([line.rpartition(",")[0] + "," for line in _lists(500, _FRESH, "like")], 0, id="no request ids"),
    ],
)
def test_the_last_lines_promise_training_only_where_training_finds_enough(
    home: Path, tmp_path: Path, lines: list[str], found: int, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write(tmp_path / "log.csv", [_HEAD, *lines])
    assert cli.main(["import", "csv", str(log), "--map", _WITH_REQUEST, *AT]) == 0
    said = capsys.readouterr().out
    assert ("then pingfeed train" in said) is (found == 500)
    assert (f"This import has {found}." in said) is (found < 500)
    assert cli.main(["etl", *AT]) == 0
    capsys.readouterr()
    assert cli.main(["train", *AT]) == 0
    assert ("Not enough training data" in capsys.readouterr().out) is (found < 500)


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
        (["csv", "FILE", "--map", CONSTANT_TIME, "--end-now"], "cannot be moved"),
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
