"""Ids of imported things: what a log calls them as far as the rules allow, and event ids that never change."""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pingfeed.core.errors import InvalidInput

ID: Final = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_FREE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@-")
_MAX: Final = 128
_HEX: Final = np.frombuffer(b"0123456789abcdef", np.uint8)
_DASHES: Final = (8, 13, 18, 23)
_DIGITS: Final = [at for at in range(36) if at not in _DASHES]


def as_id(text: str, field: str) -> str:
    """A log's id as one of ours; the same text always gives the same id. InvalidInput if there is no text.

    An id that is valid stays as it is. In any other, each byte outside `[A-Za-z0-9._@-]` becomes `:` and two hex digits
    (percent-encoding with a colon), which can be undone. Where that passes 128 characters the tail becomes a digest.
    """
    if ID.fullmatch(text):
        return text
    if not text:
        raise InvalidInput(f"{field} is required", field=field, code="missing_field")
    encoded = "".join(chr(byte) if byte in _FREE else f":{byte:02x}" for byte in text.encode("utf-8", "replace"))
    if len(encoded) <= _MAX:
        return encoded
    tail = blake2b(encoded.encode(), digest_size=16).hexdigest()
    return f"{encoded[: _MAX - 1 - len(tail)]}:{tail}"


def event_id(*parts: bytes) -> str:
    """The UUID that these parts determine, whatever bytes they hold."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    h = digest.hexdigest()
    return f"{h[:8]}-{h[8:12]}-8{h[13:16]}-{'89ab'[int(h[16], 16) & 3]}{h[17:20]}-{h[20:]}"


def event_ids(digests: Sequence[bytes]) -> Any:
    """16-byte digests as UUIDs of version 8 (RFC 9562: for what the maker defines), a `pyarrow.StringArray`."""
    raw = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16).copy()
    raw[:, 6] = raw[:, 6] & 0x0F | 0x80
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    text = np.full((len(raw), 36), ord("-"), np.uint8)
    text[:, _DIGITS[0::2]] = _HEX[raw >> 4]
    text[:, _DIGITS[1::2]] = _HEX[raw & 0x0F]
    offsets = np.arange(len(raw) + 1, dtype=np.int32) * 36
    return pa.StringArray.from_buffers(len(raw), pa.py_buffer(offsets), pa.py_buffer(text))
