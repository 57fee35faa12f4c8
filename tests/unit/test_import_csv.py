"""`pingfeed import csv`: any log with a line an event, its broken lines told apart and its neighbours kept."""

import gzip
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batch.importers import csv_text
from batch.importers.csv_text import CsvText
from batch.importers.mapping import event_types, field_map
from batch.importers.source import Block
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
    assert (outcome.lines, outcome.events, outcome.left_out, outcome.refused.count) == (3, 3, 1, 0)


def test_a_ping_that_nobody_introduced_gets_a_ping_created_one_tick_before_its_first_mention(
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
    3: ("garbage", "the line has 1 field, the header 4"),
    5: (f"u1,p1,like,{T0},more", "the line has 5 fields, the header 4"),
    6: (f'u1,"p1,like,{T0}', "a quotation mark is never closed"),
    7: (f"u 1,p1,like,{T0}", "user_id must be 1 to 128 of the characters A-Z a-z 0-9 . _ : @ -"),
    8: (f"u1,,like,{T0}", "ping_id is required"),
    9: ("u1,p1,like,", "timestamp is required"),
    10: ("u1,p1,like,yesterday", "timestamp must be ISO 8601 or epoch seconds or milliseconds"),
    11: (f"u1,p1,like,{NOW_MS + 86_400_001}", "timestamp is more than 24 hours ahead"),
    12: (f"u1,p1,view,{T0}", "watch_time_ratio is required"),
    13: (f"u1,p1,feed_served,{T0}", "event_type feed_served is written by the system only"),
    14: (f"u1,p1,\xff,{T0}", "event_type is not one of"),
    15: (f"u1,p1,like\ragain,{T0}", "the line holds a carriage return"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_broken_line_is_told_by_its_number_and_takes_no_neighbour(
    world: ImportWorld, tmp_path: Path, end: str
) -> None:
    good = f"u1,p1,like,{T0}"
    lines = [HEADER, *(BROKEN.get(number, (good, ""))[0] for number in range(2, 18))]
    lines[3] = ""  # Line 4 is blank: no record, and no mistake.
    outcome = world.run(write(tmp_path / "log.csv", lines, end), csv_log())
    assert outcome.refused.count == len(BROKEN)
    told = {one.line: one.message for one in outcome.refused.kept}
    assert told.keys() == BROKEN.keys()
    assert [number for number in told if not told[number].startswith(BROKEN[number][1])] == []
    assert len(acts(world)) == 16 - len(BROKEN) - 1


def test_bytes_that_are_no_text_are_refused_alone(world: ImportWorld, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    good = f"u1,p1,like,{T0}".encode()
    # The last two are one letter, halved by the line feed.
    path.write_bytes(b"\n".join([HEADER.encode(), good, b"\xff\xfe" + good, good, good + b"\xc3", b"\xa9" + good]))
    outcome = world.run(path, csv_log())
    assert [one.line for one in outcome.refused.kept] == [3, 5, 6]
    assert {one.message for one in outcome.refused.kept} == {"the line is not UTF-8"}
    assert outcome.refused.kept[0].body.startswith("\\xff\\xfe")
    assert len(acts(world)) == 2


def test_quoted_fields_may_hold_the_delimiter_and_quotation_marks(world: ImportWorld, tmp_path: Path) -> None:
    lines = [f'"u1","p1","like","{T0}"', f'u2,p1,"a, ""big"" buy",{T0}', f'u3,p1,5" buy,{T0}']
    form = csv_log(events='5" buy=like')
    outcome = world.run(write(tmp_path / "log.csv", [HEADER, *lines]), form)
    assert [row["user_id"] for row in acts(world)] == ["u1", "u3"]
    assert [one.line for one in outcome.refused.kept] == [3]


def test_a_quotation_mark_never_swallows_the_next_line() -> None:
    """Four marks in a line, the last of which opens a field that the line does not close."""
    lines = [b"u1,p1,like,1", b'"u"2",p1,x,"d', b"u3,p1,like,3", b'u4,"p",like,4']
    texts = CsvText(["user", "item", "action", "at"], ["user", "at"], ",").texts(Block(2, lines))
    assert texts.columns["user"].to_pylist() == ["u1", "u3", "u4"]
    assert texts.numbers.tolist() == [2, 4, 5]
    assert [number for number, _, _ in texts.broken] == [3]


def test_ids_are_refused_or_made_valid_as_asked(world: ImportWorld, tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [HEADER, f"ann lee,p/1,like,{T0}"])
    assert world.run(path, csv_log(), dry_run=True).events == 0
    world.run(path, csv_log(escape_ids=True))
    (like,) = acts(world)
    assert (like["user_id"], like["ping_id"]) == ("ann:20lee", "p:2f1")


def test_a_file_without_a_header_is_told_its_columns(world: ImportWorld, tmp_path: Path) -> None:
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
        ("who=u", "who is not one of app_version, country"),
        (f"{BASIC},user_id=again", "names user_id twice"),
        (f"{BASIC},device", "say device=COLUMN"),
        (f"{BASIC},device==", "say device=COLUMN"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_one_sentence(said: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        field_map([said])


@pytest.mark.parametrize("said", ["buy", "=like", "buy=love", "buy=feed_served"])
def test_a_word_can_only_mean_an_event_type(said: str) -> None:
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
    assert [one.message for one in outcome.refused.kept] == ["timestamp is 2286-11-20: outside the years 2000 to 2099"]


def generated(count: int, broken_share: float) -> tuple[list[str], list[int]]:
    """A log's lines, and the numbers of those that are broken."""
    dice = random.Random(7)
    lines, broken = [HEADER + ",ratio"], []
    for number in range(2, count + 2):
        if dice.random() < broken_share:
            lines.append(dice.choice(["nonsense", f"u,p,dance,{T0},", "u,p,like,never,", f"u,p,view,{T0},11", '"']))
            broken.append(number)
        else:
            kind = dice.choice(["like", "view", "impression"])
            ratio = f"{dice.random():.3f}" if kind == "view" else ""
            at = T0 - dice.randrange(5 * 86_400)
            lines.append(f"u{dice.randrange(500)},p{dice.randrange(300)},{kind},{at},{ratio}")
    return lines, broken


def test_twenty_thousand_lines_with_one_percent_broken(world: ImportWorld, tmp_path: Path) -> None:
    lines, broken = generated(20_000, 0.01)
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    outcome = world.run(path, csv_log(f"{BASIC},watch_time_ratio=ratio"))
    assert len(broken) > 100
    assert [one.line for one in outcome.refused.kept] == broken
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
import batch.importers.history, batch.importers.source
from tests.unit.import_world import BASIC, ImportWorld, csv_log, write
from tests.unit.test_import_csv import generated

batch.importers.source.BLOCK_BYTES, batch.importers.history.MAX_WAITING = 64 << 10, 2_000
folder, count = Path(sys.argv[1]), int(sys.argv[2])
path = write(folder / "log.csv", generated(count, 0)[0])
world = ImportWorld(folder / "home")
tracemalloc.start()
world.run(path, csv_log(f"{BASIC},watch_time_ratio=ratio"))
print(tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """Python's own objects, each time in a process of its own: four times the lines, the same peak (Arrow's buffers
    are bounded by MAX_WAITING)."""
    peaks = []
    for count in (8_000, 32_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        command = [sys.executable, "-c", _PEAK, str(folder), str(count)]
        peaks.append(int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout))
    assert peaks[1] < 1.5 * peaks[0]


def test_lines_one_by_one_are_read_as_all_at_once() -> None:
    lines = [b"a,b", b'"a,x",b', b"a", b"a,b,c", b'"a""q""",b', b",", b"\xc3\xa9,b"]
    reader = CsvText(["one", "two"], ["one", "two"], ",")
    fast, kept = reader._parsed(lines)
    slow, kept_slow = reader._one_by_one(lines)
    assert kept is not None
    assert {name: column.to_pylist() for name, column in fast.items()} == {
        name: column.to_pylist() for name, column in slow.items()
    }
    assert kept.good.tolist() == kept_slow.good.tolist()
    assert [(at, str(error)) for at, error in kept.broken] == [(at, str(error)) for at, error in kept_slow.broken]
    assert csv_text._fields('a,"b', ",") is None
