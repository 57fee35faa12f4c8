"""What schemathesis must know beyond the OpenAPI documents; loaded by its command (`test_openapi_fuzz.py`).

Some rules cannot be written as a schema. A cursor is one that this feed gave to this user. A timestamp is not a day
ahead. An integer is written without a fraction (to a schema 3.0 is one too). A user's token is for that user. What
steers the feed has one target. So data that is meant to be good is mended here before it is sent; what is meant to be
bad goes as it is. And where one bad event is refused alone among good ones, a 202 has to name it.
"""

import os
from typing import Any, Final

import schemathesis
from schemathesis.core.parameters import ParameterLocation

from pingfeed.core.events import ONE_TARGET

BATCH: Final = "/track-events"
SUBJECT: Final = os.environ.get("FUZZ_SUBJECT")
"""The user of the token that requests carry, if they do."""


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Mend what is meant to be good."""
    if not _is_meant_well(case):
        return
    if case.query:
        case.query.pop("cursor", None)
        if SUBJECT:
            case.query["user_id"] = SUBJECT
    for event in _events(case.body):
        _mend(event)


def _mend(event: dict[str, Any]) -> None:
    event.pop("timestamp", None)
    for name in ("position", "duration_ms"):
        if isinstance(event.get(name), float):
            event[name] = int(event[name])
    if SUBJECT:
        event |= {name: SUBJECT for name in ("user_id", "creator_id") if name in event}
    targets = [name for name in ONE_TARGET.get(event.get("event_type", ""), ()) if event.get(name) is not None]
    if event.get("event_type") in ONE_TARGET and not targets:
        event["creator_id"] = "c"
    for name in targets[1:]:
        del event[name]


@schemathesis.check
def a_bad_event_is_named(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """What the schema forbids in a batch is refused alone, or the whole batch is."""
    body = case.meta and case.meta.components.get(ParameterLocation.BODY)
    if case.path == BATCH and response.status_code == 202 and body and body.mode.is_negative:
        assert response.json()["rejected"], "a batch that breaks the schema was taken without a word"


def _is_meant_well(case: schemathesis.Case) -> bool:
    return case.meta is None or case.meta.generation.mode.is_positive


def _events(body: Any) -> list[dict[str, Any]]:
    if not isinstance(body, dict):
        return []
    found = body.get("events", [body])
    return [event for event in found if isinstance(event, dict)] if isinstance(found, list) else []
