"""Ids, injected everywhere."""

import os
from collections.abc import Callable

IdMaker = Callable[[int], str]
"""Makes a fresh id for an instant in epoch milliseconds."""


def uuid7(now_ms: int, entropy: Callable[[int], bytes] = os.urandom) -> str:
    """A version 7 UUID (RFC 9562, section 5.7): 48 bits of `now_ms`, then random bits."""
    random = int.from_bytes(entropy(10))
    value = (now_ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | random & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
