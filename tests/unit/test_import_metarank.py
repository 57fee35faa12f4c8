"""`pingfeed import metarank`: items, lists and clicks as pings, impressions and likes, stretched together."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from batch.evaluate.clicked import read_metarank
from batch.importers.commands import length_ms
from batch.importers.metarank import TYPES, MetarankFormat, Names, read_ms
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import InvalidInput, NotFound
from pingfeed.core.events import Row, to_row
from tests.unit.import_world import END_MS, NOW_MS, ImportWorld, click, listed, write_json

T0 = 1_636_993_834_000
TICK_MS = 900_000
FILM: dict[str, Any] = {
    "event": "item",
    "id": "e1",
    "item": "3",
    "timestamp": str(T0 - DAY_MS),
    "fields": [
        {"name": "title", "value": "Grumpier Old Men"},
        {"name": "vote_avg", "value": 6.5},
        {"name": "in colour", "value": True},
        {"name": "genres", "value": ["romance", "comedy", "romance"]},
        {"name": "tags", "value": ["fishing", "x" * 200, *map(str, range(70))]},
        {"name": "director", "value": "pat o'connor"},
        {"name": "nothing", "value": None},
        {"name": "vector", "value": [0.5, 0.25]},
    ],
}


LOG = [
    FILM,
    FILM | {"item": "4", "fields": []},
    listed(1, T0, "3", "4", "9"),
    listed(2, T0 + 400_000, "4", "3"),
    click(1, T0 + 5_000, "4"),
    click(2, T0 + 776_000, "9"),
]


def rows_of(path: Path, stretch_ms: int = 14 * DAY_MS) -> list[Row]:
    """The rows that an import writes, in the log's order."""
    with TemporaryDirectory() as folder:
        world = ImportWorld(Path(folder) / "home")
        world.run(path, MetarankFormat(), keep_dates=False, stretch_ms=stretch_ms)
        maps = ("facets", "attributes")
        return [row | {name: dict(row.get(name, {})) for name in maps if name in row} for row in world.raw()]


def test_an_item_becomes_a_ping_with_topics_creator_facets_and_attributes(tmp_path: Path) -> None:
    log = read_metarank(write_json(tmp_path / "log", LOG))
    ping = rows_of(tmp_path / "log")[0]
    assert (ping["event_type"], ping["ping_id"], ping["creator_id"]) == ("ping_created", "3", "pat_o:27connor")
    assert ping["topics"] == ["romance", "comedy"]
    assert ping["attributes"] == {"vote_avg": 6.5, "in_colour": 1.0}
    assert ping["facets"].keys() == {"title", "tags"}
    assert ping["facets"]["tags"] == ["fishing", "x" * 128, *map(str, range(30))]
    assert log.reader.cut == 1 + 40


def test_pings_are_known_one_tick_before_the_first_list(tmp_path: Path) -> None:
    rows = rows_of(write_json(tmp_path / "log", LOG))
    first_ms = min(row["received_ms"] for row in rows if row["event_type"] != "ping_created")
    created = {row["ping_id"]: row for row in rows if row["event_type"] == "ping_created"}
    assert first_ms == END_MS - 14 * DAY_MS
    assert {row["received_ms"] for row in created.values()} == {first_ms - TICK_MS}
    assert created["9"]["creator_id"] == "unknown"
    assert created["4"]["creator_id"] == "unknown"


def test_a_later_description_is_known_one_tick_before_its_own_time(tmp_path: Path) -> None:
    rows = rows_of(write_json(tmp_path / "log", [*LOG, FILM | {"timestamp": str(T0 + 388_000)}]))
    edits = [row["received_ms"] for row in rows if row["event_type"] == "ping_created" and row["ping_id"] == "3"]
    assert edits == [END_MS - 14 * DAY_MS - TICK_MS, END_MS - 7 * DAY_MS - TICK_MS]


def test_lists_and_clicks_are_stretched_together(tmp_path: Path) -> None:
    rows = [row for row in rows_of(write_json(tmp_path / "log", LOG)) if row["event_type"] != "ping_created"]
    first, clicked = rows[0]["received_ms"], next(row for row in rows if row["event_type"] == "like")["received_ms"]
    assert clicked - first == 5_000 * 14 * DAY_MS // 776_000
    assert rows[-1]["received_ms"] == END_MS
    assert all(row["timestamp_ms"] == row["received_ms"] for row in rows)


def test_a_list_becomes_impressions_in_order_and_a_click_a_like_of_its_list(tmp_path: Path) -> None:
    rows = rows_of(write_json(tmp_path / "log", LOG))
    shown = [row for row in rows if row["event_type"] == "impression"]
    assert [(row["request_id"], row["position"], row["ping_id"]) for row in shown] == [
        *(("r1", 0, "3"), ("r1", 1, "4"), ("r1", 2, "9")),
        *(("r2", 0, "4"), ("r2", 1, "3")),
    ]
    likes = [row for row in rows if row["event_type"] == "like"]
    assert [(row["request_id"], row["ping_id"]) for row in likes] == [("r1", "4"), ("r2", "9")]
    assert {row["user_id"] for row in (*shown, *likes)} == {"u1"}


def test_every_row_is_an_event_that_a_client_could_have_sent(tmp_path: Path) -> None:
    odd = [listed(3, T0, "an item", "x" * 300, user="ann lee"), click(3, T0, "an item", user="é")]
    for row in rows_of(write_json(tmp_path / "log", [*LOG, *odd])):
        sent = {name: value for name, value in row.items() if not name.endswith("_ms")}
        kept = to_row(sent, row["received_ms"], lambda _ms: "never", seq=(seq := sent.pop("seq", 0)))
        assert kept == sent | {"received_ms": row["received_ms"], "timestamp_ms": row["received_ms"], "seq": seq}


def test_the_same_log_gives_the_same_rows_and_ids_of_their_own(tmp_path: Path) -> None:
    rows = rows_of(write_json(tmp_path / "log", LOG))
    assert rows == rows_of(tmp_path / "log")
    assert len({row["event_id"] for row in rows}) == len(rows)
    moved = rows_of(write_json(tmp_path / "other", reversed(LOG)), DAY_MS)
    assert {row["event_id"] for row in moved} == {row["event_id"] for row in rows}


def test_broken_lines_are_reported_by_number_and_the_rest_is_read(tmp_path: Path) -> None:
    broken: list[Any] = [
        "{",
        "[1]",
        '{"event":"ranking","id":"r"}',
        '{"event":"sale"}',
        click(1, 12, "3"),
        click(1, T0, ""),
    ]
    broken += [click(1, T0, "3", type="purchase"), click(1, T0, "3", user=None, session=None)]
    lines = [*LOG[:3], *broken, "", {"event": "user", "user": "u1", "timestamp": "1", "fields": []}, *LOG[3:]]
    log = read_metarank(write_json(tmp_path / "log", lines))
    assert [one.line for one in log.reader.broken.kept] == list(range(4, 12))
    messages = " / ".join(one.message for one in log.reader.broken.kept)
    for part in ("is not JSON", "`timestamp`", "1970-01-01", "item is required", "--events purchase=", "user is requ"):
        assert part in messages
    assert (len(log.items), len(log.rankings), len(log.interactions), log.reader.left_out) == (2, 2, 2, 1)


def test_interactions_mean_what_the_caller_says(tmp_path: Path) -> None:
    lines = [*LOG, click(1, T0, "3", type="purchase"), click(1, T0, "3", type="hide", ranking=None)]
    log = read_metarank(write_json(tmp_path / "log", lines), Names(types={**TYPES, "purchase": "share"}))
    assert [act.event_type for act in log.interactions] == ["like", "like", "share", "hide"]
    assert log.interactions[-1].request_id is None


def test_a_log_without_lists_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no list and no interaction"):
        read_metarank(write_json(tmp_path / "log", [FILM]))
    with pytest.raises(NotFound):
        read_metarank(tmp_path / "nowhere")


def test_an_item_described_after_its_lists_is_not_introduced_as_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the batch matter in which a line is read."""
    lines = [*LOG[2:], *LOG[:2]]
    whole = rows_of(write_json(tmp_path / "log", lines))
    monkeypatch.setattr("batch.importers.metarank._BATCH_LINES", 1)
    assert rows_of(tmp_path / "log") == whole
    creators = {row["ping_id"]: row["creator_id"] for row in whole if row["event_type"] == "ping_created"}
    assert creators == {"3": "pat_o:27connor", "4": "unknown", "9": "unknown"}


@pytest.mark.parametrize(
    "written", ["2026-11-22T12:00:00Z", "2026-11-22 12:00", "1795348800", "1795348800000", "1795348800.000", 1795348800]
)
def test_a_time_means_the_same_however_it_is_written(written: str | int) -> None:
    assert read_ms(written) == 1_795_348_800_000


@pytest.mark.parametrize("written", ["", "soon", "22.11.2026", "2026-02-30", "nan", "0", "2100-01-01", -5, "9" * 15])
def test_what_is_no_time_or_wrong_by_decades_is_rejected(written: str | int) -> None:
    with pytest.raises(InvalidInput, match=r"must be ISO 8601|outside the years 2000 to 2099"):
        read_ms(written)


def test_a_length_is_a_number_and_a_unit() -> None:
    lengths = {"14d": 14 * DAY_MS, "36h": 129_600_000, "90m": 5_400_000, "1s": 1000}
    assert {text: length_ms(text) for text in lengths} == lengths
    for text in ("", "14", "d", "0d", "-1d", "1.5d", "14 days"):
        with pytest.raises(InvalidInput, match="not a length"):
            length_ms(text)


def test_dates_are_kept_when_asked(tmp_path: Path) -> None:
    world = ImportWorld(tmp_path / "home")
    world.run(write_json(tmp_path / "log", LOG), MetarankFormat())
    times = [row["received_ms"] for row in world.raw()]
    assert (times[0], times[-1]) == (T0 - TICK_MS, T0 + 776_000)


@pytest.mark.parametrize(("keep_dates", "stretch_ms"), [(True, 4000 * DAY_MS), (False, 40_000 * DAY_MS)])
def test_a_log_is_not_stretched_out_of_the_calendar(tmp_path: Path, keep_dates: bool, stretch_ms: int) -> None:
    world = ImportWorld(tmp_path / "home")
    path = write_json(tmp_path / "log", LOG)
    with pytest.raises(InvalidInput, match="stretch it less"):
        world.run(path, MetarankFormat(), keep_dates=keep_dates, stretch_ms=stretch_ms)


def test_what_claims_to_come_from_the_future_is_rejected(tmp_path: Path) -> None:
    world = ImportWorld(tmp_path / "home")
    path = write_json(tmp_path / "log", [*LOG, click(2, NOW_MS + 2 * DAY_MS, "3")])
    outcome = world.run(path, MetarankFormat(), keep_dates=False, stretch_ms=14 * DAY_MS)
    assert [one.code for one in outcome.rejected.kept] == ["timestamp_ahead"]
    assert world.raw()[-1]["received_ms"] == END_MS
