"""The `pingfeed` command: lazy, one sentence an error, `serve` and `doctor`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pingfeed import checks, cli
from pingfeed.settings import FEED_PORT, INGEST_PORT


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment whose home is this test's own; the process has it too."""
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path / "home"))
    return {"PINGFEED_HOME": str(tmp_path / "home")}


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(command.name in text for command in cli.COMMANDS)


def test_a_command_whose_package_is_absent_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = cli.Command("elsewhere", "not here", "no_such_package.commands:run")
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, absent))
    assert "elsewhere" not in cli.build_parser().format_help()


def test_importing_the_command_imports_no_service() -> None:
    code = "import sys, pingfeed.cli, pingfeed.commands; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("fastapi", "uvicorn", "pyarrow", "ingest_api.app", "feed_api.app") if name in loaded]


def test_serve_refuses_an_open_door_in_one_sentence(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "ingest", "--host", "0.0.0.0"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("pingfeed serve: PINGFEED_AUTH is none")


def test_serve_names_a_wrong_setting(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PINGFEED_TICK_MINUTES", "soon")
    assert cli.main(["serve", "all"]) == 1
    assert "PINGFEED_TICK_MINUTES" in capsys.readouterr().err


def test_serve_knows_its_services(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "everything"])
    assert ended.value.code == 2


def test_doctor_prints_json(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["doctor", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == {"checks"}
    assert all(check.keys() == {"name", "ok", "detail"} for check in printed["checks"])
    assert printed["checks"][0]["name"] == "settings"


def test_doctor_shows_settings_and_findings_to_a_person(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(checks, "EXTRAS", {"batch": ("no_such_module",)})
    cli.main(["doctor"])
    text = capsys.readouterr().out
    assert "PINGFEED_TICK_MINUTES" in text
    assert "install pingfeed[batch]" in text
    assert "absent" in text


def test_doctor_shows_a_wrong_setting_and_fails(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PINGFEED_AUTH", "basic")
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "PINGFEED_AUTH" in text
    assert "FAILS" in text


def test_the_ports_are_those_of_the_contract() -> None:
    assert (INGEST_PORT, FEED_PORT) == (8000, 8001)
