"""One home for all commands: `--home`, PINGFEED_HOME, what the last demo or simulation chose, the default."""

import json
from pathlib import Path

import pytest

from pingfeed import cli
from pingfeed.home import POINTER, follow, point_to
from simulator.demo import Demo

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and no home in the environment."""
    monkeypatch.setenv("PINGFEED_HOME", "restored after the test")
    monkeypatch.delenv("PINGFEED_HOME")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(home: Path) -> Path:
    home.mkdir(parents=True)
    assert point_to(home)
    return home


def homes_of_demos(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The homes of the demos that are run from now on; none is really run."""
    homes: list[Path] = []

    def run(demo: Demo, *_: object) -> int:
        homes.append(demo.home)
        return 0

    monkeypatch.setattr("simulator.demo.run", run)
    return homes


def test_every_command_follows_the_home_of_the_last_simulation_and_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    world = ("--users", "20", "--pings", "40", "--days", "1", "--home", "elsewhere")
    assert cli.main(["simulate", "history", *world]) == 0
    assert "the home is" not in capsys.readouterr().err
    line = f"pingfeed: the home is {place / 'elsewhere'} (var/current-home); PINGFEED_HOME chooses another\n"
    for words in (["doctor"], ["etl"], ["model", "list"], ["reconcile"], ["tick"]):
        monkeypatch.delenv("PINGFEED_HOME", raising=False)
        assert cli.main([*words, "--json"]) == 0
        said = capsys.readouterr()
        assert said.err == line
        json.loads(said.out)
    assert not (place / "var" / "pingfeed").exists()
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().err == "", "PINGFEED_HOME is set"


@pytest.mark.parametrize("text", ["/nowhere/at/all", "", "relative", "\0", "\udcff"])
def test_a_pointer_to_a_home_that_is_not_there_is_ignored_and_reported(text: str) -> None:
    POINTER.parent.mkdir()
    POINTER.write_bytes(text.encode("utf-8", "surrogateescape"))
    environ: dict[str, str] = {}
    assert "the home is var/pingfeed" in follow(environ)
    assert not environ


def test_without_a_pointer_the_default_home_holds_and_nothing_is_said() -> None:
    environ: dict[str, str] = {}
    assert (follow(environ), environ) == ("", {})


def test_a_simulation_in_the_default_home_takes_the_pointer_away(place: Path) -> None:
    made(place / "elsewhere")
    assert point_to(Path("var/pingfeed"))
    assert not POINTER.exists()


def test_a_default_home_with_data_of_its_own_is_never_left(place: Path) -> None:
    (place / "var" / "pingfeed" / "lake").mkdir(parents=True)
    assert not point_to(place / "var" / "demo")
    assert not POINTER.exists()


def test_help_and_the_demo_follow_no_pointer(place: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    made(place / "elsewhere")
    homes = homes_of_demos(monkeypatch)
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--help"])
    assert cli.main(["demo"]) == 0
    assert capsys.readouterr().err == ""
    assert homes == [place / "var" / "demo"]
    assert POINTER.read_text() == f"{place / 'var' / 'demo'}\n"


@pytest.mark.parametrize("environ", [True, False])
def test_the_demo_says_when_other_commands_stay_with_another_home(
    place: Path, environ: bool, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    homes_of_demos(monkeypatch)
    own = place / "mine" if environ else Path("var/pingfeed")
    if environ:
        monkeypatch.setenv("PINGFEED_HOME", str(own))
    else:
        (own / "lake").mkdir(parents=True)
    assert cli.main(["demo"]) == 0
    assert f"Other commands stay with {own}; " in capsys.readouterr().out
    assert not POINTER.exists()


def test_the_demos_preparation_is_of_the_home_that_every_command_uses(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, homes = made(place / "elsewhere"), homes_of_demos(monkeypatch)
    assert cli.main(["demo", "--prepare"]) == 0
    assert homes == [home]
