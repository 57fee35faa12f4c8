"""The evaluation on the real log: the numbers that the docs tell of hold, within what a few hundred lists can say."""

import json
from pathlib import Path

import pytest

from pingfeed.cli import main

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
TEST_FROM = 5600


def test_the_model_beats_the_click_rate_and_the_baselines_are_what_they_were(
    ranklens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "ranklens", str(ranklens), "--test-from", str(TEST_FROM), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lists"] == 1418
    assert told["paired"]["model-ctr"]["ci"][0] > 0
    values = {name: one["ndcg_at_10"] for name, one in told["rankers"].items()}
    # Published for the whole log: chance 0.33, votes 0.54, click rate 0.595, Metarank's features 0.606.
    assert values["random"] == pytest.approx(0.33, abs=0.02)
    assert values["ctr"] - values["votes"] == pytest.approx(0.595 - 0.537, abs=0.01)
    assert values["metarank50"] - values["ctr"] == pytest.approx(0.606 - 0.595, abs=0.01)
