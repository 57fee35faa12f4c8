"""OpenAPI from msgspec structs: the schema that decodes and encodes is the schema that is published.

Routes take a Request and return a Response, so FastAPI sees no models. They say what goes in and out with `body` and
`answer`; `install` puts the structs' schemas under `components`, the headers on every answer, and the credentials on
every operation that may answer 401. The credentials are alternatives, and which of them are accepted is a matter of the
settings; with PINGFEED_AUTH=none "no credential" is one more.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from fastapi import FastAPI

from pingfeed.web.errors import ErrorBody

_TEMPLATE: Final = "#/components/schemas/{name}"

MEANINGS: Final[Mapping[int, str]] = {
    400: "The body is not valid JSON or gzip.",
    401: "No key or token, or one that is not good here.",
    403: "The key is known, or the token is good, but it may not do this.",
    404: "There is no such thing.",
    413: "The body is over 1 MiB (inflated), or has too many events.",
    422: "A field or a parameter is wrong; `field` names it.",
    429: "More requests than one caller may send; try again after `Retry-After` seconds.",
    503: "Full, or a dependency is down; try again after `Retry-After` seconds.",
}


_HEADERS: Final[Mapping[str, Any]] = {
    "X-Request-Id": {
        "description": "The request's id, as it was sent or made here; logs and error bodies have it too.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:@-]{1,128}$"},
    },
    "Retry-After": {
        "description": "How many seconds to wait before the same request may succeed.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "How to say who calls.",
        "required": True,
        "schema": {"type": "string", "enum": ["Bearer"]},
    },
}
_HEADER_OF: Final[Mapping[int, str]] = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
_CREDENTIALS: Final[Mapping[str, Any]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An API key, or with PINGFEED_AUTH=jwt a token whose `sub` is the user.",
    },
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}


def schema(*types: Any) -> dict[str, Any]:
    """The JSON schema of a type, or of any one of several; structs are referred to by name."""
    if len(types) > 1:
        return {"anyOf": [schema(type_) for type_ in types]}
    (found,), _ = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    return found


def answer(*types: Any, meaning: str = "OK", example: Any = None) -> dict[str, Any]:
    """One entry of a route's `responses`: a JSON body of this type, or of any one of several."""
    content: dict[str, Any] = {"schema": schema(*types)}
    if example is not None:
        content["example"] = example
    return {"description": meaning, "content": {"application/json": content}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Entries of a route's `responses` for statuses that answer in the shape of errors."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        answers[status] = answer(ErrorBody, meaning=MEANINGS[status])
        if status in _HEADER_OF:
            answers[status]["headers"] = {_HEADER_OF[status]: _header(_HEADER_OF[status])}
    return answers


def body(type_: Any, examples: Mapping[str, Any]) -> dict[str, Any]:
    """A route's `openapi_extra` for a JSON body of this type; `examples` by name."""
    named = {name: {"value": value} for name, value in examples.items()}
    content = {"application/json": {"schema": schema(type_), "examples": named}}
    return {"requestBody": {"required": True, "content": content}}


def _tidy(component: dict[str, Any]) -> dict[str, Any]:
    """Docstrings without their indentation, which Python itself takes off only from 3.13 on."""
    described = component.get("description")
    return component | {"description": inspect.cleandoc(described)} if described else component


def _header(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def install(app: FastAPI, types: Sequence[Any] = (), *, open_door: bool = False) -> None:
    """Publish these types' schemas, and everything that they refer to, with the app's own.

    `open_door`: an operation that knows callers does without a credential too.
    """
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        document = generated()
        _, components = msgspec.json.schema_components([ErrorBody, *types], ref_template=_TEMPLATE)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update({name: _tidy(component) for name, component in components.items()})
        # FastAPI adds these for its own 422, which `errors.py` replaces.
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        document["components"] |= {"headers": _HEADERS, "securitySchemes": _CREDENTIALS}
        for path in document["paths"].values():
            for operation in path.values():
                _complete(operation, open_door)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this as the way to extend it


def _complete(operation: dict[str, Any], open_door: bool) -> None:
    """What every operation says: its answers' headers, and who may call."""
    for found in operation["responses"].values():
        found["headers"] = {"X-Request-Id": _header("X-Request-Id"), **found.get("headers", {})}
    if "401" in operation["responses"]:
        operation["security"] = [{name: []} for name in _CREDENTIALS] + ([{}] if open_door else [])
