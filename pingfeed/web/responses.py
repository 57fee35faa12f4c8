"""JSON answers, encoded once by msgspec (FastAPI's own encoder costs more than the rest of a request)."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

_encoder = msgspec.json.Encoder()


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`body` (a msgspec struct or builtins) as a JSON response."""
    return Response(_encoder.encode(body), status, headers, "application/json")
