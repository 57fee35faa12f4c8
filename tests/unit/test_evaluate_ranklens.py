"""`pingfeed evaluate ranklens` on a log in which we know what is liked."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch.evaluate import metarank50
from batch.evaluate.clicked import baseline_scores, clicked_lists, read_metarank
from batch.evaluate.ranklens import Evaluation
from pingfeed.cli import main
from pingfeed.core.errors import InvalidInput
from tests.unit.import_world import click as clicked_on
from tests.unit.import_world import listed, write_json

START_MS = 1_636_993_834_000
FILMS = 40
SHOWN = 8


def item(number: int) -> dict[str, Any]:
    fields = {
        "title": f"film number {number}",
        "genres": ["drama"] if number % 2 else ["comedy"],
        "tags": [f"tag {number % 5}"],
        "actors": [f"actor {number % 7}"],
        "director": f"director {number % 3}",
        "vote_cnt": float(number),
    }
    named = [{"name": name, "value": value} for name, value in fields.items()]
    return {"event": "item", "id": f"i{number}", "item": str(number), "timestamp": str(START_MS), "fields": named}


def ranking(number: int, films: list[int]) -> dict[str, Any]:
    return listed(number, START_MS + number * 1000, *map(str, films), user=f"user-{number % 20}")


def click(number: int, film: int) -> dict[str, Any]:
    return clicked_on(number, START_MS + number * 1000 + 500, str(film), f"user-{number % 20}")


def log(lists: int = 300) -> list[dict[str, Any]]:
    """Films of a low number are liked more; every fifth list has no click."""
    rng = np.random.default_rng(3)
    events = [item(number) for number in range(FILMS)]
    for number in range(lists):
        films = rng.choice(FILMS, SHOWN, replace=False).tolist()
        events.append(ranking(number, films))
        if number % 5:
            events += [click(number, film) for film in films if rng.random() < (0.9 if film < FILMS // 4 else 0.05)]
    return events


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_json(tmp_path_factory.mktemp("log") / "events.jsonl", log())


@pytest.fixture(scope="module")
def report(file: Path) -> dict[str, Any]:
    """What the command prints."""
    with redirect_stdout(io.StringIO()) as printed:
        assert main(["evaluate", "ranklens", str(file), "--test-from", "160", "--json"]) == 0
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


def test_every_ranker_is_reported_with_its_interval(file: Path, report: dict[str, Any]) -> None:
    assert report["lists"] == len(clicked_lists(read_metarank(file)).lists) - 160
    expected = {"model", "model_nightly", "metarank50", "random", "shown", "votes", "ctr"}
    assert set(report["rankers"]) == expected
    for one in report["rankers"].values():
        assert one["ci"][0] <= one["ndcg_at_10"] <= one["ci"][1]
    assert {"model-ctr", "model-metarank50"} <= set(report["paired"])


def test_the_model_learns_what_users_like_and_beats_chance(report: dict[str, Any]) -> None:
    values = {name: one["ndcg_at_10"] for name, one in report["rankers"].items()}
    assert values["random"] < 0.7
    assert min(values["model"], values["ctr"], values["metarank50"]) > 0.9
    assert values["votes"] < values["random"], "the liked films are those with few votes"


def test_a_paired_difference_is_that_of_the_rankers(report: dict[str, Any]) -> None:
    one, other = (report["rankers"][name]["ndcg_at_10"] for name in ("model", "ctr"))
    assert report["paired"]["model-ctr"]["mean"] == pytest.approx(one - other)


def test_only_clicked_lists_count_in_time_order(tmp_path: Path) -> None:
    events = [item(n) for n in range(4)]
    for number in (2, 1, 3):
        events.append(ranking(number, [0, 1, 2, 3]))
    events += [click(2, 1), click(3, 0), click(3, 2)]
    clicked = clicked_lists(read_metarank(write_json(tmp_path / "log", events)))
    assert [one.request_id for one in clicked.lists] == ["r2", "r3"]
    assert clicked.starts.tolist() == [0, 4, 8]
    assert clicked.grades.tolist() == [2, 5, 2, 2, 5, 2, 5, 2]
    assert clicked.position.tolist() == [0, 1, 2, 3] * 2


def test_the_click_rate_counts_only_what_came_before_the_list(tmp_path: Path) -> None:
    events = [item(n) for n in range(2)] + [ranking(1, [0, 1]), click(1, 1), ranking(2, [0, 1]), click(2, 1)]
    log = read_metarank(write_json(tmp_path / "log", events))
    rates = baseline_scores(log, clicked_lists(log), seed=0)["ctr"]
    assert rates[:2].tolist() == [0, 0], "nothing was known before the first list"
    assert rates[2:].tolist() == pytest.approx([10 / 21, 11 / 21]), "20 impressions at the average of 1 in 2"


def test_no_baseline_sees_what_happens_after_a_list(tmp_path: Path) -> None:
    """Whatever happens from a list on, the lists before it and it have the same features."""
    whole = log(120)
    cut = next(i for i, event in enumerate(whole) if event.get("id") == "r100")
    earlier, later = whole[: cut + 1], whole[cut + 1 :]
    other = [{**event, "item": str(FILMS - 1 - int(event["item"]))} if "ranking" in event else event for event in later]
    made = []
    for name, events in (("as it was", whole), ("otherwise", earlier + other)):
        read = read_metarank(write_json(tmp_path / name, events))
        clicked = clicked_lists(read)
        known = [n for n, one in enumerate(clicked.lists) if one.at_ms <= START_MS + 100_000]
        end = clicked.starts[len(known)]
        made.append((metarank50.features(read, clicked)[:end], baseline_scores(read, clicked, 0)["ctr"][:end]))
    np.testing.assert_array_equal(made[0][0], made[1][0])
    np.testing.assert_array_equal(made[0][1], made[1][1])


def test_the_peer_sees_what_the_session_clicked(tmp_path: Path) -> None:
    events = [item(n) for n in range(4)] + [ranking(1, [0, 1]), click(1, 1), ranking(21, [2, 3]), click(21, 3)]
    read = read_metarank(write_json(tmp_path / "log", events))
    second = metarank50.features(read, clicked_lists(read))[2:]
    genres, visits = second[:, 10], second[:, 14]
    assert genres.tolist() == [0, 1], "film 3 is a drama, as film 1 is"
    assert visits.tolist() == [1, 1]


@pytest.mark.parametrize("test_from", [0, 19, 100_000])
def test_too_few_lists_to_train_or_test_on_are_an_error(file: Path, test_from: int) -> None:
    with pytest.raises(InvalidInput, match="--test-from must be from 20 to"):
        Evaluation(file, test_from, quiet=True).run()


def test_a_missing_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "ranklens", str(tmp_path / "none"), "--test-from", "200", "--json"]) == 1
    assert "none" in capsys.readouterr().err
