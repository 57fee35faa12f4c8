"""`pingfeed import csv`: any log with one event a line; a broken line is rejected alone."""

import gzip
import tracemalloc
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from batch.importers.csv_mapping import event_types, field_map
from batch.importers.csv_reader import Layout, read_records
from batch.importers.report import Outcome
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import InvalidInput
from tests.unit.import_world import BASIC, END_MS, HEADER, NOW_MS, ImportWorld, csv_log, write

T0 = 1_795_300_000


@pytest.fixture
def world(tmp_path: Path) -> ImportWorld:
    return ImportWorld(tmp_path / "home")


def acts(world: ImportWorld) -> list[dict[str, Any]]:
    return [row for row in world.raw() if row["event_type"] != "ping_created"]


def test_words_columns_and_constants_become_events(world: ImportWorld) -> None:
    header = "when;who;what;did;ratio;land;noise"
    lines = [f"{T0};u1;p1;click;0.25;de;x", f"{T0 + 60};u2;p1;buy;;fr;", f"{T0 + 61};u2;p2;login;;fr;"]
    mapping = "timestamp=when,user_id=who,ping_id=what,event_type=did,watch_time_ratio=ratio,country=land,device==web"
    form = csv_log(mapping, "click=view,buy=like,login=skip", delimiter=";")
    outcome = world.csv(lines, form, header)
    view, like = ({k: v for k, v in row.items() if k not in ("event_id", "timestamp_ms", "seq")} for row in acts(world))
    both = {"device": "web", "ping_id": "p1"}
    viewed = {"event_type": "view", "user_id": "u1", "received_ms": T0 * 1000, "country": "DE"}
    assert view == both | viewed | {"watch_time_ratio": 0.25}
    assert like == both | {"event_type": "like", "user_id": "u2", "received_ms": T0 * 1000 + 60_000, "country": "FR"}
    assert (outcome.records, outcome.events, outcome.left_out, outcome.rejected.count) == (3, 3, 1, 0)


def test_a_ping_that_no_event_introduces_gets_a_ping_created_one_tick_before_its_first_mention(
    world: ImportWorld,
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
    outcome = world.csv(lines, form, header)
    tick_ms = world.batch.ticks.tick_ms
    created = {row["ping_id"]: row for row in world.raw() if row["event_type"] == "ping_created"}
    assert outcome.introduced == 2
    assert created["p1"]["received_ms"] == created["p1"]["timestamp_ms"] == T0 * 1000 - tick_ms
    assert (created["p1"]["creator_id"], created["p1"]["topics"]) == ("ann", ["bread", "soup"])
    assert (created["p2"]["creator_id"], created["p2"].get("topics")) == ("unknown", None)
    assert (created["p3"]["creator_id"], created["p3"]["received_ms"]) == ("bob", (T0 + 7) * 1000)
    assert all("creator_id" not in row for row in acts(world))


def test_a_follow_keeps_its_creator(world: ImportWorld) -> None:
    form = csv_log("user_id=who,creator_id=whom,timestamp=at,event_type==follow")
    world.csv([f"u1,ann,{T0}"], form, "who,whom,at")
    (follow,) = world.raw()
    assert (follow["creator_id"], follow["user_id"]) == ("ann", "u1")


def test_what_takes_back_and_steers_is_imported_with_its_place_in_the_file(world: ImportWorld) -> None:
    lines = [
        *(f"u1,p1,,,{kind},{T0}" for kind in ("unlike", "unhide", "more")),
        *(f"u1,,c1,,{kind},{T0}" for kind in ("unblock", "mute", "less")),
        *(f"u1,,,a topic,{kind},{T0}" for kind in ("mute", "unmute", "more")),
        *(f"u1,,c1,a topic,{kind},{T0}" for kind in ("mute", "less")),
        f"u1,p1,,,unmute,{T0}",
    ]
    form = csv_log(f"{BASIC},creator_id=creator,topic=about")
    outcome = world.csv(lines, form, "user,item,creator,about,action,at")
    rows = sorted(acts(world), key=lambda row: row["seq"])
    targets = [(row["event_type"], row.get("ping_id") or row.get("creator_id") or row["topic"]) for row in rows]
    about_creator = [("unblock", "c1"), ("mute", "c1"), ("less", "c1")]
    about_topic = [("mute", "a topic"), ("unmute", "a topic"), ("more", "a topic")]
    assert targets == [("unlike", "p1"), ("unhide", "p1"), ("more", "p1"), *about_creator, *about_topic]
    assert [row["seq"] for row in rows] == sorted({row["seq"] for row in rows})
    assert {one.message for one in outcome.rejected.kept} == {
        "creator_id or topic: mute needs exactly one of them",
        "creator_id or topic: unmute needs exactly one of them",
        "creator_id or topic or ping_id: less needs exactly one of them",
    }


BROKEN = {
    3: ("garbage", "the record has 1 field, the header 4"),
    5: (f"u1,p1,like,{T0},more", "the record has 5 fields, the header 4"),
    6: (f'u1,"p1,like,{T0}', "a quotation mark is never closed"),
    7: (f"u 1,p1,like,{T0}", "user_id 'u 1' must be 1 to 128 of the characters A-Z a-z 0-9 . _ : @ -; --escape-ids"),
    8: (f"u1,,like,{T0}", "ping_id is required"),
    9: ("u1,p1,like,", "timestamp is required"),
    10: ("u1,p1,like,yesterday", "timestamp 'yesterday' is not a time of 2000 to 2099 in ISO 8601"),
    11: (f"u1,p1,like,{NOW_MS + DAY_MS + 1}", f"timestamp '{NOW_MS + DAY_MS + 1}' is more than 24 hours ahead"),
    12: (f"u1,p1,view,{T0}", "watch_time_ratio is required"),
    13: (f"u1,p1,feed_served,{T0}", "event_type feed_served is written by the system only"),
    14: (f"u1,p1,\xff,{T0}", "event_type '\xff' is not one of"),
    15: (f"u1,p1,like\ragain,{T0}", "the line holds a carriage return"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_broken_line_is_reported_by_its_number_and_takes_no_neighbour(world: ImportWorld, end: str) -> None:
    good = f"u1,p1,like,{T0 // 100}"
    lines = [BROKEN.get(number, (f"{good}{number:02}", ""))[0] for number in range(2, 18)]
    lines[2] = ""  # Line 4 is blank: no record, and no mistake.
    outcome = world.csv(lines, end=end)
    told = {one.line: one.message for one in outcome.rejected.kept}
    assert (set(told), outcome.rejected.count) == (set(BROKEN), len(BROKEN))
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


def test_quoted_fields_may_hold_the_delimiter_and_quotation_marks(world: ImportWorld) -> None:
    lines = [f'"u1","p1","like","{T0}"', f'u2,p1,"a, ""big"" buy",{T0}', f'u3,p1,5" buy,{T0}']
    form = csv_log(events='5" buy=like')
    outcome = world.csv(lines, form)
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


def test_a_file_without_a_header_takes_its_columns_from_the_header_option(world: ImportWorld) -> None:
    form = csv_log("user_id=a,ping_id=b,timestamp=c,event_type==like", delimiter="\t", header=["a", "b", "c"])
    assert world.csv([f"u1\tp1\t{T0}"], form, header=None).types["like"] == 1


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
    world: ImportWorld, lines: list[str], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        world.csv(lines, header=None)
    assert world.raw() == []


@pytest.mark.parametrize(
    ("read", "said", "message"),
    [
        (field_map, "user_id=u,event_type=e", "does not say where timestamp comes from"),
        (field_map, "who=u", "it is not one of app_version, country"),
        (field_map, f"{BASIC},user_id=again", "names user_id twice"),
        (field_map, f"{BASIC},device", "write FIELD=COLUMN"),
        (field_map, f"{BASIC},device==", "write FIELD=COLUMN"),
        *((event_types, said, "--events") for said in ("buy", "=like", "buy=love", "buy=feed_served")),
    ],
)
def test_a_mapping_of_fields_or_of_event_types_that_cannot_be_meant_is_one_sentence(
    read: Callable[[list[str]], Any], said: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        read([said])


def test_what_happens_after_the_last_tick_is_known_at_its_end(world: ImportWorld) -> None:
    world.csv([f"u1,p1,like,{NOW_MS + 5_000}"])
    (like,) = acts(world)
    assert (like["received_ms"], like["timestamp_ms"]) == (END_MS, NOW_MS + 5_000)


def test_a_log_moved_to_now_ends_at_the_last_tick_and_keeps_its_gaps(world: ImportWorld) -> None:
    lines = [f"u1,p{n},like,{1_600_000_000 + 60 * n}" for n in (0, 5, 3)]
    outcome = world.csv([*lines, "u1,p9,like,9999999999"], keep_dates=False)
    times = {row["ping_id"]: row["received_ms"] for row in acts(world)}
    assert times == {"p0": END_MS - 300_000, "p3": END_MS - 120_000, "p5": END_MS}
    assert "'9999999999' is not a time of 2000 to 2099" in outcome.rejected.kept[0].message


WATCHED = f"{HEADER},ratio"
NONSENSE = ["nonsense", f"u,p,dance,{T0},", "u,p,like,never,", f"u,p,view,{T0},-1", '"', f'u,"p,like,{T0},']


def log_lines(count: int, broken: Collection[int] = ()) -> list[str]:
    """Views of five days, with nonsense at these places."""
    views = (f"u{n % 499},p{n % 300},view,{T0 - n % 5 * 86_400},{n % 1000 / 1000}" for n in range(count))
    return [NONSENSE[n % len(NONSENSE)] if n in broken else view for n, view in enumerate(views)]


def test_twenty_thousand_lines_with_one_percent_broken(world: ImportWorld, tmp_path: Path) -> None:
    broken = range(50, 20_000, 97)
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress("\n".join([WATCHED, *log_lines(20_000, broken)]).encode()))
    outcome = world.run(path, csv_log(f"{BASIC},watch_time_ratio=ratio"))
    assert [one.line for one in outcome.rejected.kept] == [number + 2 for number in broken]
    rows = world.raw()
    assert len(rows) == len({row["event_id"] for row in rows}) == outcome.events == 20_000 - len(broken) + 300
    for path_of, rows_of in world.rows_by_file().items():
        assert {row["received_ms"] // DAY_MS for row in rows_of} == {world.day_of_file(path_of)}
    world.time.now_ms = END_MS + 1
    learned = world.learn(world.batch.ticks.of(END_MS + 1), everything=True)
    assert (learned.read, learned.kept) == (outcome.events, outcome.events)


def test_memory_does_not_grow_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own objects: four times the lines, the same peak (Arrow's buffers are bounded by MAX_ROWS)."""
    for name, size in (("csv_reader.BATCH", 1_000), ("staging.MAX_ROWS", 1_000), ("formats._BUFFER", 64 << 10)):
        monkeypatch.setattr(f"batch.importers.{name}", size)
    peaks = []
    for count in (1_000, 8_000, 32_000):  # what is made once only is made by the first
        path = write(tmp_path / f"{count}.csv", [WATCHED, *log_lines(count)])
        tracemalloc.start()
        ImportWorld(tmp_path / str(count)).run(path, csv_log(f"{BASIC},watch_time_ratio=ratio"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.5 * peaks[1]


def import_one(world: ImportWorld, cells: dict[str, str], **options: Any) -> Outcome:
    """The outcome of a log of one record, whose columns are called like the fields."""
    cells = {"user_id": "u1", "ping_id": "p1", "event_type": "like", "timestamp": str(T0)} | cells
    header, line = ",".join(cells), ",".join(f'"{cell}"' for cell in cells.values())
    return world.csv([line], csv_log(",".join(f"{name}={name}" for name in cells), **options), header)


@pytest.mark.parametrize("field", ["user_id", "ping_id", "creator_id", "request_id"])
def test_an_id_with_other_characters_rejects_its_record_and_names_the_option(world: ImportWorld, field: str) -> None:
    outcome = import_one(world, {field: "maker 16"})
    (problem,) = outcome.rejected.kept
    assert (problem.field, "--escape-ids" in problem.message, outcome.events) == (field, True, 0)


def test_escape_ids_makes_other_ids_valid(world: ImportWorld) -> None:
    import_one(world, {"user_id": "ann lee", "ping_id": "p/1"}, escape_ids=True)
    (like,) = acts(world)
    assert (like["user_id"], like["ping_id"]) == ("ann:20lee", "p:2f1")


def test_identical_records_are_one_event_within_a_file_and_across_files(world: ImportWorld) -> None:
    lines = [f"u1,p1,like,{T0}", f"u1,p1,like,{T0}", f"u2,p1,like,{T0}", f'"u1","p1",like,{T0}']
    first = world.csv(lines)
    assert (first.duplicates, first.types["like"]) == (2, 2)
    second = world.csv([*lines, f"u3,p1,like,{T0}"], end="\r\n")
    assert (second.duplicates, second.types["like"], second.introduced) == (4, 1, 0)
    assert sorted(row["user_id"] for row in acts(world)) == ["u1", "u2", "u3"]


NOON_MS = 1_795_348_800_000


TIMES = {
    "epoch seconds": ["1795348800", "1795348800.000"],
    "epoch milliseconds": ["1795348800000"],
    "epoch microseconds": ["1795348800000000"],
    "Excel serial days": ["46348.5"],
    "%m/%d/%Y %H:%M": ["11/22/2026 12:00"],
    "ISO 8601": [
        *("2026-11-22T12:00:00Z", "2026-11-22 12:00", "2026-11-22T13:00:00.000+01:00", "2026-11-22T12:00:00"),
        *("2026/11/22 12:00:00", "2026-11-22 12:00:00 UTC"),
    ],
}


@pytest.mark.parametrize(("kind", "written"), [(kind, text) for kind, texts in TIMES.items() for text in texts])
def test_every_time_format_gives_the_same_instant(world: ImportWorld, kind: str, written: str) -> None:
    outcome = import_one(world, {"timestamp": written}, time_formats=[kind] if kind.startswith("%") else [])
    assert outcome.times == {kind: 1}
    assert acts(world)[0]["timestamp_ms"] == NOON_MS


@pytest.mark.parametrize(
    ("written", "named"),
    [
        *(("03/04/2026 10:00", "%m/%d/%Y %H:%M"), ("03/04/2026 10:00", "%d/%m/%Y %H:%M"), ("25.11.2026", "%d.%m.%Y")),
        ("3/25/2026 1:05:06 PM", "%m/%d/%Y %I:%M:%S %p"),
        *(
            (text, "2000 to 2099")
            for text in ("0", "1999-12-31T23:59:59", "2100-01-01T00:00:00Z", "soon", "2026-02-30")
        ),
    ],
)
def test_a_time_that_is_not_certain_is_rejected_with_the_option_that_reads_it(
    world: ImportWorld, written: str, named: str
) -> None:
    (problem,) = import_one(world, {"timestamp": written}).rejected.kept
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
    world: ImportWorld, field: str, written: str, note: str
) -> None:
    outcome = import_one(world, {field: written})
    assert (outcome.types["like"], outcome.rejected.count) == (1, 0)
    assert outcome.notes == [(f"{field} {note}", 1, 1)]
    assert acts(world)[0].get(field) != written


def test_a_watch_ratio_above_ten_is_capped_and_a_missing_one_takes_the_default(world: ImportWorld) -> None:
    lines = [f"u1,p1,view,{T0},12.5", f"u2,p1,view,{T0},", f"u3,p1,view,{T0},-1"]
    form = csv_log(f"{BASIC},watch_time_ratio=watched", defaults={"watched": "1"})
    outcome = world.csv(lines, form, f"{HEADER},watched")
    assert [row["watch_time_ratio"] for row in acts(world)] == [10.0, 1.0]
    assert outcome.notes == [("watch_time_ratio capped at 10", 1, 1)]
    assert [one.field for one in outcome.rejected.kept] == ["watch_time_ratio"]


@pytest.mark.parametrize("written", ["clay|blue", ' ["clay", "blue"]', "['clay', 'blue']", "clay| blue |clay|"])
def test_lists_are_json_or_separated_and_fill_topics_and_facets(world: ImportWorld, written: str) -> None:
    cells = {"topics": written, "facets.tags": written, "attributes.price": "2.5", "creator_id": "ann"}
    import_one(world, {name: cell.replace('"', '""') for name, cell in cells.items()})
    created = next(row for row in world.raw() if row["event_type"] == "ping_created")
    assert (created["topics"], dict(created["facets"])) == (["clay", "blue"], {"tags": ["clay", "blue"]})
    assert (dict(created["attributes"]), created["creator_id"]) == ({"price": 2.5}, "ann")


STARS, RATED = "user,item,stars,at", [f"u{n},p1,{n},{T0}" for n in (1, 3, 4, 5)]


@pytest.mark.parametrize("field", ["rating", "watch_time_ratio"])
def test_ratings_become_likes(world: ImportWorld, field: str) -> None:
    form = csv_log(f"user_id=user,ping_id=item,timestamp=at,{field}=stars", rating_like=4)
    outcome = world.csv(RATED, form, STARS)
    assert (outcome.types["like"], outcome.types["impression"], outcome.types["view"]) == (2, 2, 0)


def test_ratings_are_not_taken_for_watch_ratios(world: ImportWorld) -> None:
    form = csv_log("user_id=user,ping_id=item,timestamp=at,watch_time_ratio=stars,event_type==view")
    assert "--rating-like" in world.csv(RATED, form, STARS).stopped
    assert world.files() == {}
    assert world.csv(RATED, form, STARS, allow_ratings=True).types["view"] == 4


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_encodings_delimiters_and_mixed_line_ends_are_recognised(
    world: ImportWorld, tmp_path: Path, encoding: str, delimiter: str
) -> None:
    text = f"{HEADER},note\r\nu1,p1,like,{T0},one\nu2,p1,like,{T0},é\r\n".replace(",", delimiter)
    (tmp_path / "log.csv").write_bytes(text.encode(encoding))
    assert world.run(tmp_path / "log.csv", csv_log()).types["like"] == 2


def test_too_many_rejected_records_stop_the_import_unless_allowed(world: ImportWorld) -> None:
    lines = [*(f"u{n},p1,like,{T0}" for n in range(8)), "nonsense"]
    assert "1 of 9 records (11%) were rejected" in world.csv(lines, allow_rejected=False).stopped
    assert world.files() == {}
    assert world.csv(lines, allow_rejected=True).types["like"] == 8
