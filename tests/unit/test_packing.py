"""Packing for Firehose: nothing lost, nothing over a limit, order kept, waste bounded."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pingfeed.adapters._firehose import (
    BILLED_UNIT,
    CALL_BYTES,
    MAX_CALL_BYTES,
    MAX_RECORD_BYTES,
    MAX_RECORDS,
    RECORD_BYTES,
    billed_bytes,
    calls,
    pack,
    pieces,
    sent_bytes,
)

UNTIMED = settings(deadline=None)


def lines_of(sizes: list[int]) -> list[bytes]:
    """Lines of these sizes, line feed included, no two neighbours alike."""
    return [bytes([97 + number % 26]) * (size - 1) + b"\n" for number, size in enumerate(sizes)]


@UNTIMED
@given(st.lists(st.integers(1, 3000), max_size=60), st.integers(1, 4000))
def test_every_line_is_packed_once_in_order_and_only_single_lines_exceed_the_size(sizes: list[int], room: int) -> None:
    lines = lines_of(sizes)
    records = list(pack(lines, room))
    assert b"".join(records) == b"".join(lines)
    assert all(record.endswith(b"\n") for record in records)
    assert all(len(record) <= room or record.count(b"\n") == 1 for record in records)


@UNTIMED
@given(st.lists(st.integers(1, 40_000), max_size=200))
def test_at_most_one_line_of_room_is_wasted_in_every_record_but_the_last(sizes: list[int]) -> None:
    lines = lines_of(sizes)
    records = list(pack(lines))
    for record, following in pairwise(records):
        first_line = following[: following.index(b"\n") + 1]
        assert len(record) + len(first_line) > RECORD_BYTES
    assert RECORD_BYTES % BILLED_UNIT == 0
    assert RECORD_BYTES <= MAX_RECORD_BYTES
    assert billed_bytes(records) - sum(sizes) < BILLED_UNIT * (2 * sum(sizes) / RECORD_BYTES + 1)


def test_events_of_the_usual_size_cost_one_per_cent_more_than_their_bytes() -> None:
    lines = lines_of([300 + number % 200 for number in range(20_000)])
    billed = billed_bytes(list(pack(lines)))
    assert billed / sum(map(len, lines)) < 1.01
    assert billed_bytes(lines) / billed > 12, "without packing an event is a record"


@UNTIMED
@given(st.integers(1, 3 * MAX_RECORD_BYTES))
def test_a_line_over_the_limit_of_a_record_is_split(size: int) -> None:
    line = b"x" * size + b"\n"
    parts = pieces(line)
    assert b"".join(part[:-1] for part in parts) == line[:-1]
    assert all(len(part) <= MAX_RECORD_BYTES and part.endswith(b"\n") for part in parts)


@UNTIMED
@given(st.lists(st.integers(1, MAX_RECORD_BYTES), max_size=20), st.sampled_from([CALL_BYTES, MAX_CALL_BYTES]))
def test_a_call_is_under_the_limit_and_keeps_the_order(sizes: list[int], room: int) -> None:
    records = [bytes(size) for size in sizes]
    made = list(calls(records, room))
    assert [record for call in made for record in call] == records
    assert all(0 < len(call) <= MAX_RECORDS for call in made)
    assert all(sum(map(sent_bytes, call)) < MAX_CALL_BYTES for call in made)
    assert all(len(call) == 1 or sum(map(sent_bytes, call)) < room for call in made)


@pytest.mark.parametrize(("count", "expected"), [(0, []), (500, [500]), (501, [500, 1]), (1600, [500, 500, 500, 100])])
def test_a_call_takes_five_hundred_records(count: int, expected: list[int]) -> None:
    assert [len(call) for call in calls([b"x"] * count)] == expected


@pytest.mark.parametrize(("size", "billed"), [(1, 5120), (5120, 5120), (5121, 10240), (MAX_RECORD_BYTES, 1024000)])
def test_a_record_is_billed_in_steps_of_five_kilobytes(size: int, billed: int) -> None:
    assert billed_bytes([bytes(size)]) == billed
