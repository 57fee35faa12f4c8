"""Who may send what. Keys may send everything; the token of one user, what that user did and what they publish.

| event | a user may send it if |
|---|---|
| `ping_created` | `creator_id` is the user, and `user_id` too where it is given |
| `ping_deleted` | never: it does not say whose ping it is |
| any other | `user_id` is the user |

What is not allowed here by name is forbidden. A `ping_created` under the id of another's ping changes nothing: only
edits by its first creator count (`batch/sql/ping_versions.sql`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pingfeed.core.errors import Forbidden
from pingfeed.core.events import Refusal
from pingfeed.web.auth import Caller

if TYPE_CHECKING:
    from ingest_api.receiver import Result

CODE: Final = Forbidden.code


def forbidden(caller: Caller, events: Sequence[Any]) -> dict[int, Refusal]:
    """The refusals, by index, of decoded events that a caller may not send.

    What is no JSON object (or could not be decoded) is left to those who say why it is no event.
    """
    if caller.subject is None:
        return {}
    found: dict[int, Refusal] = {}
    for index, event in enumerate(events):
        if isinstance(event, dict) and (wrong := _wrong(caller.subject, event)) is not None:
            found[index] = _refusal(index, event, *wrong)
    return found


def check_result(result: "Result") -> None:
    """Forbidden where nothing of a request was stored, and that for want of permission alone."""
    if result.status == 422 and all(rejected.code == CODE for rejected in result.rejected):
        first = result.rejected[0]
        raise Forbidden(first.message, field=first.field)


def _wrong(subject: str, event: Mapping[str, Any]) -> tuple[str, str] | None:
    """The field and the sentence for what this user may not send; None for what they may."""
    kind, user_id = event.get("event_type"), event.get("user_id")
    if kind == "ping_deleted":
        return "event_type", "ping_deleted is sent with an API key only"
    if kind == "ping_created":
        if event.get("creator_id") != subject:
            return "creator_id", "creator_id must be the token's user"
        if user_id is None:
            return None
    return None if user_id == subject else ("user_id", "user_id must be the token's user")


def _refusal(index: int, event: Mapping[str, Any], field: str, message: str) -> Refusal:
    event_id = event.get("event_id")
    try:
        body = msgspec.json.encode(event)
    except (RecursionError, ValueError):  # nested so deeply that it only just decoded
        body = b"null"
    return Refusal(index, event_id if isinstance(event_id, str) else None, CODE, field, message, body)
