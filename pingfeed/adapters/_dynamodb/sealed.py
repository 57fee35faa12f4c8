"""Values that this program alone reads: a byte that names their format, then deflated bytes.

Format 1. Deflating halves what ids and times take, and an item is billed by the KiB. A value of another format is a
FormatError, and stays: a newer version of this program wrote it, and will want it back. A damaged one is a ValueError.
"""

import zlib
from typing import Final

from pingfeed.core.errors import FormatError

_FORMAT: Final = 1
_LEVEL: Final = 6  # Of the write unit that a kilobyte costs, the time for it is a hundredth.


def seal(data: bytes) -> bytes:
    """The stored form of `data`."""
    return bytes([_FORMAT]) + zlib.compress(data, _LEVEL)


def unseal(what: str, value: bytes) -> bytes:
    """The bytes that were sealed; `what` is named where they cannot be read."""
    if value[:1] != bytes([_FORMAT]):
        raise FormatError(f"{what}: format {value[:1].hex() or 'none'} is not readable here")
    try:
        return zlib.decompress(value[1:])
    except zlib.error as error:
        raise ValueError(f"{what}: {error}") from error
