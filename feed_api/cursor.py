"""The cursor of a next page: 24 bytes, big-endian, as 32 characters of base64url.

    offset  size  content
    0       1     format version, 2
    1       8     when the chain's first page was requested, uint64 ms
    9       4     position of the next item, uint32
    13      11    checksum: BLAKE2b of the 13 bytes above and the user id

The checksum catches damage and cursors of other users. It is not a signature: forging a cursor only lets its maker
skip pings of a feed that they may read anyway.
"""

import binascii
import hashlib
import struct
from typing import Final

from feed_api.state import Chain
from pingfeed.core.errors import InvalidInput

_BODY: Final = struct.Struct(">BQI")
_VERSION: Final = 2
_CHECKSUM_BYTES: Final = 11
LENGTH: Final = (_BODY.size + _CHECKSUM_BYTES) // 3 * 4
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/", b"+/  ")


def write_cursor(chain: Chain, user_id: str) -> str:
    """The cursor of a chain's next page."""
    body = _BODY.pack(_VERSION, chain.began_ms, chain.position)
    data = body + _checksum(body, user_id)
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).decode()


def read_cursor(text: str, user_id: str) -> Chain:
    """The chain of a cursor that was given to this user; InvalidInput for any other text."""
    try:
        data = binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL), strict_mode=True)
    except ValueError as error:
        raise _invalid() from error
    body, checksum = data[: _BODY.size], data[_BODY.size :]
    if len(text) != LENGTH or checksum != _checksum(body, user_id):
        raise _invalid()
    version, began_ms, position = _BODY.unpack(body)
    if version != _VERSION:
        raise _invalid()
    return Chain(began_ms, position)


def _checksum(body: bytes, user_id: str) -> bytes:
    return hashlib.blake2b(body + user_id.encode(), digest_size=_CHECKSUM_BYTES, person=b"pingfeed cursor").digest()


def _invalid() -> InvalidInput:
    sentence = "cursor is not valid for this user; request a first page without it"
    return InvalidInput(sentence, field="cursor", code="invalid_value")
