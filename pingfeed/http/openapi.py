"""OpenAPI from msgspec structs: the schema that decodes and encodes is the schema that is published.

Routes take a Request and return a Response, so FastAPI sees no models. They say what goes in and out with `body` and
`answer`; `install` puts the structs' schemas under `components`.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from fastapi import FastAPI

from pingfeed.http.errors import ErrorBody

_TEMPLATE: Final = "#/components/schemas/{name}"

MEANINGS: Final[Mapping[int, str]] = {
    400: "The body is not valid JSON or gzip.",
    401: "No API key, or one that is not known here.",
    403: "The key is known but may not do this.",
    404: "There is no such thing.",
    413: "The body is over 1 MiB (inflated), or has too many events.",
    422: "A field or a parameter is wrong; `field` names it.",
    503: "Full, or a dependency is down; try again after `Retry-After` seconds.",
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
    return {status: answer(ErrorBody, meaning=MEANINGS[status]) for status in statuses}


def body(type_: Any, examples: Mapping[str, Any]) -> dict[str, Any]:
    """A route's `openapi_extra` for a JSON body of this type; `examples` by name."""
    named = {name: {"value": value} for name, value in examples.items()}
    content = {"application/json": {"schema": schema(type_), "examples": named}}
    return {"requestBody": {"required": True, "content": content}}


def _tidy(component: dict[str, Any]) -> dict[str, Any]:
    """Docstrings without their indentation, which Python itself takes off only from 3.13 on."""
    described = component.get("description")
    return component | {"description": inspect.cleandoc(described)} if described else component


def install(app: FastAPI, types: Sequence[Any] = ()) -> None:
    """Publish these types' schemas, and everything that they refer to, with the app's own."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        document = generated()
        _, components = msgspec.json.schema_components([ErrorBody, *types], ref_template=_TEMPLATE)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update({name: _tidy(component) for name, component in components.items()})
        # FastAPI adds these for its own 422, which `errors.py` replaces.
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this as the way to extend it
