"""`pingfeed import csv`: any log with one event a line; a broken line is rejected alone."""

import gzip
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batch.importers.csv_mapping import event_types, field_map
from batch.importers.csv_reader import Layout, read_records
from pingfeed.core.errors import InvalidInput
from tests.servers import ROOT
from tests.unit.import_world import BASIC, END_MS, NOW_MS, ImportWorld, csv_log, write

HEADER = "user,item,action,at"
T0 = 1_795_300_000


@pytest.fixture
def world(tmp_path: Path) -> ImportWorld:
    return ImportWorld(tmp_path / "home")


def acts(world: ImportWorld) -> list[dict[str, Any]]:
    return [row for row in world.raw() if row["event_type"] != "ping_created"]


def test_words_columns_and_constants_become_events(world: ImportWorld, tmp_path: Path) -> None:
    header = "when;who;what;did;ratio;land;noise"
    lines = [f"{T0};u1;p1;click;0.25;de;x", f"{T0 + 60};u2;p1;buy;;fr;", f"{T0 + 61};u2;p2;login;;fr;"]
    mapping = "timestamp=when,user_id=who,ping_id=what,event_type=did,watch_time_ratio=ratio,country=land,device==web"
    form = csv_log(mapping, "click=view,buy=like,login=skip", delimiter=";")
    outcome = world.run(write(tmp_path / "log.csv", [header, *lines]), form)
    view, like = ({k: v for k, v in row.items() if k not in ("event_id", "timestamp_ms")} for row in acts(world))
    both = {"device": "web", "ping_id": "p1"}
    assert view == both | {
        "event_type": "view",
        "user_id": "u1",
        "received_ms": T0 * 1000,
        "country": "DE",
        "watch_time_ratio": 0.25,
    }
    assert like == both | {"event_type": "like", "user_id": "u2", "received_ms": T0 * 1000 + 60_000, "country": "FR"}
    assert (outcome.records, outcome.events, outcome.left_out, outcome.rejected.count) == (3, 3, 1, 0)


def test_a_ping_that_no_event_introduces_gets_a_ping_created_one_tick_before_its_first_mention(
    world: ImportWorld, tmp_path: Path
) -> None:
    header = f"{HEADER},author,tags"
    lines = [
        f"u1,p1,like,{T0 + 9000},,",
        f"u2,p1,like,{T0},ann,bread | soup",
        f"u2,p2,like,{T0 + 5},,",
        f"u3,p3,ping_created,{T0 + 7},bob,jazz",
        f"u2,p3,like,{T0 + 1},,",
    ]
    form = csv_log(f"{BASIC},creator_id=author,topics=tags")
    outcome = world.run(write(tmp_path / "log.csv", [header, *lines]), form)
    tick_ms = world.batch.ticks.tick_ms
    created = {row["ping_id"]: row for row in world.raw() if row["event_type"] == "ping_created"}
    assert outcome.introduced == 2
    assert created["p1"]["received_ms"] == created["p1"]["timestamp_ms"] == T0 * 1000 - tick_ms
    assert (created["p1"]["creator_id"], created["p1"]["topics"]) == ("ann", ["bread", "soup"])
    assert (created["p2"]["creator_id"], created["p2"].get("topics")) == ("unknown", None)
    assert (created["p3"]["creator_id"], created["p3"]["received_ms"]) == ("bob", (T0 + 7) * 1000)
    assert all("creator_id" not in row for row in acts(world))


def test_a_follow_keeps_its_creator(world: ImportWorld, tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ["who,whom,at", f"u1,ann,{T0}"])
    world.run(path, csv_log("user_id=who,creator_id=whom,timestamp=at,event_type==follow"))
    (follow,) = world.raw()
    assert (follow["creator_id"], follow["user_id"]) == ("ann", "u1")


BROKEN = {
    3: ("garbage", "the record has 1 field, the header 4"),
    5: (f"u1,p1,like,{T0},more", "the record has 5 fields, the header 4"),
    6: (f'u1,"p1,like,{T0}', "a quotation mark is never closed"),
    7: (f"u 1,p1,like,{T0}", "user_id 'u 1' must be 1 to 128 of the characters A-Z a-z 0-9 . _ : @ -; --escape-ids"),
    8: (f"u1,,like,{T0}", "ping_id is required"),
    9: ("u1,p1,like,", "timestamp is required"),
    10: ("u1,p1,like,yesterday", "timestamp 'yesterday' is not a time of 2000 to 2099 in ISO 8601"),
    11: (f"u1,p1,like,{NOW_MS + 86_400_001}", f"timestamp '{NOW_MS + 86_400_001}' is more than 24 hours ahead"),
    12: (f"u1,p1,view,{T0}", "watch_time_ratio is required"),
    13: (f"u1,p1,feed_served,{T0}", "event_type feed_served is written by the system only"),
    14: (f"u1,p1,\xff,{T0}", "event_type '\xff' is not one of"),
    15: (f"u1,p1,like\ragain,{T0}", "the line holds a carriage return"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_broken_line_is_reported_by_its_number_and_takes_no_neighbour(
    world: ImportWorld, tmp_path: Path, end: str
) -> None:
    good = f"u1,p1,like,{T0 // 100}"
    lines = [HEADER, *(BROKEN.get(number, (f"{good}{number:02}", ""))[0] for number in range(2, 18))]
    lines[3] = ""  # Line 4 is blank: no record, and no mistake.
    outcome = world.run(write(tmp_path / "log.csv", lines, end), csv_log())
    assert outcome.rejected.count == len(BROKEN)
    told = {one.line: one.message for one in outcome.rejected.kept}
    assert told.keys() == BROKEN.keys()
    assert [number for number in told if not told[number].startswith(BROKEN[number][1])] == []
    assert len(acts(world)) == 16 - len(BROKEN) - 1


def test_bytes_that_are_no_text_are_rejected_alone(world: ImportWorld, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    good = f"u1,p1,like,{T0}".encode()
    # The last two are one letter, halved by the line feed.
    path.write_bytes(
        b"\n".join([HEADER.encode(), good, b"\xff\xfe" + good, b"u2" + good, good + b"\xc3", b"\xa9" + good])
    )
    outcome = world.run(path, csv_log())
    assert [one.line for one in outcome.rejected.kept] == [3, 5, 6]
    assert {one.message for one in outcome.rejected.kept} == {
        "the record is not UTF-8; --encoding names another encoding, such as cp1252"
    }
    assert outcome.rejected.kept[0].body.startswith("\\xff\\xfe")
    assert len(acts(world)) == 2


def test_quoted_fields_may_hold_the_delimiter_and_quotation_marks(world: ImportWorld, tmp_path: Path) -> None:
    lines = [f'"u1","p1","like","{T0}"', f'u2,p1,"a, ""big"" buy",{T0}', f'u3,p1,5" buy,{T0}']
    form = csv_log(events='5" buy=like')
    outcome = world.run(write(tmp_path / "log.csv", [HEADER, *lines]), form)
    assert [row["user_id"] for row in acts(world)] == ["u1", "u3"]
    assert [one.line for one in outcome.rejected.kept] == [3]


def read(lines: list[str]) -> Any:
    (records,) = read_records(iter(line + "\n" for line in lines), Layout(HEADER.split(","), ","), 3)
    return records


@pytest.mark.parametrize(
    "broken",
    [
        '"u"2",p1,x,"d',
        '"',
        'u2,"p1,like,2',
        'u2,p1,like,"2',
        '"u2,p1","like,2',
        'u2,p1,"like""",2,"',
        '"u2"x,p1,like,2',
    ],
)
def test_a_quotation_mark_never_swallows_the_next_line(broken: str) -> None:
    good = ["u1,p1,like,1", broken, "u3,p1,like,3", 'u4,"p",like,4', 'u5,p,"like",5', broken]
    records = read(good)
    assert [row[0] for row in records.rows] == ["u1", "u3", "u4", "u5"]
    assert [one[:2] for one in records.broken] == [(2, 2), (6, 6)]


def test_quoted_line_feeds_belong_to_their_field_and_keep_line_numbers_right() -> None:
    records = read(['u1,"two\r', 'lines, ""quoted""",like,1', "", "u2,p,like,2"])
    assert records.rows[0][1] == 'two\r\nlines, "quoted"'
    assert (records.numbers, records.lines, records.broken) == ([1, 2], [1, 4], [])


def test_a_file_without_a_header_takes_its_columns_from_the_header_option(world: ImportWorld, tmp_path: Path) -> None:
    path = write(tmp_path / "log.tsv", [f"u1\tp1\t{T0}"])
    form = csv_log("user_id=a,ping_id=b,timestamp=c,event_type==like", delimiter="\t", header=["a", "b", "c"])
    assert world.run(path, form).types["like"] == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["who,item,action,at"], "has no column user; its first line names who, item, action, at"),
        (["user,item,action,at,user"], "more than one column user"),
        ([], "is empty"),
        (["", " "], "is empty"),
    ],
)
def test_a_header_that_does_not_fit_the_mapping_is_one_sentence(
    world: ImportWorld, tmp_path: Path, lines: list[str], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        world.run(write(tmp_path / "log.csv", lines), csv_log())
    assert world.raw() == []


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("user_id=u,event_type=e", "does not say where timestamp comes from"),
        ("who=u", "it is not one of app_version, country"),
        (f"{BASIC},user_id=again", "names user_id twice"),
        (f"{BASIC},device", "write FIELD=COLUMN"),
        (f"{BASIC},device==", "write FIELD=COLUMN"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_one_sentence(said: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        field_map([said])


def test_a_word_can_only_mean_an_event_type() -> None:
    for said in ("buy", "=like", "buy=love", "buy=feed_served"):
        with pytest.raises(InvalidInput, match="--events"):
            event_types([said])


def test_what_happens_after_the_last_tick_is_known_at_its_end(world: ImportWorld, tmp_path: Path) -> None:
    world.run(write(tmp_path / "log.csv", [HEADER, f"u1,p1,like,{NOW_MS + 5_000}"]), csv_log())
    (like,) = acts(world)
    assert (like["received_ms"], like["timestamp_ms"]) == (END_MS, NOW_MS + 5_000)


def test_a_log_moved_to_now_ends_at_the_last_tick_and_keeps_its_gaps(world: ImportWorld, tmp_path: Path) -> None:
    lines = [f"u1,p{n},like,{1_600_000_000 + 60 * n}" for n in (0, 5, 3)]
    lines.append("u1,p9,like,9999999999")
    outcome = world.run(write(tmp_path / "log.csv", [HEADER, *lines]), csv_log(), keep_dates=False)
    times = {row["ping_id"]: row["received_ms"] for row in acts(world)}
    assert times == {"p0": END_MS - 300_000, "p3": END_MS - 120_000, "p5": END_MS}
    assert "'9999999999' is not a time of 2000 to 2099" in outcome.rejected.kept[0].message


def generated(count: int, broken_share: float) -> tuple[list[str], list[int]]:
    """A log's lines, and the numbers of those that are broken."""
    rng = random.Random(7)
    lines, broken = [HEADER + ",ratio"], []
    for number in range(2, count + 2):
        if rng.random() < broken_share:
            lines.append(
                rng.choice(
                    ["nonsense", f"u,p,dance,{T0},", "u,p,like,never,", f"u,p,view,{T0},-1", '"', f'u,"p,like,{T0},']
                )
            )
            broken.append(number)
        else:
            kind = rng.choice(["like", "view", "impression"])
            ratio = f"{rng.random():.3f}" if kind == "view" else ""
            at = T0 - rng.randrange(5 * 86_400)
            lines.append(f"u{rng.randrange(500)},p{rng.randrange(300)},{kind},{at},{ratio}")
    return lines, broken


def test_twenty_thousand_lines_with_one_percent_broken(world: ImportWorld, tmp_path: Path) -> None:
    lines, broken = generated(20_000, 0.01)
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    outcome = world.run(path, csv_log(f"{BASIC},watch_time_ratio=ratio"))
    assert len(broken) > 100
    assert [one.line for one in outcome.rejected.kept] == broken
    rows = world.raw()
    assert len(rows) == len({row["event_id"] for row in rows}) == outcome.events == 20_000 - len(broken) + 300
    day_ms = 86_400_000
    for path_of, rows_of in world.rows_by_file().items():
        assert {row["received_ms"] // day_ms for row in rows_of} == {world.day_of_file(path_of)}
    world.time.now_ms = END_MS + 1
    learned = world.learn(world.batch.ticks.of(END_MS + 1), everything=True)
    assert (learned.read, learned.kept) == (outcome.events, outcome.events)


_PEAK = """
import sys, tracemalloc
from pathlib import Path
import batch.importers.csv_reader, batch.importers.formats, batch.importers.staging
from tests.unit.import_world import BASIC, ImportWorld, csv_log, write
from tests.unit.test_import_csv import generated

batch.importers.csv_reader.BATCH, batch.importers.staging.MAX_ROWS = 1_000, 1_000
batch.importers.formats._BUFFER = 64 << 10
folder, count = Path(sys.argv[1]), int(sys.argv[2])
path = write(folder / "log.csv", generated(count, 0)[0])
world = ImportWorld(folder / "home")
tracemalloc.start()
world.run(path, csv_log(f"{BASIC},watch_time_ratio=ratio"))
print(tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """Python's own objects, each time in a process of its own: four times the lines, the same peak (Arrow's buffers
    are bounded by MAX_ROWS)."""
    peaks = []
    for count in (8_000, 32_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        command = [sys.executable, "-c", _PEAK, str(folder), str(count)]
        peaks.append(int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout))
    assert peaks[1] < 1.5 * peaks[0]


def import_one(world: ImportWorld, tmp_path: Path, cells: dict[str, str], mapping: str = "", **options: Any) -> Any:
    """The outcome of a log of one record, whose columns are called like the fields."""
    cells = {"user_id": "u1", "ping_id": "p1", "event_type": "like", "timestamp": str(T0)} | cells
    header, line = ",".join(cells), ",".join(f'"{cell}"' for cell in cells.values())
    form = csv_log(mapping or ",".join(f"{name}={name}" for name in cells), **options)
    return world.run(write(tmp_path / "log.csv", [header, line]), form)


@pytest.mark.parametrize("field", ["user_id", "ping_id", "creator_id", "request_id"])
def test_an_id_with_other_characters_rejects_its_record_and_names_the_option(
    world: ImportWorld, tmp_path: Path, field: str
) -> None:
    outcome = import_one(world, tmp_path, {field: "maker 16"})
    (problem,) = outcome.rejected.kept
    assert (problem.field, "--escape-ids" in problem.message, outcome.events) == (field, True, 0)


def test_escape_ids_makes_other_ids_valid(world: ImportWorld, tmp_path: Path) -> None:
    import_one(world, tmp_path, {"user_id": "ann lee", "ping_id": "p/1"}, escape_ids=True)
    (like,) = acts(world)
    assert (like["user_id"], like["ping_id"]) == ("ann:20lee", "p:2f1")


def test_identical_records_are_one_event_within_a_file_and_across_files(world: ImportWorld, tmp_path: Path) -> None:
    lines = [HEADER, f"u1,p1,like,{T0}", f"u1,p1,like,{T0}", f"u2,p1,like,{T0}", f'"u1","p1",like,{T0}']
    first = world.run(write(tmp_path / "one.csv", lines), csv_log())
    assert (first.duplicates, first.types["like"]) == (2, 2)
    second = world.run(write(tmp_path / "two.csv", [*lines, f"u3,p1,like,{T0}"], "\r\n"), csv_log())
    assert (second.duplicates, second.types["like"], second.introduced) == (4, 1, 0)
    assert sorted(row["user_id"] for row in acts(world)) == ["u1", "u2", "u3"]


NOON = 1_795_348_800_000


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        *(
            ("1795348800", "epoch seconds"),
            ("1795348800.000", "epoch seconds"),
            ("1795348800000", "epoch milliseconds"),
        ),
        *(("1795348800000000", "epoch microseconds"), ("46348.5", "Excel serial days")),
        ("11/22/2026 12:00", "%m/%d/%Y %H:%M"),
        *((text, "ISO 8601") for text in ("2026-11-22T12:00:00Z", "2026-11-22 12:00", "2026-11-22T13:00:00.000+01:00")),
        *((text, "ISO 8601") for text in ("2026/11/22 12:00:00", "2026-11-22 12:00:00 UTC", "2026-11-22T12:00:00")),
    ],
)
def test_every_time_format_gives_the_same_instant(world: ImportWorld, tmp_path: Path, written: str, kind: str) -> None:
    outcome = import_one(world, tmp_path, {"timestamp": written}, time_formats=[kind] if kind.startswith("%") else [])
    assert outcome.times == {kind: 1}
    assert acts(world)[0]["timestamp_ms"] == NOON


@pytest.mark.parametrize(
    ("written", "named"),
    [
        *(("03/04/2026 10:00", "%m/%d/%Y %H:%M"), ("03/04/2026 10:00", "%d/%m/%Y %H:%M"), ("25.11.2026", "%d.%m.%Y")),
        *(("3/25/2026 1:05:06 PM", "%m/%d/%Y %I:%M:%S %p"), ("soon", "--time-format"), ("2026-02-30", "--time-format")),
        *(("0", "2000 to 2099"), ("1999-12-31T23:59:59", "2000 to 2099"), ("2100-01-01T00:00:00Z", "2000 to 2099")),
    ],
)
def test_a_time_that_is_not_certain_is_rejected_with_the_option_that_reads_it(
    world: ImportWorld, tmp_path: Path, written: str, named: str
) -> None:
    (problem,) = import_one(world, tmp_path, {"timestamp": written}).rejected.kept
    assert named in problem.message
    assert "--time-format" in problem.message


@pytest.mark.parametrize(
    ("field", "written", "note"),
    [
        *(("country", "Germany", "dropped"), ("language", "english!", "dropped"), ("position", "first", "dropped")),
        *(("device", "x" * 65, "dropped"), ("duration_ms", "-1", "dropped"), ("attributes.price", "dear", "dropped")),
        *(("topics", "['a", "dropped"), ("topics", "x" * 129, "cut"), ("event_id", "7", "dropped")),
    ],
)
def test_a_wrong_optional_field_costs_the_field_and_is_counted(
    world: ImportWorld, tmp_path: Path, field: str, written: str, note: str
) -> None:
    outcome = import_one(world, tmp_path, {field: written})
    assert (outcome.types["like"], outcome.rejected.count) == (1, 0)
    assert outcome.notes == [(f"{field} {note}", 1, 1)]
    assert acts(world)[0].get(field) != written


def test_a_watch_ratio_above_ten_is_capped_and_a_missing_one_takes_the_default(
    world: ImportWorld, tmp_path: Path
) -> None:
    lines = [f"u1,p1,view,{T0},12.5", f"u2,p1,view,{T0},", f"u3,p1,view,{T0},-1"]
    form = csv_log(f"{BASIC},watch_time_ratio=watched", defaults={"watched": "1"})
    outcome = world.run(write(tmp_path / "log.csv", [f"{HEADER},watched", *lines]), form)
    assert [row["watch_time_ratio"] for row in acts(world)] == [10.0, 1.0]
    assert outcome.notes == [("watch_time_ratio capped at 10", 1, 1)]
    assert [one.field for one in outcome.rejected.kept] == ["watch_time_ratio"]


@pytest.mark.parametrize("written", ["clay|blue", ' ["clay", "blue"]', "['clay', 'blue']", "clay| blue |clay|"])
def test_lists_are_json_or_separated_and_fill_topics_and_facets(
    world: ImportWorld, tmp_path: Path, written: str
) -> None:
    cells = {"topics": written, "facets.tags": written, "attributes.price": "2.5", "creator_id": "ann"}
    import_one(world, tmp_path, {name: cell.replace('"', '""') for name, cell in cells.items()})
    created = next(row for row in world.raw() if row["event_type"] == "ping_created")
    assert (created["topics"], dict(created["facets"])) == (["clay", "blue"], {"tags": ["clay", "blue"]})
    assert (dict(created["attributes"]), created["creator_id"]) == ({"price": 2.5}, "ann")


RATED = ["user,item,stars,at", *(f"u{n},p1,{n},{T0}" for n in (1, 3, 4, 5))]


@pytest.mark.parametrize("field", ["rating", "watch_time_ratio"])
def test_ratings_become_likes(world: ImportWorld, tmp_path: Path, field: str) -> None:
    form = csv_log(f"user_id=user,ping_id=item,timestamp=at,{field}=stars", rating_like=4)
    outcome = world.run(write(tmp_path / "log.csv", RATED), form)
    assert (outcome.types["like"], outcome.types["impression"], outcome.types["view"]) == (2, 2, 0)


def test_ratings_are_not_taken_for_watch_ratios(world: ImportWorld, tmp_path: Path) -> None:
    form = csv_log("user_id=user,ping_id=item,timestamp=at,watch_time_ratio=stars,event_type==view")
    path = write(tmp_path / "log.csv", RATED)
    assert "--rating-like" in world.run(path, form).stopped
    assert world.files() == {}
    assert world.run(path, form, allow_ratings=True).types["view"] == 4


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_encodings_delimiters_and_mixed_line_ends_are_recognised(
    world: ImportWorld, tmp_path: Path, encoding: str, delimiter: str
) -> None:
    text = f"{HEADER},note\r\nu1,p1,like,{T0},one\nu2,p1,like,{T0},é\r\n".replace(",", delimiter)
    (tmp_path / "log.csv").write_bytes(text.encode(encoding))
    assert world.run(tmp_path / "log.csv", csv_log()).types["like"] == 2


def test_too_many_rejected_records_stop_the_import_unless_allowed(world: ImportWorld, tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [HEADER, *(f"u{n},p1,like,{T0}" for n in range(8)), "nonsense"])
    outcome = world.run(path, csv_log(), allow_rejected=False)
    assert "1 of 9 records (11%) were rejected" in outcome.stopped
    assert world.files() == {}
    assert world.run(path, csv_log(), allow_rejected=True).types["like"] == 8
