"""The one place where an error becomes a status: every refusal has one shape and one clear sentence.

    {"error": {"code", "message", "field" | null}, "request_id"}

| error | status |
|---|---|
| MalformedBody | 400 |
| Unauthenticated | 401, `WWW-Authenticate: Bearer` |
| Forbidden | 403 |
| NotFound, an unknown path | 404 |
| an unknown method | 405, `Allow` |
| TooLarge | 413 |
| InvalidInput, a query parameter that FastAPI refuses | 422 |
| TooManyRequests | 429, `Retry-After` |
| Unavailable, Busy | 503, `Retry-After` |
| any other | 500, logged with its traceback |
"""

import logging
from collections.abc import Mapping
from typing import Final, cast

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
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
)
from pingfeed.telemetry import request_id
from pingfeed.web.responses import json_response

log = logging.getLogger(__name__)


class ErrorDetail(msgspec.Struct, frozen=True):
    """What was wrong: a stable `code`, one sentence for a person, and the field's name where there is one."""

    code: str
    message: str
    field: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer from 400 up."""

    error: ErrorDetail
    request_id: str | None


_STATUSES: Final[Mapping[type[PingfeedError], int]] = {
    MalformedBody: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    TooLarge: 413,
    InvalidInput: 422,
    TooManyRequests: 429,
    Unavailable: 503,
    Busy: 503,
}


def status_of(error: PingfeedError) -> int:
    """The HTTP status of an error of ours; what is not the caller's doing or a matter of time is a 500."""
    return next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), 500)


def error_response(error: PingfeedError) -> Response:
    """An error of ours as its response. The message of a 500 stays in the log: it may name what is ours to know."""
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
    """The 500 of an error that nobody expected."""
    return _answer(500, "internal", "something went wrong here; the log has it under this request_id", None)


def _answer(
    status: int, code: str, message: str, field: str | None, headers: Mapping[str, str] | None = None
) -> Response:
    return json_response(ErrorBody(ErrorDetail(code, message, field), request_id.get()), status, headers)


def install(app: FastAPI) -> None:
    """Make every error that a route raises answer in this shape."""
    app.add_exception_handler(PingfeedError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _parameter)


def answer_to(error: PingfeedError) -> Response:
    """The response to an error that a route raised; what is our own fault is logged."""
    if status_of(error) == 500:
        log.error("request failed: %s", error.message, exc_info=error)
    return error_response(error)


async def _ours(_request: Request, raised: Exception) -> Response:
    return answer_to(cast(PingfeedError, raised))


_HTTP_CODES: Final[Mapping[int, str]] = {404: "not_found", 405: "method_not_allowed"}


async def _http(request: Request, raised: Exception) -> Response:
    """Starlette's own refusals: an unknown path or method."""
    error = cast(HTTPException, raised)
    code = _HTTP_CODES.get(error.status_code, "invalid")
    message = {
        404: f"there is nothing at {_printable(request.url.path)}",
        405: f"{request.method} is not possible at {_printable(request.url.path)}",
    }.get(error.status_code, error.detail)
    return _answer(error.status_code, code, message, None, error.headers)


def _printable(path: str) -> str:
    """A path as it may stand in an answer: short, and free of what JSON cannot carry."""
    return path[:200].encode("utf-8", "replace").decode()


async def _parameter(_request: Request, raised: Exception) -> Response:
    first = cast(RequestValidationError, raised).errors()[0]
    return error_response(parameter_error(str(first["type"]), str(first["loc"][-1]), str(first["msg"])))


def parameter_error(kind: str, field: str, sentence: str) -> InvalidInput:
    """Pydantic's first complaint as ours: its `type`, the parameter, and "Input should be ..."."""
    if kind == "missing":
        return InvalidInput(f"{field} is required", field=field, code="missing_field")
    rule = sentence.partition(",")[0].replace("Input should be", "must be").replace("String should", "must")
    if kind.startswith(("greater_than", "less_than")):
        code = "out_of_range"
    else:
        code = "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value"
    return InvalidInput(f"{field} {rule}", field=field, code=code)
