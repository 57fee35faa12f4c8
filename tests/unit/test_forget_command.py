"""`pingfeed forget`: what it takes, what it says, and that it does nothing by halves."""

import asyncio
import io
import json
from pathlib import Path

import pytest

from batch.forget.tombstones import Tombstones, hash_of
from pingfeed.adapters.registry import open_lake
from pingfeed.cli import main
from pingfeed.settings import load
from pingfeed.spool.spool import Spool


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path))
    return tmp_path


def _waiting(home: Path) -> list[str]:
    return [stone.hash for stone in Tombstones(open_lake(load({"PINGFEED_HOME": str(home)}))).pending()]


def test_several_users_in_one_call_wait_for_one_night(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", "ada", "bob", "ada"]) == 0
    assert sorted(_waiting(home)) == sorted(map(hash_of, ("ada", "bob")))
    said = capsys.readouterr().out
    assert said.startswith("2 users: ")
    assert "pingfeed etl" in said


def test_ids_come_from_standard_input_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("ada\nbob\n\n"))
    assert main(["forget", "-", "eve", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["users"] == 3
    assert outcome["at_ms"] > 1_700_000_000_000
    assert len(_waiting(home)) == 3


@pytest.mark.parametrize("wrong", ["", "white space", "ümlaut", "x" * 129, "a/b"])
def test_one_bad_id_and_nobody_is_forgotten(home: Path, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", "ada", wrong]) == 1
    assert "nobody was forgotten" in capsys.readouterr().err
    assert not (home / "lake").exists()


async def _spool(home: Path, count: int) -> None:
    spool = Spool(home / "spool" / "ingest")
    await spool.append(b"{}\n" * count, count, 1_700_000_000_000)
    await spool.close()


def test_who_has_events_in_a_spool_is_told_to_forget_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", "ada"]) == 0
    assert "again" not in capsys.readouterr().out
    asyncio.run(_spool(home, 3))
    assert main(["forget", "ada"]) == 0
    assert "3 events wait in spools" in capsys.readouterr().out
    assert main(["forget", "ada", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["waiting"] == 3


def test_the_help_says_what_stays(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["forget", "--help"])
    assert "ping_deleted" in capsys.readouterr().out
