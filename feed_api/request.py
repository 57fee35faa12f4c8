"""Parse and authorise the query of GET /get-feed."""

from collections.abc import Mapping
from typing import Final

import msgspec

from feed_api.cursor import read_cursor
from feed_api.state import FeedRequest
from pingfeed.core.errors import Forbidden, InvalidInput
from pingfeed.core.events import Id
from pingfeed.core.ids import IdMaker
from pingfeed.web.auth import Caller
from pingfeed.web.errors import check_parameters

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 50
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}


def identify(query: Mapping[str, str], caller: Caller, now_ms: int, make_id: IdMaker) -> FeedRequest:
    """The request; InvalidInput names the wrong parameter, Forbidden what the caller may not request."""
    check_parameters(query, "user_id", "limit", "cursor", "explain")
    user_id = _user_id(query.get("user_id"))
    if caller.subject not in (None, user_id):
        raise Forbidden("you may request only your own feed", field="user_id")
    explain = _flag(query.get("explain", "false"))
    if explain and caller.subject is None:
        caller.require_operator("explain")
    cursor = query.get("cursor")
    return FeedRequest(
        request_id=make_id(now_ms),
        user_id=user_id,
        limit=_limit(query.get("limit")),
        now_ms=now_ms,
        chain=read_cursor(cursor, user_id) if cursor is not None else None,
        explain=explain,
    )


def _user_id(given: str | None) -> str:
    if not given:
        raise InvalidInput("user_id is required", field="user_id", code="missing_field")
    try:
        return msgspec.convert(given, Id)
    except msgspec.ValidationError as error:
        rule = "user_id must be 1 to 128 of the characters A-Z a-z 0-9 . _ : @ -"
        raise InvalidInput(rule, field="user_id", code="invalid_value") from error


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_LIMIT
    if not (given.isascii() and given.removeprefix("-").isdecimal()):
        raise InvalidInput("limit must be an integer", field="limit", code="invalid_type")
    # int() raises for thousands of digits; ten are out of range already.
    limit = int(given) if len(given) <= 9 else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit must be from 1 to {MAX_LIMIT}", field="limit", code="out_of_range")
    return limit


def _flag(given: str) -> bool:
    if given.lower() not in _FLAGS:
        raise InvalidInput("explain must be true or false", field="explain", code="invalid_type")
    return _FLAGS[given.lower()]
