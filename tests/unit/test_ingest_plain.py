"""The short way of a plain request gives what the way event by event gives, or leaves the request to it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.decode import many_events, one_event
from ingest_api.plain import many_rows, one_row
from pingfeed.core.clock import to_iso
from pingfeed.core.errors import PingfeedError
from pingfeed.core.events import CLIENT_TYPES, MAX_AHEAD_MS, MAX_EVENTS, Row, to_rows

NOW_MS = 1_795_348_800_000
ID = "0193f5a0-7b1c-7c1e-9d56-0f3f6a1b2c3d"
COMMON = {
    "event_id": ID.upper(),
    "timestamp": "2026-11-22T11:59:00+00:00",
    "sent_at": "2026-11-22T13:00:01+01:00",
    "country": "DE",
    "language": "pt-BR",
    "device": "phone",
    "app_version": "1.2",
}
ABOUT_PING = COMMON | {"user_id": "u", "ping_id": "p:1", "request_id": "r@1", "position": 3}
ABOUT_CREATOR = COMMON | {"user_id": "u", "creator_id": "c", "ping_id": "p", "request_id": "r"}
CREATED = COMMON | {
    "user_id": "u",
    "ping_id": "p",
    "creator_id": "c",
    "topics": ["a", "b"],
    "duration_ms": 31_000,
    "attributes": {"year": 1999.0},
    "facets": {"genre": ["x"]},
}
FULL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("impression", "like", "comment", "share", "hide", "report"), ABOUT_PING),
    "view": ABOUT_PING | {"watch_time_ratio": 0.5},
    **dict.fromkeys(("follow", "unfollow", "block"), ABOUT_CREATOR),
    "ping_created": CREATED,
    "ping_deleted": COMMON | {"user_id": "u", "ping_id": "p"},
    "user_updated": COMMON | {"user_id": "u"},
}


def make_id(_now_ms: int) -> str:
    return ID


def short(*events: Any) -> list[Row] | None:
    return many_rows(msgspec.json.encode({"events": events}), NOW_MS, make_id)


def long(body: bytes) -> list[Row] | None:
    """What the way event by event gives; None where it refuses anything."""
    try:
        rows, refusals = to_rows(many_events(body), NOW_MS, make_id)
    except PingfeedError:
        return None
    return None if refusals else rows


@pytest.mark.parametrize("kind", CLIENT_TYPES)
def test_every_type_with_every_field_is_plain(kind: str) -> None:
    event = FULL[kind] | {"event_type": kind}
    body = msgspec.json.encode(event)
    expected, _ = to_rows(one_event(body), NOW_MS, make_id)
    assert expected
    assert one_row(body, NOW_MS, make_id) == short(event) == expected


@pytest.mark.parametrize("kind", CLIENT_TYPES)
def test_what_is_not_given_is_not_in_the_row(kind: str) -> None:
    needed = {f.name for f in msgspec.structs.fields(CLIENT_TYPES[kind]) if f.required}
    event = {name: value for name, value in FULL[kind].items() if name in needed} | {"event_type": kind}
    assert short(event) == to_rows([event], NOW_MS, make_id)[0]


def test_null_counts_as_absent_and_an_empty_list_does_not() -> None:
    created: dict[str, Any] = {"event_type": "ping_created", "ping_id": "p", "creator_id": "c", "topics": []}
    rows = short(created | {"country": None})
    assert rows is not None
    assert rows[0]["topics"] == []
    assert "country" not in rows[0]


LIKE = {"event_type": "like", "user_id": "u", "ping_id": "p"}


@pytest.mark.parametrize(
    "event",
    [
        LIKE | {"of_the_app": 1},
        LIKE | {"received_ms": 1},
        LIKE | {"ping_id": "a b"},
        LIKE | {"ping_id": "a\n"},
        LIKE | {"ping_id": "a\nb"},
        LIKE | {"ping_id": ""},
        LIKE | {"ping_id": "a" * 129},
        LIKE | {"event_id": "1"},
        LIKE | {"event_id": ""},
        LIKE | {"event_id": f"{ID}\n"},
        LIKE | {"event_id": f"{ID}\n{ID}"},
        LIKE | {"country": "de"},
        LIKE | {"language": "x" * 17},
        LIKE | {"position": -1},
        LIKE | {"timestamp": to_iso(NOW_MS + MAX_AHEAD_MS + 1)},
        LIKE | {"event_type": "feed_served"},
        {"event_type": "like", "user_id": "u"},
        "text",
        None,
    ],
)
def test_anything_else_is_left_to_the_way_event_by_event(event: Any) -> None:
    assert short(LIKE, event) is None


def test_no_events_and_too_many_are_left_to_it_too() -> None:
    assert short() is None
    assert short(*[LIKE] * (MAX_EVENTS + 1)) is None
    assert many_rows(b"{", NOW_MS, make_id) is None
    assert many_rows(b"[]", NOW_MS, make_id) is None


odd = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))
ids = st.one_of(st.text("abZ09._:@-", min_size=1, max_size=6), st.text(max_size=3), st.sampled_from(["\n", "a\n", "é"]))
times = st.sampled_from(["2026-11-22T12:00:00Z", "2026-11-22T12:00:00.5", "2026-11-29T12:00:00Z", "yesterday", None])
fields = st.fixed_dictionaries(
    {"event_type": st.sampled_from([*CLIENT_TYPES, "feed_served", "nonsense"])},
    optional={
        "user_id": ids,
        "ping_id": ids,
        "creator_id": ids,
        "request_id": ids,
        "event_id": st.one_of(st.uuids().map(str), ids),
        "timestamp": times,
        "sent_at": times,
        "country": st.one_of(st.sampled_from(["DE", "D", "de", "DEU", "\nDE"]), odd),
        "language": st.one_of(st.sampled_from(["en", "pt-BR", "-"]), odd),
        "device": odd,
        "position": odd,
        "watch_time_ratio": odd,
        "topics": st.lists(st.one_of(st.text(max_size=3), odd), max_size=3),
        "attributes": st.dictionaries(st.sampled_from(["year", "Year"]), odd, max_size=2),
        "more": odd,
    },
)


@given(st.lists(fields, min_size=1, max_size=3))
def test_where_the_short_way_gives_rows_they_are_those_of_the_long_way(events: list[dict[str, Any]]) -> None:
    body = msgspec.json.encode({"events": events})
    rows = many_rows(body, NOW_MS, make_id)
    if rows is not None:
        assert rows == long(body)
