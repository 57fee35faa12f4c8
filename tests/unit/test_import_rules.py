"""The checks over columns are the rules of `pingfeed.core.events`: what one lets through, the other does too."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.importers.csv_events import EventMaker
from batch.importers.csv_text import Texts
from batch.importers.formats import Piece, Times
from batch.importers.mapping import FieldMap
from batch.importers.rules import HAS, NEEDS, RULES, TYPES, labels
from batch.importers.times import Timeline
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import CLIENT_TYPES, to_row
from tests.unit.import_world import END_MS, NOW_MS

TIMES = Times(Timeline(0, 0, 0, 0), END_MS, NOW_MS, 900_000)
NUMBERS = {"position": int, "duration_ms": int, "watch_time_ratio": float}
IDS = st.sampled_from(["a", "b.c", "x" * 128, "x" * 129, "no id", "é", "a\x00", "p|q"])
VALUES: dict[str, st.SearchStrategy[str]] = {
    "event_type": st.sampled_from([*TYPES, "feed_served", "like ", "buy"]),
    "event_id": st.sampled_from(["0190A000-0000-7000-8000-000000000001", "0190a000-0000-7000-8000-00000000000", "7"]),
    **dict.fromkeys(("user_id", "ping_id", "creator_id", "request_id"), IDS),
    "country": st.sampled_from(["DE", "de", "DEU", "D1"]),
    "language": st.sampled_from(["en", "pt-BR", "e", "en_US", "de-aaaaaaaa-bbbbbbbb"]),
    **dict.fromkeys(("device", "app_version"), st.sampled_from(["phone", "x" * 64, "é" * 64, "x" * 65])),
    "position": st.sampled_from(["0", "10000", "10001", "-1", "1.0", "one", "9" * 19, "+3", "0x1"]),
    "duration_ms": st.sampled_from(["0", "86400000", "86400001", "-1"]),
    "watch_time_ratio": st.sampled_from(["0", "10", "10.0001", "-0.1", "1e0", ".5", "5.", "nan", "inf", "1_0", "half"]),
    "topics": st.sampled_from(["bread", "bread|soup| ", "|", "x" * 128, "x" * 129, "|".join(map(str, range(65)))]),
    "timestamp": st.sampled_from(["1795348800", "2026-11-22T12:00:00Z", "2026-11-23T13:00:00Z", "later", "12"]),
}
GOOD = {
    "event_type": "like",
    "event_id": None,
    **{field: f"{field}-1" for field in ("user_id", "ping_id", "creator_id", "request_id")},
    "country": "de",
    "language": "pt-BR",
    "device": "phone",
    "app_version": None,
    "position": "3",
    "duration_ms": "1000",
    "watch_time_ratio": "0.5",
    "topics": "bread|soup",
    "timestamp": "1795348800",
}
ODD = st.dictionaries(st.sampled_from(list(VALUES)), st.none(), max_size=3).flatmap(
    lambda fields: st.fixed_dictionaries({field: st.none() | VALUES[field] for field in fields})
)
LINES = st.builds(lambda kind, odd: GOOD | {"event_type": kind} | odd, st.sampled_from(TYPES), ODD)
"""A good line of some type in which up to three fields are odd."""


def made_of(lines: list[dict[str, str | None]]) -> Piece:
    """The lines as the importer takes them in."""
    columns = {field: pa.array([line[field] for line in lines], pa.string()) for field in VALUES}
    maker = EventMaker(FieldMap({field: field for field in VALUES}, {}), {}, separator="|", escape_ids=False)
    raw = [b"%d" % at for at in range(len(lines))]
    return maker.piece(Texts(pa.array(range(len(lines))).to_numpy(), raw, columns, []), TIMES, 1000)


def as_sent(line: dict[str, str | None]) -> dict[str, Any]:
    """The event that a client would send for a line."""
    event: dict[str, Any] = {field: text for field, text in line.items() if text is not None}
    for field, kind in NUMBERS.items():
        try:
            event[field] = kind(event[field].replace("_", "x")) if field in event else None
        except ValueError:
            continue
    if event.get("position") is not None and str(line["position"]).startswith("+"):
        event["position"] = line["position"]
    if "country" in event:
        event["country"] = event["country"].upper()
    if "topics" in event:
        event["topics"] = [label.strip() for label in event["topics"].split("|") if label.strip()]
    if (event.get("timestamp") or "0").isdigit():
        event["timestamp"] = {"1795348800": "2026-11-22T12:00:00Z"}.get(event.get("timestamp", ""), "not a time")
    return {field: value for field, value in event.items() if value is not None}


@settings(max_examples=150)
@given(st.lists(LINES, min_size=1, max_size=8))
def test_columns_and_single_events_obey_the_same_rules(lines: list[dict[str, str | None]]) -> None:
    piece = made_of(lines)
    expected = {}
    for at, line in enumerate(lines):
        try:
            expected[at] = to_row(as_sent(line), NOW_MS, lambda _ms: "made")
        except InvalidInput:
            continue
    told = {one.line for one in piece.refused}
    assert told == set(range(len(lines))) - set(expected)
    assert piece.refused_count == len(told)
    for row, wanted in zip(piece.events.to_pylist(), expected.values(), strict=True):
        kept = {name: value for name, value in row.items() if value is not None}
        del kept["received_ms"], wanted["received_ms"]
        if wanted["event_id"] == "made":
            del kept["event_id"], wanted["event_id"]
        wanted.pop("extra", None)
        assert kept == {name: value for name, value in wanted.items() if value != []}


def test_every_field_of_an_event_has_its_rule() -> None:
    fields = {field for struct in CLIENT_TYPES.values() for field in struct.__struct_fields__}
    assert fields - set(RULES) == {"sent_at", "attributes", "facets"}
    assert {kind for kind, needs in zip(TYPES, NEEDS["watch_time_ratio"], strict=True) if needs} == {"view"}
    assert {kind for kind, has in zip(TYPES, HAS["topics"], strict=True) if has} == {"ping_created"}


@pytest.mark.parametrize(
    ("text", "expected", "cut"),
    [
        (None, None, False),
        ("|  |", None, False),
        (" bread | soup ", ["bread", "soup"], False),
        ("x" * 130, ["x" * 128], True),
        ("|".join(map(str, range(70))), [str(n) for n in range(64)], True),
    ],
)
def test_labels_are_trimmed_and_cut_to_what_fits(text: str | None, expected: list[str] | None, cut: bool) -> None:
    made, was_cut = labels(pa.array(["a", text, "b|c"]), "|")
    assert made.to_pylist() == [["a"], expected, ["b", "c"]]
    assert was_cut.tolist() == [False, cut, False]
