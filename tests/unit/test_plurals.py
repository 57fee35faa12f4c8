"""Numbers in sentences: one is singular."""

import pytest

from batch.lake.ledger import in_words
from pingfeed.core.words import counted


@pytest.mark.parametrize(("number", "said"), [(0, "0 users"), (1, "1 user"), (2, "2 users"), (1_000, "1,000 users")])
def test_one_is_singular(number: int, said: str) -> None:
    assert counted(number, "user") == said


def test_the_plural_may_be_given() -> None:
    assert counted(1, "event is", "events are") == "1 event is"
    assert counted(3, "event is", "events are") == "3 events are"


def test_a_run_of_one_event_is_told_in_the_singular() -> None:
    said = in_words(read=1, kept=0, rejected=1, left_out=1)
    assert said == "1 event read, 0 of them new, 1 duplicate, 1 document rejected, 1 file unreadable"
