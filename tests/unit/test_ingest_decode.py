"""The fast path of the decoder returns what decoding event by event returns, or leaves the body to it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.decode import _fast, decode, many_events, one_event
from pingfeed.core.clock import to_iso
from pingfeed.core.errors import InvalidInput, PingfeedError
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
    **dict.fromkeys(("impression", "like", "unlike", "comment", "share", "hide", "unhide", "report"), ABOUT_PING),
    "view": ABOUT_PING | {"watch_time_ratio": 0.5},
    **dict.fromkeys(("follow", "unfollow", "block", "unblock"), ABOUT_CREATOR),
    **dict.fromkeys(("mute", "unmute", "more", "less"), COMMON | {"user_id": "u", "topic": "t", "position": 1}),
    "ping_created": CREATED,
    "ping_deleted": COMMON | {"user_id": "u", "ping_id": "p"},
    "user_updated": COMMON | {"user_id": "u", "interests": ["a", "b"]},
}


def make_id(_now_ms: int) -> str:
    return ID


def fast(*events: Any) -> list[Row] | None:
    return _fast(msgspec.json.encode({"events": events}), NOW_MS, make_id, True)


def slow(body: bytes) -> list[Row] | None:
    """What decoding event by event returns; None if it rejects anything."""
    try:
        rows, rejected = to_rows(many_events(body), NOW_MS, make_id)
    except PingfeedError:
        return None
    return None if rejected else rows


@pytest.mark.parametrize("has_all_fields", [True, False])
@pytest.mark.parametrize("kind", CLIENT_TYPES)
def test_every_type_with_every_field_or_the_needed_ones_takes_the_fast_path(kind: str, has_all_fields: bool) -> None:
    needed = {f.name for f in msgspec.structs.fields(CLIENT_TYPES[kind]) if has_all_fields or f.required} | {"topic"}
    event = {name: value for name, value in FULL[kind].items() if name in needed} | {"event_type": kind}
    body = msgspec.json.encode(event)
    expected, _ = to_rows(one_event(body), NOW_MS, make_id)
    assert expected
    assert _fast(body, NOW_MS, make_id, False) == fast(event) == expected


def test_null_counts_as_absent_and_an_empty_list_does_not() -> None:
    created: dict[str, Any] = {"event_type": "ping_created", "ping_id": "p", "creator_id": "c", "topics": []}
    rows = fast(created | {"country": None})
    assert rows is not None
    assert rows[0]["topics"] == []
    assert "country" not in rows[0]


LIKE = {"event_type": "like", "user_id": "u", "ping_id": "p"}


@pytest.mark.parametrize(
    "event",
    [
        LIKE | {"of_the_app": 1},
        LIKE | {"received_ms": 1},
        LIKE | {"seq": 1},
        {"event_type": "mute", "user_id": "u"},
        {"event_type": "less", "user_id": "u", "topic": "t", "ping_id": "p"},
        {"event_type": "user_updated", "user_id": "u", "interests": ["\0" * 128] * 32},
        LIKE | {"ping_id": "a b"},
        LIKE | {"ping_id": "a\n"},
        LIKE | {"ping_id": "a\nb"},
        LIKE | {"ping_id": ""},
        LIKE | {"ping_id": "a" * 129},
        LIKE | {"event_id": "1"},
        LIKE | {"event_id": ""},
        LIKE | {"event_id": f"{ID}\n"},
        LIKE | {"event_id": f"{ID}\n{ID}"},
        LIKE | {"language": 7},
        LIKE | {"position": -1},
        LIKE | {"timestamp": to_iso(NOW_MS + MAX_AHEAD_MS + 1)},
        LIKE | {"event_type": "feed_served"},
        {"event_type": "like", "user_id": "u"},
        "text",
        None,
    ],
)
def test_other_events_leave_the_fast_path(event: Any) -> None:
    assert fast(LIKE, event) is None


def test_empty_oversized_and_malformed_bodies_leave_the_fast_path() -> None:
    assert fast() is None
    assert fast(*[LIKE] * (MAX_EVENTS + 1)) is None
    assert _fast(b"{", NOW_MS, make_id, True) is None
    assert _fast(b"[]", NOW_MS, make_id, True) is None


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
        "topic": odd,
        "interests": st.lists(st.text(max_size=3), max_size=2),
        "topics": st.lists(st.one_of(st.text(max_size=3), odd), max_size=3),
        "attributes": st.dictionaries(st.sampled_from(["year", "Year"]), odd, max_size=2),
        "more": odd,
    },
)


@given(st.lists(fields, min_size=1, max_size=3))
def test_rows_of_the_fast_path_equal_those_of_the_slow_one(events: list[dict[str, Any]]) -> None:
    body = msgspec.json.encode({"events": events})
    rows = _fast(body, NOW_MS, make_id, True)
    if rows is not None:
        assert rows == slow(body)


def test_a_check_rejects_events_on_either_path_and_sees_objects_only() -> None:
    def check(event: Any) -> None:
        if event["user_id"] == "eve":
            raise InvalidInput("no", field="user_id", code="forbidden")

    eve = LIKE | {"user_id": "eve", "event_id": ID}
    for others in ([LIKE], [LIKE, 5, None, "x", [LIKE]]):
        body = msgspec.json.encode({"events": [eve, *others]})
        rows, rejected = decode(body, NOW_MS, make_id, many=True, check=check)
        assert [row["user_id"] for row in rows] == ["u"]
        assert (rejected[0].code, rejected[0].event_id) == ("forbidden", ID)
        assert {one.code for one in rejected[1:]} <= {"invalid_type"}
