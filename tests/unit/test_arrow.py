"""Rows as Arrow columns: every column of the schema, every value of its kind, and nothing guessed."""

import math
from typing import Any

import pyarrow as pa
import pytest

from pingfeed.core.arrow import EVENT_SCHEMA, table_of_lines, table_of_rows
from pingfeed.core.errors import FormatError
from pingfeed.core.events import COLUMNS, encode_rows
from tests.conformance.samples import like


def _value(column: str, value: Any) -> Any:
    return table_of_rows([{column: value}]).column(column).to_pylist(maps_as_pydicts="strict")[0]


def test_the_schema_is_the_wide_table() -> None:
    assert EVENT_SCHEMA.names == [column.name for column in COLUMNS]
    assert all(field.nullable for field in EVENT_SCHEMA)
    assert EVENT_SCHEMA.field("received_ms").type == pa.int64()
    assert EVENT_SCHEMA.field("facets").type == pa.map_(pa.string(), pa.list_(pa.string()))


def test_a_table_has_every_column_whatever_the_rows_carry() -> None:
    assert table_of_rows([]).schema == EVENT_SCHEMA
    table = table_of_rows([like(1), {}])
    assert table.schema == EVENT_SCHEMA
    assert table.column("ping_id").to_pylist() == ["ping-1", None]
    assert table.column("served_pings").null_count == 2


@pytest.mark.parametrize(
    ("column", "given", "kept"),
    [
        ("watch_time_ratio", 1, 1.0),
        ("watch_time_ratio", 0.1, 0.1),
        ("served_scores", [1, None, 0.5], [1.0, None, 0.5]),
        ("served_sources", [1, 255], [1, 255]),
        ("attributes", {"n": 3, "huge": 10**30, "odd": 2**60 + 1}, {"n": 3.0, "huge": 1e30, "odd": float(2**60 + 1)}),
        ("attributes", {}, {}),
        ("facets", {"brand": ["a"], "none": []}, {"brand": ["a"], "none": []}),
        ("topics", [], []),
        ("position", 0, 0),
        ("extra", "", ""),
        ("device", "\x00ünïcode", "\x00ünïcode"),
    ],
)
def test_a_value_keeps_what_it_means(column: str, given: Any, kept: Any) -> None:
    value = _value(column, given)
    assert value == kept
    assert type(value) is type(kept)
    assert table_of_lines(encode_rows([{column: given}, like(1)])) == table_of_rows([{column: given}, like(1)]).take(
        [1, 0] if column in ("attributes", "facets") else [0, 1]
    )


def test_lines_are_read_as_their_rows_are() -> None:
    view = {"event_type": "view", "watch_time_ratio": 0.1 + 0.2, "position": 2**53 + 1, "user_id": "ü\n\x00\U0001f600"}
    rows = [like(1), view, {"extra": '{"attributes": {"a": 1}}'}, {"served_scores": [0.1, None]}, {}, like(2)]
    assert table_of_lines(encode_rows(rows)) == table_of_rows(rows)
    assert table_of_lines(b"") == table_of_rows([])


def test_a_line_that_is_no_row_is_named_as_the_row_would_be() -> None:
    with pytest.raises(FormatError, match="position"):
        table_of_lines(encode_rows([like(1), {"position": "third"}]))


def test_not_a_number_is_kept_apart_from_unknown() -> None:
    served = _value("served_realtime", [math.nan, None])
    assert math.isnan(served[0])
    assert served[1] is None


@pytest.mark.parametrize(
    ("column", "wrong"),
    [("received_ms", "now"), ("received_ms", 2**63), ("attributes", {"a": "x"}), ("topics", [1]), ("user_id", 5)],
)
def test_a_value_of_another_kind_names_its_column(column: str, wrong: Any) -> None:
    with pytest.raises(FormatError, match=column):
        table_of_rows([{column: wrong}])
