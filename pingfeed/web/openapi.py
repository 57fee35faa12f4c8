"""The documentation of an app: OpenAPI from msgspec structs, and /docs, which shows it offline.

The published schema is the one that decodes and encodes.

Routes take a Request and return a Response, so FastAPI sees no models. They declare their input and output with `body`
and `answer`; `install` puts the structs' schemas under `components`, the headers on every response, and the credentials
on every operation that may return 401. The credentials are alternatives; the settings decide which are accepted. With
PINGFEED_AUTH=none, "no credential" is another alternative.
"""

import base64
import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse

from pingfeed.core.events import LENIENT
from pingfeed.web.errors import ErrorBody

_TEMPLATE: Final = "#/components/schemas/{name}"

MEANINGS: Final[Mapping[int, str]] = {
    400: "The body is not valid JSON or gzip.",
    401: "The key or token is missing or not valid.",
    403: "The key or token is valid but does not allow this.",
    404: "Not found.",
    413: "The body is over 1 MiB (inflated), or has too many events.",
    422: "A field or parameter is not valid; `field` names it.",
    429: "Too many requests from this caller; retry after `Retry-After` seconds.",
    503: "Overloaded, or a dependency is down; retry after `Retry-After` seconds.",
}


_HEADERS: Final[Mapping[str, Any]] = {
    "X-Request-Id": {
        "description": "The request id, as sent or generated; also in logs and error bodies.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:@-]{1,128}$"},
    },
    "Retry-After": {
        "description": "Seconds to wait before retrying the request.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "The expected authentication scheme.",
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
        "description": "An API key or, with PINGFEED_AUTH=jwt or gateway_jwt, a token whose `sub` is the user.",
    },
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}


def schema(*types: Any) -> dict[str, Any]:
    """The JSON schema of a type, or of a union of several; structs are referenced by name."""
    if len(types) > 1:
        return {"anyOf": [schema(type_) for type_ in types]}
    (found,), _ = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    return found


def answer(*types: Any, meaning: str = "OK", example: Any = None) -> dict[str, Any]:
    """An entry of a route's `responses`: a JSON body of this type, or of one of several."""
    content: dict[str, Any] = {"schema": schema(*types)}
    if example is not None:
        content["example"] = example
    return {"description": meaning, "content": {"application/json": content}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Entries of a route's `responses` for statuses with an error body."""
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


def _tidy(found: Any) -> Any:
    """A schema without the indentation of docstrings, which Python itself removes only from 3.13 on, and without the
    form of what is dropped where it has another."""
    if isinstance(found, list):
        return [_tidy(one) for one in found]
    if not isinstance(found, dict):
        return found
    if LENIENT in found:
        return {"description": found["description"]}
    described = found.get("description")
    tidied = {name: _tidy(value) for name, value in found.items()}
    return tidied | {"description": inspect.cleandoc(described)} if isinstance(described, str) else tidied


def _header(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def install(app: FastAPI, types: Sequence[Any] = (), *, auth_optional: bool = False) -> None:
    """Publish the schemas of these types, and of everything they reference, in the app's document.

    `auth_optional`: operations that authenticate callers also accept requests without a credential.
    """
    generated = app.openapi

    @cache
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
                _complete(operation, auth_optional)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this as the way to extend it


def _complete(operation: dict[str, Any], auth_optional: bool) -> None:
    """Add the response headers and the accepted credentials."""
    for found in operation["responses"].values():
        found["headers"] = {"X-Request-Id": _header("X-Request-Id"), **found.get("headers", {})}
    if "401" in operation["responses"]:
        operation["security"] = [{name: []} for name in _CREDENTIALS] + ([{}] if auth_optional else [])


_ASSETS: Final = "/static-offline-docs"
"""The path under which fastapi-offline serves the bundled files."""
_INLINE: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def install_page(app: FastAPI) -> None:
    """Add /docs, Swagger UI from bundled files, under a content security policy that allows nothing else.

    `app` is a FastAPIOffline without documentation pages of its own.
    """

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        page = get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_ASSETS}/favicon.png",
            # Otherwise Swagger UI sends the document to an online validator.
            swagger_ui_parameters={"validatorUrl": None},
        )
        page.headers["Content-Security-Policy"] = _policy(bytes(page.body))
        return page


def _policy(html: bytes) -> str:
    """Allow the page's one inline script by its digest. Swagger UI sets inline styles."""
    scripts = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in _INLINE.findall(html))
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(["'self'", *(f"'sha256-{digest}'" for digest in scripts)]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in policy.items())
