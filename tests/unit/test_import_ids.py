"""Ids of imported things: valid, the same every time, and different for what is different."""

import re
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.importers.formats import as_id, event_id
from pingfeed.core.errors import InvalidInput
from pingfeed.core.events import EventId, Id


def undone(made: str) -> str:
    raw = re.sub(rb":([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), made.encode())
    return raw.decode()


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_every_text_becomes_an_id_and_valid_ones_stay(text: str) -> None:
    made = as_id(text, "user_id")
    assert msgspec.convert(made, Id) == made
    assert as_id(text, "user_id") == made
    if re.fullmatch(r"[A-Za-z0-9._:@-]+", text):
        assert made == text
    elif len(made) < 128:
        assert undone(made) == text


def test_texts_that_are_too_long_stay_different() -> None:
    long = "é" * 300
    made = {as_id(long + end, "user_id") for end in ("", "a", "b")}
    assert len(made) == 3
    assert all(len(one) == 128 and msgspec.convert(one, Id) for one in made)


def test_a_name_shows_through() -> None:
    assert as_id("lasse_hallström", "creator_id") == "lasse_hallstr:c3:b6m"
    assert as_id("ann lee", "user_id") == "ann:20lee"


def test_no_text_is_no_id() -> None:
    with pytest.raises(InvalidInput, match="user_id is required"):
        as_id("", "user_id")


def test_event_ids_are_uuids_that_an_event_may_carry() -> None:
    made = {event_id(b"a", b"%d" % n) for n in range(100)} | {event_id(b"ab", b"c"), event_id(b"a", b"bc")}
    assert len(made) == 102
    assert all(UUID(one).version == 8 and msgspec.convert(one, EventId) == one for one in made)
