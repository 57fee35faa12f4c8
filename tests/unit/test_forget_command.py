"""`pingfeed forget`: what it removes, what it says, and that one bad id stops all of it."""

import asyncio
import io
import json
from pathlib import Path

import pytest

from batch.lake.tombstones import DeletionRequests, hash_of
from pingfeed.adapters.registry import open_candidates, open_lake, open_signals
from pingfeed.cli import main
from pingfeed.core.clock import system_clock
from pingfeed.core.signals import Act
from pingfeed.settings import load
from pingfeed.spool.spool import Spool
from tests.unit.lakes import FIRST, LakeWorld, like

Output = pytest.CaptureFixture[str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path))
    return tmp_path


def _pending(home: Path) -> list[str]:
    return [one.hash for one in DeletionRequests(open_lake(load({"PINGFEED_HOME": str(home)}))).pending()]


async def _serve(home: Path, user: str) -> None:
    """Give a user a packet and signals."""
    chosen = load({"PINGFEED_HOME": str(home)})
    candidates, signals = open_candidates(chosen), open_signals(chosen)
    await candidates.put_many({user: b"packet"}, 1 << 50)
    await signals.apply([Act(user, "follow", "c1", system_clock())])
    await candidates.close()
    await signals.close()


def test_several_users_in_one_call_wait_for_one_nightly_job(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("ada\nbob\n\n"))
    assert main(["forget", "-", "eve", "ada", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["users"] == 3
    assert sorted(_pending(home)) == sorted(map(hash_of, ("ada", "bob", "eve")))


def test_the_command_says_what_it_removed_and_claims_nothing_of_an_unknown_user(home: Path, capsys: Output) -> None:
    asyncio.run(_serve(home, "ada"))
    assert main(["forget", "nosuch-user"]) == 0
    said = capsys.readouterr().out
    assert "deletion requests: 1; removed packets: 0, signals: 0" in said
    assert "nosuch-user is unknown: no packet, no signals and no event in the lake" in said
    assert main(["forget", "ada", "nosuch-user"]) == 0
    said = capsys.readouterr().out
    assert "deletion requests: 2; removed packets: 1, signals: 1" in said
    assert "pingfeed etl" in said
    assert "ada is unknown" not in said


def test_a_user_with_nothing_but_events_is_not_unknown(home: Path, capsys: Output) -> None:
    LakeWorld(home).land([like(FIRST, user="ada")])
    assert main(["forget", "ada", "bob", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == ["bob"]


@pytest.mark.parametrize("wrong", ["", "white space", "ümlaut", "x" * 129, "a/b"])
def test_one_bad_id_and_no_user_is_forgotten(home: Path, wrong: str, capsys: Output) -> None:
    assert main(["forget", "ada", wrong]) == 1
    assert "nothing was done" in capsys.readouterr().err
    assert not (home / "lake").exists()


async def _spool(home: Path, count: int) -> None:
    spool = Spool(home / "spool" / "ingest")
    await spool.append(b"{}\n" * count, count, 1_700_000_000_000)
    await spool.close()


def test_the_command_asks_to_be_repeated_while_events_wait_in_a_spool(home: Path, capsys: Output) -> None:
    assert main(["forget", "ada"]) == 0
    assert "again" not in capsys.readouterr().out
    asyncio.run(_spool(home, 3))
    assert main(["forget", "ada"]) == 0
    assert "events waiting in spools: 3; " in capsys.readouterr().out
    assert main(["forget", "ada", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["waiting"] == 3


def test_the_help_says_what_stays(home: Path, capsys: Output) -> None:
    with pytest.raises(SystemExit):
        main(["forget", "--help"])
    assert "ping_deleted" in capsys.readouterr().out
