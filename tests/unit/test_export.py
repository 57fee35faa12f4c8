"""`pingfeed export USER`: everything about a user as JSON lines, and only about that user."""

import asyncio
import json
from pathlib import Path

import pytest

from batch.ops.forget import forget_users
from pingfeed.adapters import registry
from pingfeed.cli import main
from pingfeed.core.clock import system_clock
from pingfeed.core.events import encode_rows
from pingfeed.core.signals import Act
from tests.unit.forget_world import land_bytes
from tests.unit.lakes import DAY, FIRST, TICK_MS, LakeWorld, event_id, like, row

Output = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LakeWorld:
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path / "home"))
    return LakeWorld(tmp_path / "home")


def exported(capsys: Output, user: str = "ada") -> list[dict[str, object]]:
    assert main(["export", user]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def _told(world: LakeWorld, *acts: Act) -> None:
    signals = registry.open_signals(world.batch.settings)
    await signals.apply(acts)
    await signals.close()


def test_export_has_every_event_once_also_those_that_no_run_has_read(world: LakeWorld, capsys: Output) -> None:
    world.land([like(FIRST, 1), like(FIRST, 2, user="bob")], history=True)
    world.land([like(FIRST + 1, 3), like(FIRST + 1, 1)])
    world.learn(FIRST + 2, everything=True)
    world.batch.tables.lake.delete(next(path for path in world.batch.tables.lake.list("events") if "history" in path))
    land_bytes(world, FIRST + DAY, "unread", encode_rows([like(FIRST + DAY, 4), like(FIRST + DAY, 5, user="bob")]))
    world.land([like(FIRST + 9 * DAY, 1)])
    found = exported(capsys)
    assert [one["event_id"] for one in found if one["kind"] == "event"] == [event_id(n) for n in (1, 3, 4, 1)]
    assert found[0]["ping_id"] == "p1"
    assert {one["user_id"] for one in found} == {"ada"}


def test_export_has_relations_and_the_profile(world: LakeWorld, capsys: Output) -> None:
    kinds = [
        ("follow", "c1"),
        ("follow", "c2"),
        ("unfollow", "c2"),
        ("block", "c3"),
        ("hide", "p4"),
        ("unhide", "p4"),
        ("engaged", "p6"),
    ]
    now_ms = system_clock()
    acts = [Act("ada", kind, target, now_ms + n) for n, (kind, target) in enumerate(kinds)]  # type: ignore[arg-type]
    asyncio.run(_told(world, *acts, Act("bob", "block", "c9", now_ms)))
    found = exported(capsys)
    relations = [(one["relation"], one["target"], one["active"]) for one in found if one["kind"] == "relation"]
    assert sorted(relations) == [
        ("block", "c3", True),
        ("follow", "c1", True),
        ("follow", "c2", False),
        ("hide", "p4", False),
    ]
    assert found[-1]["kind"] == "profile"
    assert found[-1]["engaged"] == [[now_ms + 6, "p6", 0]]


def test_export_of_an_unknown_or_forgotten_user_is_one_sentence(world: LakeWorld, capsys: Output) -> None:
    world.land([like(FIRST, 1)])
    assert main(["export", "nosuch-user"]) == 1
    forget_users(world.batch, ["ada"])
    assert main(["export", "ada"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"pingfeed export: user {user} is unknown: no event, no relation and no profile is stored"
        for user in ("nosuch-user", "ada")
    ]


def test_export_names_a_file_that_cannot_be_read(world: LakeWorld, capsys: Output) -> None:
    world.land([row("follow", FIRST * TICK_MS, user_id="ada", creator_id="c1")])
    land_bytes(world, FIRST, "damaged.parquet", b"PAR1 cut")
    assert main(["export", "ada"]) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert "files that could not be read: 1, such as events/" in said.err
