"""The event schema: which events are rejected with which code and field, and what a row keeps."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pingfeed.core.arrow import table_of_rows
from pingfeed.core.clock import DAY_MS, to_iso
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import (
    CLIENT_TYPES,
    COLUMNS,
    MAX_AHEAD_MS,
    ONE_TARGET,
    FeedServed,
    decode_rows,
    encode_rows,
    order_key,
    served_row,
)
from pingfeed.core.events import to_row as make_row
from pingfeed.core.events import to_rows as make_rows

NOW_MS = 1_795_348_800_000
EVENT_ID = "0193f5a0-7b1c-7c1e-9d56-0f3f6a1b2c3d"
VIEW = {"event_type": "view", "user_id": "u1", "ping_id": "p1", "watch_time_ratio": 0.5}
LIKE = {"event_type": "like", "user_id": "u1", "ping_id": "p1"}
CREATED = {"event_type": "ping_created", "ping_id": "p1", "creator_id": "c1"}
MUTE = {"event_type": "mute", "user_id": "u1"}
UPDATED = {"event_type": "user_updated", "user_id": "u1"}
FOLLOW = {"event_type": "follow", "user_id": "u1", "creator_id": "c1"}


def made_id(_now_ms: int) -> str:
    return EVENT_ID


def to_row(event: Any) -> dict[str, Any]:
    return make_row(event, NOW_MS, made_id)


def without(event: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != field}


REJECTED = [
    pytest.param([], "invalid_type", None, id="list"),
    pytest.param(None, "invalid_type", None, id="null"),
    pytest.param("like", "invalid_type", None, id="string"),
    pytest.param({}, "missing_field", "event_type", id="no type"),
    pytest.param({"event_type": 5}, "invalid_type", "event_type", id="type is a number"),
    pytest.param(LIKE | {"event_type": "wave"}, "unknown_event_type", "event_type", id="unknown type"),
    pytest.param({"event_type": "feed_served"}, "not_accepted", "event_type", id="feed_served"),
    pytest.param(without(LIKE, "ping_id"), "missing_field", "ping_id", id="no ping_id"),
    pytest.param(without(LIKE, "user_id"), "missing_field", "user_id", id="no user_id"),
    pytest.param(without(FOLLOW, "creator_id"), "missing_field", "creator_id", id="no creator_id"),
    pytest.param(without(CREATED, "creator_id"), "missing_field", "creator_id", id="created without creator"),
    pytest.param(without(VIEW, "watch_time_ratio"), "missing_field", "watch_time_ratio", id="no ratio"),
    pytest.param(VIEW | {"watch_time_ratio": -1}, "out_of_range", "watch_time_ratio", id="ratio -1"),
    pytest.param(VIEW | {"watch_time_ratio": float("nan")}, "out_of_range", "watch_time_ratio", id="ratio NaN"),
    pytest.param(VIEW | {"watch_time_ratio": math.nan}, "out_of_range", "watch_time_ratio", id="ratio NaN"),
    pytest.param(VIEW | {"watch_time_ratio": 10**400}, "out_of_range", "watch_time_ratio", id="ratio huge"),
    pytest.param(VIEW | {"watch_time_ratio": "0.5"}, "invalid_type", "watch_time_ratio", id="ratio a string"),
    pytest.param(VIEW | {"watch_time_ratio": True}, "invalid_type", "watch_time_ratio", id="ratio a boolean"),
    pytest.param(LIKE | {"user_id": "a b"}, "invalid_value", "user_id", id="user_id with a space"),
    pytest.param(LIKE | {"user_id": ""}, "invalid_value", "user_id", id="user_id empty"),
    pytest.param(LIKE | {"user_id": "u\n"}, "invalid_value", "user_id", id="user_id with a line feed"),
    pytest.param(LIKE | {"user_id": "u\0"}, "invalid_value", "user_id", id="user_id with NUL"),
    pytest.param(LIKE | {"user_id": "u" * 129}, "invalid_value", "user_id", id="user_id of 129"),
    pytest.param(LIKE | {"user_id": 7}, "invalid_type", "user_id", id="user_id a number"),
    pytest.param(LIKE | {"ping_id": None}, "invalid_type", "ping_id", id="ping_id null"),
    pytest.param(LIKE | {"event_id": "zz"}, "invalid_value", "event_id", id="event_id no UUID"),
    pytest.param(LIKE | {"event_id": EVENT_ID + "\n"}, "invalid_value", "event_id", id="event_id with a line feed"),
    pytest.param(MUTE, "missing_field", "creator_id", id="mute of nothing"),
    pytest.param(MUTE | {"creator_id": "c", "topic": "t"}, "invalid_value", "creator_id", id="mute of two"),
    pytest.param(MUTE | {"event_type": "more"}, "missing_field", "creator_id", id="more of nothing"),
    pytest.param(MUTE | {"event_type": "less", "topic": "t", "ping_id": "p"}, "invalid_value", "creator_id", id="less"),
    pytest.param(MUTE | {"topic": ""}, "out_of_range", "topic", id="an empty topic muted"),
    pytest.param(UPDATED | {"interests": ["a"] * 33}, "out_of_range", "interests", id="33 interests"),
    pytest.param(LIKE | {"timestamp": 1_795_348_800}, "invalid_type", "timestamp", id="time a number"),
    pytest.param(LIKE | {"timestamp": "yesterday"}, "invalid_value", "timestamp", id="time a word"),
    pytest.param(LIKE | {"timestamp": to_iso(NOW_MS + 7 * DAY_MS)}, "timestamp_ahead", "timestamp", id="next week"),
    pytest.param(LIKE | {"timestamp": "9999-12-31T23:59:59-23:00"}, "timestamp_ahead", "timestamp", id="last year"),
    pytest.param(CREATED | {"topics": "food"}, "invalid_type", "topics", id="topics no list"),
    pytest.param(CREATED | {"topics": ["a"] * 65}, "out_of_range", "topics", id="65 topics"),
    pytest.param(CREATED | {"topics": [""]}, "out_of_range", "topics[0]", id="an empty topic"),
    pytest.param(CREATED | {"duration_ms": -1}, "out_of_range", "duration_ms", id="duration -1"),
    pytest.param(CREATED | {"attributes": {"A b": 1}}, "invalid_value", "attributes", id="attribute's name"),
    pytest.param(CREATED | {"attributes": {"a": "1"}}, "invalid_type", "attributes[...]", id="attribute's value"),
]


@pytest.mark.parametrize(("event", "code", "field"), REJECTED)
def test_a_rejection_names_code_and_field_in_one_sentence(event: Any, code: str, field: str | None) -> None:
    with pytest.raises(InvalidInput) as error:
        to_row(event)
    assert (error.value.code, error.value.field) == (code, field)
    assert error.value.message.startswith(field or "an event")
    assert not set("`$\n") & set(error.value.message)


@pytest.mark.parametrize("kind", sorted(CLIENT_TYPES))
def test_every_type_becomes_a_row_of_known_columns(kind: str) -> None:
    fields = set(CLIENT_TYPES[kind].__struct_fields__)
    event = {name: value for name, value in (VIEW | CREATED | FOLLOW).items() if name in fields} | {"event_type": kind}
    for other in ONE_TARGET.get(kind, ())[1:]:
        event.pop(other, None)
    row = to_row(event | {"my_own": [1, {"a": None}]})
    assert row.keys() <= {column.name for column in COLUMNS}
    assert row["event_type"] == kind
    assert (row["event_id"], row["received_ms"], row["timestamp_ms"]) == (EVENT_ID, NOW_MS, NOW_MS)
    assert row["extra"] == '{"my_own":[1,{"a":null}]}'


def test_null_means_absent() -> None:
    assert to_row(LIKE | {"position": None, "country": None}) == to_row(LIKE)


def test_system_columns_cannot_be_set_from_outside() -> None:
    row = to_row(LIKE | {"received_ms": 1, "timestamp_ms": 2, "served_pings": ["p"], "extra": "x", "seq": 9})
    assert (row["received_ms"], row["timestamp_ms"], row["seq"]) == (NOW_MS, NOW_MS, 0)
    assert row["extra"] == '{"extra":"x","received_ms":1,"seq":9,"served_pings":["p"],"timestamp_ms":2}'
    assert "served_pings" not in row


def test_event_ids_are_one_whatever_their_case() -> None:
    assert to_row(LIKE | {"event_id": EVENT_ID.upper()})["event_id"] == EVENT_ID


def test_times_are_kept_as_milliseconds() -> None:
    row = to_row(LIKE | {"timestamp": "2026-11-22T13:00:00.25+02:00"})
    assert row["timestamp_ms"] == NOW_MS - 3_600_000 + 250
    row = to_row(LIKE | {"sent_at": "2026-11-22T11:00:01Z"})
    assert (row["sent_ms"], row["timestamp_ms"]) == (NOW_MS - 3_599_000, NOW_MS)
    assert row.keys().isdisjoint({"timestamp", "sent_at"})


@pytest.mark.parametrize("skew_ms", [0, -3_600_000, 3_600_000, 40 * 86_400_000])
def test_sent_at_corrects_the_clients_clock(skew_ms: int) -> None:
    """The event happened five seconds before it was sent, whatever the client's clock says."""
    sent = {"timestamp": to_iso(NOW_MS + skew_ms - 5_000), "sent_at": to_iso(NOW_MS + skew_ms)}
    row = to_row(LIKE | sent)
    assert row["timestamp_ms"] == NOW_MS - 5_000
    assert row["sent_ms"] == NOW_MS + skew_ms


def test_a_day_ahead_is_the_limit_and_late_is_kept() -> None:
    assert to_row(LIKE | {"timestamp": to_iso(NOW_MS + MAX_AHEAD_MS)})["timestamp_ms"] == NOW_MS + MAX_AHEAD_MS
    with pytest.raises(InvalidInput):
        to_row(LIKE | {"timestamp": to_iso(NOW_MS + MAX_AHEAD_MS + 1)})
    assert to_row(LIKE | {"timestamp": "2001-01-01T00:00:00Z"})["timestamp_ms"] == 978_307_200_000


def test_a_bad_event_does_not_affect_its_neighbours() -> None:
    rows, rejected = make_rows([LIKE, VIEW | {"watch_time_ratio": -1, "event_id": EVENT_ID}, FOLLOW], NOW_MS, made_id)
    assert [row["event_type"] for row in rows] == ["like", "follow"]
    (event,) = rejected
    assert (event.index, event.event_id) == (1, EVENT_ID)
    assert b'"watch_time_ratio":-1' in event.body


def test_the_order_key_is_time_receipt_place_in_the_request_and_id() -> None:
    """A time ahead of the receipt counts as the receipt; a rejected neighbour keeps its place."""
    ahead = {"timestamp": to_iso(NOW_MS + 1_000)}
    rows, _ = make_rows([LIKE | ahead, {}, LIKE | {"timestamp": to_iso(NOW_MS - 5)}], NOW_MS, made_id)
    assert [order_key(row) for row in rows] == [(NOW_MS, NOW_MS, 0, EVENT_ID), (NOW_MS - 5, NOW_MS, 2, EVENT_ID)]
    assert order_key(without(rows[1], "seq")) == (NOW_MS - 5, NOW_MS, 0, EVENT_ID)


def test_feed_served_becomes_a_row_of_known_columns() -> None:
    served = FeedServed(
        event_id=EVENT_ID,
        user_id="u1",
        request_id="r1",
        received_ms=NOW_MS,
        timestamp_ms=NOW_MS,
        served_pings=["p1"],
        served_sources=[1],
        served_scores=[None],
        served_realtime=[0.5, None, 0.0, 0.0],
        served_propensities=[1.0],
    )
    row = served_row(served)
    assert row.keys() <= {column.name for column in COLUMNS}
    assert row["event_type"] == "feed_served"
    assert "model_id" not in row
    assert decode_rows(encode_rows([row])) == [row]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted({field for struct in CLIENT_TYPES.values() for field in struct.__struct_fields__})


@given(JSON)
def test_no_json_raises_anything_but_invalid_input(event: Any) -> None:
    make_rows([event], NOW_MS, made_id)


@example("ping_created", {}, {}, {"endless": float("inf")}, datetime(2026, 11, 22, tzinfo=UTC))
@example("ping_created", {}, {}, {"nothing": float("nan")}, datetime(2026, 11, 22, tzinfo=UTC))
@given(
    st.sampled_from(sorted(CLIENT_TYPES)),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    st.dictionaries(st.text(max_size=12), JSON, max_size=2),
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), st.integers() | st.floats(), max_size=3),
    st.datetimes(),
)
def test_any_field_may_hold_anything_and_an_accepted_event_fits_spool_and_lake(
    kind: str, fields: dict[str, Any], more: dict[str, Any], attributes: dict[str, float], sent_at: datetime
) -> None:
    """A row that the sink cannot write would block all that follow it."""
    good = {"user_id": "u", "ping_id": "p", "creator_id": "c", "watch_time_ratio": 1, "attributes": attributes}
    event = more | good | {"sent_at": sent_at.isoformat()} | fields | {"event_type": kind}
    rows, rejected = make_rows([event], NOW_MS, made_id)
    assert len(rows) + len(rejected) == 1
    assert decode_rows(encode_rows(rows)) == rows
    assert all(row.keys() <= {column.name for column in COLUMNS} for row in rows)
    assert all(event.message and event.code for event in rejected)
    assert table_of_rows(decode_rows(encode_rows(rows))).num_rows == len(rows)
