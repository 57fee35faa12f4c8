"""The `pingfeed` command: help that teaches, lazy imports, one sentence an error, tables that cut nothing."""

import inspect
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import rich.text

from pingfeed import checks, cli, command_table
from pingfeed.command_table import GROUPS, Command
from pingfeed.settings import FEED_PORT, INGEST_PORT
from pingfeed.terminal import print_table

COMMANDS = [command for group in GROUPS.values() for command in group]
ID = "1995357-" + "b" * 40


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of this test's own."""
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path / "home"))


def code_of(words: list[str]) -> object:
    try:
        return cli.main(words)
    except SystemExit as ended:
        return ended.code


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_without_a_command_the_help_names_every_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert all(f"  {command.name} " in text and command.summary in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_has_a_sentence_an_example_and_every_option(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of([*command.name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert command.summary.split()[0] in text
    examples = command.example.splitlines()
    assert all(f"{line} ".startswith(f"pingfeed {command.name} ") for line in examples)
    assert examples[0] in text
    assert all(details.get("help") for _, details in command.options)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.name)
def test_a_function_takes_exactly_the_options_of_its_command(command: Command) -> None:
    declared = {action.dest for action in cli.parser_of(command)._actions} - {"help"}
    parameters = inspect.signature(command.function()).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        assert {name for name, one in parameters.items() if one.kind is inspect.Parameter.KEYWORD_ONLY} <= declared
    else:
        assert set(parameters) == declared


def test_a_family_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["model"]) == 2
    assert cli.main(["model", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.count("model rollback") == 2
    assert "doctor" not in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tik"], "pingfeed: there is no command 'tik'; did you mean `pingfeed tick`?"),
        (["model", "promot"], "pingfeed: there is no command 'model promot'; did you mean `pingfeed model promote`?"),
        (["xyzzy"], "pingfeed: there is no command 'xyzzy'; `pingfeed --help` lists them"),
        (["serve", "everything"], "pingfeed serve: argument service: invalid choice: 'everything'"),
        (["serve", "feed", "--port", "99999"], "pingfeed serve: argument --port: '99999' is not a whole number from 0"),
        (["tick", "--at", "noon"], "pingfeed tick: argument --at: 'noon' is not a time such as 2026-11-22T12:00:00Z"),
        (["train", "--days", "0"], "pingfeed train: argument --days: '0' is not a whole number of at least 1"),
        (["simulate", "live", "--rate", "0"], "pingfeed simulate live: argument --rate: '0' is not a number"),
        (["model", "promote"], "pingfeed model promote: the following arguments are required: MODEL"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(sentence)
    assert error.count("\n") == 1


def test_a_command_whose_package_is_absent_is_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = Command("elsewhere", "no_such_package.commands:run", "Not here", "pingfeed elsewhere")
    monkeypatch.setattr(cli, "GROUPS", {**GROUPS, "Elsewhere": (absent,)})
    assert "elsewhere" not in cli.overview().lower()
    assert cli.main(["elsewhere"]) == 2
    assert "there is no command 'elsewhere'" in capsys.readouterr().err


def test_help_imports_no_library_and_serve_no_service() -> None:
    code = "import sys, pingfeed.cli; pingfeed.cli.main([]); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"msgspec", "numpy", "rich", "duckdb", "fastapi", "batch.commands", "simulator.commands"} & set(loaded)
    code = "import sys, pingfeed.commands; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"fastapi", "uvicorn", "pyarrow", "numpy", "ingest_api.app", "feed_api.app"} & set(loaded)


def test_serve_rejects_an_unprotected_address_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "ingest", "--host", "0.0.0.0"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("pingfeed serve: PINGFEED_AUTH is none")


def test_serve_names_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PINGFEED_TICK_MINUTES", "soon")
    assert cli.main(["serve", "all"]) == 1
    assert "PINGFEED_TICK_MINUTES" in capsys.readouterr().err


def test_doctor_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["doctor", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == {"checks"}
    assert all(check.keys() == {"name", "ok", "detail"} for check in printed["checks"])
    assert printed["checks"][0]["name"] == "settings"


def test_doctor_shows_settings_and_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "EXTRAS", {"batch": ("no_such_module",)})
    cli.main(["doctor"])
    text = capsys.readouterr().out
    assert "PINGFEED_TICK_MINUTES" in text
    assert "missing: no_such_module; install pingfeed[batch]" in text
    assert "absent" in text


def test_doctor_shows_a_wrong_setting_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PINGFEED_AUTH", "basic")
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "PINGFEED_AUTH must be none, api_key, jwt or gateway_jwt" in text
    assert "FAILS" in text


SENTENCE = "a sentence that is much longer than such a narrow terminal is wide, with an id in it: " + ID
ROWS = [(ID, "one", SENTENCE), ("1", "", "short\tand\nbroken"), (rich.text.Text("red", "red"), ID, "")]


def printed(terminal: bool, columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    print_table(("model", "state", "gate"), ROWS, title="Models")
    return out.getvalue()


@pytest.mark.parametrize("columns", [1, 20, 60, 80, 200, 1000])
def test_a_terminals_table_never_cuts_an_id(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(True, columns, monkeypatch)
    assert text.count(ID) == 3
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "\x1b[31mred" in text
    assert (SENTENCE in text) is (columns == 1000), "sentences fold"


@pytest.mark.parametrize("columns", [1, 80, 1000])
def test_a_table_that_is_piped_is_plain_lines_of_aligned_columns(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = len(ID) + 2
    assert printed(False, columns, monkeypatch).splitlines() == [
        "Models",
        f"{'model':{wide}}{'state':{wide}}gate",
        f"{ID}  {'one':{wide}}{SENTENCE}",
        f"{'1':{wide}}{'':{wide}}short and broken",
        f"{'red':{wide}}{ID}",
    ]


def test_the_ports_are_those_of_the_contract() -> None:
    assert (INGEST_PORT, FEED_PORT) == (8000, 8001)
    assert str(INGEST_PORT) in command_table._INGEST[1]["default"]
    assert str(FEED_PORT) in command_table._FEED[1]["default"]
