"""What converts by the Glue table, and what does not."""

import json
from typing import Any, get_args

import pytest

from pingfeed.core.errors import FormatError
from pingfeed.core.events import COLUMNS, Name, encode_rows
from pingfeed.core.glue_rows import converted, documents_in, row_of
from tests.conformance.samples import like


def encoded(**values: Any) -> bytes:
    return json.dumps({**like(1), **values}).encode()


def test_a_row_that_converts_keeps_its_values() -> None:
    row = {**like(1), "attributes": {"price": 3, "huge": 10**30}, "served_scores": [1, None], "facets": {"none": []}}
    line = converted(encode_rows([row]))
    assert json.loads(line) == {**row, "attributes": {"price": 3.0, "huge": 1e30}}
    assert line.endswith(b"\n")
    assert b'"watch_time_ratio":1.0' in converted(encoded(watch_time_ratio=1)), "a double has a point"


def test_unknown_columns_and_nulls_are_left_out() -> None:
    assert row_of(encoded(unheard_of=1, country=None)) == {k: v for k, v in like(1).items() if k != "country"}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ping_id", 5),
        ("position", "5"),
        ("position", 1.5),
        ("position", True),
        ("duration_ms", 1 << 63),
        ("watch_time_ratio", "0.5"),
        ("topics", "bread"),
        ("topics", [1]),
        ("served_sources", [1.5]),
        ("served_scores", ["x"]),
        ("attributes", {"price": None}),
        ("attributes", [1]),
        ("facets", {"brand": "a"}),
        ("event_id", None),
        ("received_ms", None),
    ],
)
def test_a_value_of_another_type_is_rejected_with_its_column(column: str, value: Any) -> None:
    with pytest.raises(FormatError) as caught:
        converted(encoded(**{column: value}))
    assert caught.value.field == column


@pytest.mark.parametrize("document", [b"", b"{", b"[1]", b"5", b'"x"', b"\xff", b'{"a":1}{"a":2}', b"{}", b"[" * 5000])
def test_a_document_that_is_no_row_is_rejected(document: bytes) -> None:
    with pytest.raises(FormatError):
        converted(document)


def test_nothing_depends_on_what_the_serde_does_to_keys_and_times() -> None:
    """OpenX lower-cases keys, inside maps too, and reads time stamps in forms of its own."""
    assert all(column.name == column.name.lower() for column in COLUMNS)
    assert get_args(Name)[1].pattern.startswith("^[a-z][a-z0-9_]")
    assert not [column for column in COLUMNS if "timestamp" in column.kind or "date" in column.kind]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n \n", []),
        (b'{"a":1}\n{"a":2}\n', [b'{"a":1}', b'{"a":2}']),
        (b'{"a":1}{"a":"}{"} {"b":[2]}', [b'{"a":1}', b'{"a":"}{"}', b'{"b":[2]}']),
        (b'{"a":1}{"a":\n{"b":2}', [b'{"a":1}', b'{"a":', b'{"b":2}']),
        (b'{"a":1}\r\n{"a":2}', [b'{"a":1}', b'{"a":2}']),
        (b"\xff\xfe\n{}", [b"\xff\xfe", b"{}"]),
        ('{"a":"ö"}{"b":"ü"}'.encode(), ['{"a":"ö"}'.encode(), '{"b":"ü"}'.encode()]),
    ],
)
def test_documents_are_separated_and_no_byte_of_a_bad_one_is_lost(data: bytes, expected: list[bytes]) -> None:
    assert list(documents_in(data)) == expected
