"""Every error that pingfeed raises on purpose, and whether a retry can help.

Adapters translate a vendor's errors into these and chain the cause; `pingfeed/web/errors.py` is the one place that
maps them to HTTP, `pingfeed/cli.py` the one that maps them to an exit code.
"""


class PingfeedError(Exception):
    """Base of all pingfeed errors. `message` is one sentence that a user can act on."""

    code = "internal"
    retryable = False

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidInput(PingfeedError):
    """The caller sent something that can never be accepted as it is; `field` names it where one can be named."""

    code = "invalid"

    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message, field=field)
        if code is not None:
            self.code = code


class MalformedBody(InvalidInput):
    """Broken JSON or gzip."""

    code = "malformed"


class TooLarge(InvalidInput):
    """The body, inflated, or the number of events in it is over the limit."""

    code = "too_large"


class Unauthenticated(PingfeedError):
    """No credential, or an unknown one."""

    code = "unauthenticated"


class Forbidden(PingfeedError):
    """A known caller lacks the permission."""

    code = "forbidden"


class RetryLater(PingfeedError):
    """The same call may succeed after `retry_after_s`."""

    retryable = True

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyRequests(RetryLater):
    """A known caller is over its rate limit."""

    code = "too_many_requests"


class Unavailable(RetryLater):
    """A dependency is down, full or slow."""

    code = "unavailable"


class UnsupportedType(PingfeedError):
    """The body's content type is not JSON."""

    code = "unsupported_type"


class NotFound(PingfeedError):
    """The named object does not exist."""

    code = "not_found"


class SettingsError(PingfeedError):
    """A setting is missing or wrong; `field` is the name of the variable."""

    code = "settings"


class FormatError(PingfeedError):
    """Stored bytes are not in a format (or of a feature digest) that this version reads."""

    code = "format"


class Rebuilding(PingfeedError):
    """A derived store was damaged and has begun anew: it answers, but lacks what was not rebuilt yet."""

    code = "rebuilding"


class Busy(PingfeedError):
    """Another process holds the lock that this one needs."""

    code = "busy"
    retryable = True
