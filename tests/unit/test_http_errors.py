"""Every error has one shape and its own status."""

import logging

import pytest

from pingfeed.core.errors import TooLarge
from pingfeed.web.errors import parameter_error, status_of
from tests.unit.http_shell import RAISED, ask, client_of, shell

STATUSES = {
    "invalid": 422,
    "malformed": 400,
    "too_large": 413,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "too_many": 429,
    "unavailable": 503,
    "busy": 503,
    "settings": 500,
    "format": 500,
    "bug": 500,
}


@pytest.mark.parametrize("name", sorted(RAISED))
async def test_every_error_answers_in_the_one_shape(name: str) -> None:
    answer = await ask("GET", f"/raise/{name}", {"X-Request-Id": "mine"})
    assert answer.status_code == STATUSES[name]
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error", "request_id"}
    assert body["error"].keys() == {"code", "message", "field"}
    assert body["request_id"] == "mine"


async def test_our_sentence_code_and_field_are_passed_on() -> None:
    error = (await ask("GET", "/raise/invalid")).json()["error"]
    assert error == {"code": "out_of_range", "message": "limit must be 1 to 50", "field": "limit"}


async def test_a_retryable_error_says_when_to_retry() -> None:
    async with client_of(shell()) as client:
        assert (await client.get("/raise/unavailable")).headers["retry-after"] == "7"
        assert (await client.get("/raise/too_many")).headers["retry-after"] == "3"
        assert (await client.get("/raise/busy")).headers["retry-after"] == "1"


async def test_a_401_says_how_to_authenticate() -> None:
    assert (await ask("GET", "/raise/unauthenticated")).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("name", ["settings", "format", "bug"])
async def test_the_details_of_a_500_are_logged_and_not_sent(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        async with client_of(shell()) as client:
            answer = await client.get(f"/raise/{name}")
    assert answer.json()["error"]["code"] == "internal"
    assert str(RAISED[name]) not in answer.text
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[1] is RAISED[name]


async def test_an_unknown_path_is_a_404_of_ours() -> None:
    answer = await ask("GET", "/nowhere/%ED%A0%80")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_an_unknown_method_is_a_405_that_says_what_is_allowed() -> None:
    answer = await ask("DELETE", "/healthz")
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("", "missing_field", "user_id"),
        ("user_id=u&limit=0", "out_of_range", "limit"),
        ("user_id=u&limit=1000", "out_of_range", "limit"),
        ("user_id=u&limit=ten", "invalid_type", "limit"),
        ("user_id=u&limit=9999999999999999999999999", "out_of_range", "limit"),
        ("user_id=u&explain=perhaps", "invalid_type", "explain"),
    ],
)
async def test_a_bad_parameter_is_a_422_that_names_it(query: str, code: str, field: str) -> None:
    answer = await ask("GET", f"/limited?{query}")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, code, field)
    assert error["message"].startswith(field)


def test_a_parameters_sentence_reads_as_one() -> None:
    error = parameter_error("less_than_equal", "limit", "Input should be less than or equal to 50")
    assert error.message == "limit must be less than or equal to 50"


def test_a_subclass_has_its_parents_status() -> None:
    class Precise(TooLarge):
        """A later, more precise error."""

    assert status_of(Precise("x")) == 413
