"""The stories of `tests/unit/test_forbidden.py` with the signals in MiniStack's DynamoDB.

What only AWS can show: how soon an eventually consistent read sees a write (signals use none), and throttling.
"""

from pathlib import Path

import boto3
import pytest

from tests.conformance.place import Place
from tests.prove import figure, rounds
from tests.unit.loop_world import loop_world
from tests.unit.test_forbidden import losing, tell

pytestmark = pytest.mark.real
SEEDS, STEPS = rounds(1, 5), rounds(4, 14)


@pytest.mark.timeout(1800)
async def test_no_page_ever_shows_what_is_forbidden(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = place.table
    items = boto3.resource("dynamodb").Table(table)

    def clear() -> None:
        for item in items.scan()["Items"]:
            items.delete_item(Key={"k": item["k"]})

    shown, lose = 0, losing(monkeypatch, clear)
    for seed in range(300, 300 + SEEDS):
        await lose()
        async with loop_world(tmp_path / str(seed), EXPLORE_SHARE="1", SIGNALS_URL=f"dynamodb://{table}") as loop:
            loop.lose_signals = lose  # type: ignore[method-assign]
            shown += await tell(loop, seed, STEPS)
    figure("forbidden, in MiniStack", stories=SEEDS, steps=SEEDS * STEPS, items=shown)
    assert shown > 20 * SEEDS
