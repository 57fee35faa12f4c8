"""What DynamoDB said: the codes behind an error of ours that decide whether the same call may be sent again."""

from typing import Final

from pingfeed.core.errors import PingfeedError

_THROTTLED: Final = frozenset(
    {"ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "Throttling"}
)
_BROKEN: Final = frozenset({"InternalServerError", "InternalFailure", "ServiceUnavailable"})
_CONFLICT: Final = "ConditionalCheckFailedException"


def code_of(error: PingfeedError) -> str | None:
    """The code of AWS's answer; None where there was no answer: a time-out, a connection that broke."""
    answer = getattr(error.__cause__, "response", None)
    return str(answer.get("Error", {}).get("Code")) if isinstance(answer, dict) else None


def is_throttled(error: PingfeedError) -> bool:
    """DynamoDB did nothing, for it is asked too much."""
    return code_of(error) in _THROTTLED


def is_passing(error: PingfeedError) -> bool:
    """A throttling, a fault on their side, no answer: perhaps gone in a second. It may have been done all the same."""
    code = code_of(error)
    return error.retryable and (code is None or code in _THROTTLED or code in _BROKEN)


def is_refused(error: PingfeedError) -> bool:
    """It answered, and will answer the same again: an absent table, a missing right, a wrong request."""
    return code_of(error) is not None and not is_passing(error)


def is_conflict(error: PingfeedError) -> bool:
    """The condition of a write did not hold: somebody else wrote in between."""
    return code_of(error) == _CONFLICT
