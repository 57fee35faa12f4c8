"""Times of a log: one meaning however they are written, and an order that placing keeps."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch.importers.times import EARLIEST_MS, LATEST_MS, Timeline, length_ms, read_column, read_ms
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import InvalidInput


def between(first: str, last: str) -> st.SearchStrategy[datetime]:
    """Times without an offset."""
    return st.datetimes(datetime.fromisoformat(first), datetime.fromisoformat(last))


NOON = 1_795_348_800_000
TEXTS = st.one_of(
    st.integers(-(10**16), 10**16).map(str),
    st.floats(0, 2e12, allow_nan=False).map(lambda x: f"{x:.3f}"),
    between("1990-01-01", "2110-01-01").map(datetime.isoformat),
    between("1999-12-30", "2100-01-02").map(lambda at: at.isoformat(" ", "seconds")),
    between("2000-01-01", "2110-01-01").map(lambda at: at.replace(tzinfo=UTC).isoformat(timespec="milliseconds")),
    st.from_regex(r"20\d\d-[01]\d-[0-3]\d[ T][0-2]\d:[0-6]\d:\d\d(\.\d{1,6})?(Z|[+-]0\d:?00)?", fullmatch=True),
    st.text(max_size=12),
)


@pytest.mark.parametrize(
    "written",
    [
        *("2026-11-22T12:00:00Z", "2026-11-22T12:00:00", "2026-11-22 12:00", "2026-11-22T13:00:00.000+01:00"),
        *("1795348800", "1795348800000", "1795348800.000", 1_795_348_800, 1_795_348_800_000, 1795348800.0),
    ],
)
def test_a_time_means_the_same_however_it_is_written(written: str | float) -> None:
    assert read_ms(written) == NOON


@pytest.mark.parametrize("written", ["", "soon", "22.11.2026", "2026-02-30", "1795348800000000", "nan", True])
def test_what_is_no_time_is_refused_by_its_field(written: str | bool) -> None:
    with pytest.raises(InvalidInput, match="when must be ISO 8601") as raised:
        read_ms(written, "when")
    assert raised.value.field == "when"


@pytest.mark.parametrize("written", ["0", "1999-12-31T23:59:59", "2100-01-01T00:00:00Z", -5])
def test_a_date_that_is_wrong_by_decades_is_refused(written: str | int) -> None:
    with pytest.raises(InvalidInput, match="outside the years 2000 to 2099"):
        read_ms(written)


@given(st.lists(st.none() | TEXTS, max_size=8))
@example(["2026-11-22T12:00:00", "2026-02-30T12:00:00", None, "1795348800"])
@example(["2026-11-22T12:00:00Z", "2026-11-22T12:00:00.5+01:00"])
def test_a_column_is_read_like_its_texts_one_by_one(texts: list[str | None]) -> None:
    texts = [None if text is None else text.strip() for text in texts]
    ms, readable = read_column(pa.array(texts, pa.string()))
    for text, found, there in zip(texts, ms.tolist(), readable.tolist(), strict=True):
        try:
            expected = None if text is None else read_ms(text)
        except InvalidInput:
            expected = None
        assert (found if there else None) == expected


@given(
    st.lists(st.integers(EARLIEST_MS, LATEST_MS), min_size=2, max_size=20).map(sorted), st.integers(1, 4000 * DAY_MS)
)
def test_placing_keeps_the_order_and_both_ends(times: list[int], length: int) -> None:
    timeline = Timeline(times[0], times[-1], NOON, length)
    placed = [timeline.place(ms) for ms in times]
    assert placed == sorted(placed)
    assert placed[0] == NOON
    if times[0] < times[-1]:
        assert placed[-1] == timeline.end_ms == NOON + length


def test_five_seconds_of_thirteen_minutes_become_two_hours_of_two_weeks() -> None:
    timeline = Timeline(0, 781_000, NOON, 14 * DAY_MS)
    assert timeline.place(5_000) - timeline.place(0) == pytest.approx(2.15 * 3_600_000, rel=0.01)


@pytest.mark.parametrize(("text", "ms"), [("14d", 14 * DAY_MS), ("36h", 129_600_000), ("90m", 5_400_000), ("1s", 1000)])
def test_lengths(text: str, ms: int) -> None:
    assert length_ms(text) == ms


@pytest.mark.parametrize("text", ["", "14", "d", "0d", "-1d", "1.5d", "14 days"])
def test_a_length_needs_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a length"):
        length_ms(text)
