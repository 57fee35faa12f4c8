"""Whose a document is that is no row: neither another's, nor nobody's where somebody is named."""

import pytest

from batch.forget.mentions import ids_in

TORN = '{"event_type":"view","user_id":"zoe","ping_id":"p1","watch'


@pytest.mark.parametrize(
    "document",
    [
        '{"event_type":"view","user_id":"zoe","ping_id":"p1","watch_time_ratio":-1}',
        '{"event_type":"view","userId":"zoe","extra":"{\\"a\\":1}"}',
        '{"event_type":"view","user":{"id":"zoe"}}',
        '{"event_type":"ping_deleted","creator_id":"zoe","ping_id":"p1"}',
        '{"a":"{\\"who\\":\\"zoe\\"}"}',
        '["view", "zoe"]',
        "{event_type: view, user_id: zoe, broken",
        TORN,
    ],
)
def test_an_id_is_found_wherever_it_may_be_somebodys(document: str) -> None:
    assert "zoe" in ids_in(document)


@pytest.mark.parametrize("word", ["view", "user_id", "event_type", "ping_id"])
@pytest.mark.parametrize(
    "document", ['{"event_type":"view","user_id":"zoe","ping_id":"p1"}', TORN, '{"ping_id":"view"}']
)
def test_words_of_the_schema_and_names_of_values_are_nobodys_id(word: str, document: str) -> None:
    assert word not in ids_in(document)


def test_a_document_that_says_whose_it_is_is_nobody_elses() -> None:
    assert ids_in('{"event_type":"follow","user_id":"ada","creator_id":"zoe","screen":"home"}') == {"ada"}


def test_a_user_who_is_called_like_a_word_of_the_schema_is_found_by_user_id() -> None:
    assert "view" in ids_in('{"event_type":"view","user_id":"view"}')
    assert "view" in ids_in('{"event_type":"like","user_id":"view","torn')
