"""Ids of imported things: what a log calls them as far as the rules allow, and event ids that never change."""

import re
from hashlib import blake2b
from typing import Final

from pingfeed.core.errors import InvalidInput

_ID: Final = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_FREE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@-")
_MAX: Final = 128


def as_id(text: str, field: str) -> str:
    """A log's id as one of ours; the same text always gives the same id. InvalidInput if there is no text.

    A valid id stays as it is. In any other, each byte outside `[A-Za-z0-9._@-]` becomes `:` and two hex digits
    (percent-encoding with a colon), which can be undone. Beyond 128 characters, a digest replaces the tail.
    """
    if _ID.fullmatch(text):
        return text
    if not text:
        raise InvalidInput(f"{field} is required", field=field, code="missing_field")
    encoded = "".join(chr(byte) if byte in _FREE else f":{byte:02x}" for byte in text.encode("utf-8", "replace"))
    if len(encoded) <= _MAX:
        return encoded
    tail = blake2b(encoded.encode(), digest_size=16).hexdigest()
    return f"{encoded[: _MAX - 1 - len(tail)]}:{tail}"


def event_id(*parts: bytes) -> str:
    """The UUID (version 8, RFC 9562) that these parts determine, whatever bytes they hold."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    h = digest.hexdigest()
    return f"{h[:8]}-{h[8:12]}-8{h[13:16]}-{'89ab'[int(h[16], 16) & 3]}{h[17:20]}-{h[20:]}"
