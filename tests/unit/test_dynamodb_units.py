"""What a feed and a POST cost in DynamoDB: a short version of `python -m benchmarks.dynamodb_units`."""

import json

import pytest

from benchmarks.dynamodb_units import main, simulate


def test_a_feed_and_a_post_cost_two_write_units_at_most_and_a_feed_four_read_units() -> None:
    cost = simulate(users=30, days=1.5)
    assert cost.feeds > 500
    assert cost.feed_write_units <= 2
    assert cost.post_write_units <= 2
    assert cost.feed_read_units <= 4
    assert cost.post_read_units <= 1
    assert (cost.packet_write_units_median, cost.packet_write_units_p95) == (1, 1)


def test_a_month_of_seen_pings_costs_no_more_writes() -> None:
    cost = simulate(users=4, days=2, seen=1500)
    assert cost.feed_write_units <= 2
    assert cost.post_write_units <= 2


def test_the_cost_model_reads_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["dynamodb_units", "--users", "2", "--days", "0.5", "--json"])
    main()
    cost = json.loads(capsys.readouterr().out)
    assert cost["served_acts"] == cost["feeds"]
    assert cost["folds"] >= 0
