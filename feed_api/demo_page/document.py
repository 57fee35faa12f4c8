"""The page itself, and the headers that keep it to this service and to ingest.

The style and the module stand inside the file, so the policy names their digests: nothing else on the page can run.
"""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from pingfeed.settings import INGEST_PORT, Settings

_HOST: Final = re.compile(r"[A-Za-z0-9.-]+|[0-9A-Fa-f:]+")


def ingest_url(request: Request, settings: Settings) -> str:
    """Where the page's visitor reaches ingest: as set, else the usual port of the host that they came to."""
    if settings.demo_ingest_url:
        return settings.demo_ingest_url
    host = request.url.hostname or ""
    if not _HOST.fullmatch(host):  # it goes into a header, and a client may send any Host
        host = "127.0.0.1"
    return f"{request.url.scheme}://{f'[{host}]' if ':' in host else host}:{INGEST_PORT}"


def document(request: Request, settings: Settings) -> Response:
    """The page as a response."""
    html, script, style = _parts()
    policy = {
        "default-src": "'self'",
        "script-src": script,
        "style-src": style,
        "img-src": "'self' data:",
        "connect-src": f"'self' {ingest_url(request, settings)}",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        # The page builds its elements one by one; markup from a string would be a way in for what events carry.
        "require-trusted-types-for": "'script'",
    }
    written = "; ".join(f"{name} {value}" for name, value in policy.items())
    headers = {"Content-Security-Policy": written, "Cache-Control": "no-cache"}
    return Response(html, media_type="text/html; charset=utf-8", headers=headers)


@cache
def _parts() -> tuple[bytes, str, str]:
    """The file, and the digests of its module and its style as a policy names them."""
    html = (files(__package__) / "index.html").read_bytes()
    return html, _digest(html, b'<script type="module">', b"</script>"), _digest(html, b"<style>", b"</style>")


def _digest(html: bytes, opening: bytes, closing: bytes) -> str:
    start = html.index(opening) + len(opening)
    inside = html[start : html.index(closing, start)]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"
