"""`pingfeed signals rebuild`, `export` and `forget` with signals in DynamoDB, which keeps hashes of targets."""

import json
from pathlib import Path

import pytest

from pingfeed.cli import main
from pingfeed.core.events import Row
from tests.unit.fake_dynamodb import FakeDynamodb
from tests.unit.lakes import FIRST, TICK_MS, LakeWorld, row

Output = pytest.CaptureFixture[str]
DECIDED = [
    ("follow", {"creator_id": "c1"}),
    ("follow", {"creator_id": "c2"}),
    ("unfollow", {"creator_id": "c2"}),
    ("block", {"creator_id": "c3"}),
    ("hide", {"ping_id": "p4"}),
    ("unhide", {"ping_id": "p4"}),
    ("report", {"ping_id": "p5"}),
    ("mute", {"creator_id": "c6"}),
    ("mute", {"topic": "de rien"}),
]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeDynamodb) -> LakeWorld:
    settings = {"PINGFEED_SIGNALS_URL": "dynamodb://signals"}
    for name, value in {"PINGFEED_HOME": str(tmp_path / "home"), **settings}.items():
        monkeypatch.setenv(name, value)
    return LakeWorld(tmp_path / "home", settings)


def decided(user: str, more: int = 0) -> list[Row]:
    at_ms = FIRST * TICK_MS - 1
    rows = [row(kind, at_ms, user_id=user, seq=seq, **about) for seq, (kind, about) in enumerate(DECIDED)]
    return rows + [row("block", at_ms, user_id=user, creator_id=f"more-{n}") for n in range(more)]


@pytest.mark.parametrize("more", [0, 60])
def test_what_was_rebuilt_is_exported_by_name_and_forgotten_item_by_item(
    world: LakeWorld, fake: FakeDynamodb, capsys: Output, more: int
) -> None:
    world.land([*decided("ada", more), *decided("bob", more)])
    assert main(["signals", "rebuild"]) == 0
    items = fake.tables["signals"]
    assert ("s/ada/1.0" in items) == bool(more)
    capsys.readouterr()
    assert main(["export", "ada"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    relations = {f"{one['relation']}:{one['target']}": one["active"] for one in found if one["kind"] == "relation"}
    active = ["follow:c1", "block:c3", "hide:p5", "mute:creator:c6", "mute:topic:de rien"]
    active += [f"block:more-{n}" for n in range(more)]
    assert relations == dict.fromkeys(active, True) | {"follow:c2": False, "hide:p4": False}
    assert main(["forget", "ada"]) == 0
    assert not [key for key in items if key == "s/ada" or key.startswith("s/ada/")]
    assert "s/bob" in items
    assert main(["export", "ada"]) == 1
