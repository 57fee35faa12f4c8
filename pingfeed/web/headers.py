"""What every answer tells browsers: keep no copy, guess no type, be in no frame, run nothing, tell nobody where from.

A route that answers with a page says itself what may run on it (`docs.py`, `feed_api/demo_page/document.py`).
"""

from collections.abc import Sequence
from typing import Final

Header = tuple[bytes, bytes]

SECURITY: Final[tuple[Header, ...]] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


def hardened(headers: Sequence[Header], *more: Header) -> list[Header]:
    """Headers (names in lower case) with `more` and with those of `SECURITY` that are not among them."""
    given = {name for name, _ in headers}
    return [*headers, *more, *(header for header in SECURITY if header[0] not in given)]
