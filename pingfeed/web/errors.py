"""Maps errors to HTTP responses, in one place: every error body has the same shape and one clear sentence.

    {"error": {"code", "message", "field" | null}, "request_id"}

| error | status |
|---|---|
| MalformedBody | 400 |
| Unauthenticated | 401, `WWW-Authenticate: Bearer` |
| Forbidden | 403 |
| NotFound, an unknown path | 404 |
| an unknown method | 405, `Allow` |
| TooLarge | 413 |
| UnsupportedType | 415 |
| a limit of `protocol.py` | 408, 431 |
| InvalidInput, a query parameter that FastAPI rejects | 422 |
| TooManyRequests | 429, `Retry-After` |
| Unavailable, Busy | 503, `Retry-After` |
| any other | 500, logged with its traceback |
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final, cast

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pingfeed.core.errors import (
    Busy,
    Forbidden,
    InvalidInput,
    MalformedBody,
    NotFound,
    PingfeedError,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedType,
)
from pingfeed.telemetry import request_id

log = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()


class ErrorDetail(msgspec.Struct, frozen=True):
    """The error: a stable `code`, one readable sentence, and the name of the field if there is one."""

    code: str
    message: str
    field: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every response with status 400 or above."""

    error: ErrorDetail
    request_id: str | None


_STATUSES: Final[Mapping[type[PingfeedError], int]] = {
    MalformedBody: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    TooLarge: 413,
    UnsupportedType: 415,
    InvalidInput: 422,
    TooManyRequests: 429,
    Unavailable: 503,
    Busy: 503,
}


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`body` (a msgspec struct or builtins) as JSON; FastAPI's own encoder costs more than the rest of a request."""
    return Response(_encoder.encode(body), status, headers, "application/json")


def status_of(error: PingfeedError) -> int:
    """The HTTP status of an error; 500 unless the caller caused it or a retry can help."""
    return next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), 500)


def error_response(error: PingfeedError) -> Response:
    """An error as a response. The message of a 500 stays in the log, as it may contain internals."""
    status = status_of(error)
    if status == 500:
        return internal_error()
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(getattr(error, "retry_after_s", 1))
    return _answer(status, error.code, error.message, error.field, headers)


def internal_error() -> Response:
    """The response to an unexpected error."""
    return _answer(500, "internal", "internal error; the log has the details under this request_id", None)


def _answer(
    status: int, code: str, message: str, field: str | None, headers: Mapping[str, str] | None = None
) -> Response:
    return json_response(ErrorBody(ErrorDetail(code, message, field), request_id.get()), status, headers)


def install(app: FastAPI) -> None:
    """Answer every error that a route raises in the common shape."""
    app.add_exception_handler(PingfeedError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _parameter)


def answer_to(error: PingfeedError) -> Response:
    """The response to an error that a route raised; a 500 is logged."""
    if status_of(error) == 500:
        log.error("request failed: %s", error.message, exc_info=error)
    return error_response(error)


async def _ours(_request: Request, raised: Exception) -> Response:
    return answer_to(cast(PingfeedError, raised))


_HTTP_CODES: Final[Mapping[int, str]] = {404: "not_found", 405: "method_not_allowed"}


async def _http(request: Request, raised: Exception) -> Response:
    """Starlette's own errors: an unknown path or method."""
    error = cast(HTTPException, raised)
    code = _HTTP_CODES.get(error.status_code, "invalid")
    message = {
        404: f"no such path: {_printable(request.url.path)}",
        405: f"{request.method} is not allowed at {_printable(request.url.path)}",
    }.get(error.status_code, error.detail)
    return _answer(error.status_code, code, message, None, error.headers)


def _printable(path: str) -> str:
    """A path for an error message: truncated, and without characters that JSON cannot encode."""
    return path[:200].encode("utf-8", "replace").decode()


async def _parameter(_request: Request, raised: Exception) -> Response:
    first = cast(RequestValidationError, raised).errors()[0]
    return error_response(parameter_error(str(first["type"]), str(first["loc"][-1]), str(first["msg"])))


def parameter_error(kind: str, field: str, sentence: str) -> InvalidInput:
    """Translate a Pydantic error: its `type`, the parameter, and its message "Input should be ..."."""
    if kind == "missing":
        return InvalidInput(f"{field} is required", field=field, code="missing_field")
    rule = sentence.partition(",")[0].replace("Input should be", "must be").replace("String should", "must")
    if kind.startswith(("greater_than", "less_than")):
        code = "out_of_range"
    else:
        code = "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value"
    return InvalidInput(f"{field} {rule}", field=field, code=code)


def check_parameters(query: Mapping[str, str], *known: str) -> None:
    """InvalidInput names a query parameter that is not known, or given twice: ignoring one would hide the mistake."""
    for name in query:
        if name not in known:
            shown = _printable(name)
            raise InvalidInput(
                f"{shown} is not a parameter; known are {', '.join(known) or 'none'}",
                field=shown,
                code="unknown_parameter",
            )
    given = query.multi_items() if isinstance(query, QueryParams) else ()
    if len(given) > len(query):
        (name, _), *_ = Counter(name for name, _ in given).most_common(1)
        raise InvalidInput(f"{name} is given more than once", field=name, code="invalid_value")
