"""The cursor: where a chain of pages stands, sealed for one user.

24 bytes, big-endian, as 32 characters of base64url:

    offset  size  what
    0       1     format version, 1
    1       8     when the chain's first page was asked for, uint64 ms
    9       4     position of the next item, uint32
    13      11    keyed BLAKE2b of the 13 bytes above and the user id

The key comes from PINGFEED_CURSOR_SECRET, else from the API key digests and the secret of tokens (so that every
process of an installation has the same without another setting), else it is a fixed one: then a cursor can be forged,
which lets its maker skip pings of a feed that they may read anyway (their own, or anybody's where no key is asked for).
"""

import binascii
import hashlib
import hmac
import struct
from typing import Final

from feed_api.state import Chain
from pingfeed.core.errors import InvalidInput
from pingfeed.settings import Settings

_BODY: Final = struct.Struct(">BQI")
_VERSION: Final = 1
_SEAL_BYTES: Final = 11
LENGTH: Final = (_BODY.size + _SEAL_BYTES) // 3 * 4
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/", b"+/  ")


class Cursors:
    """Writes and reads the cursors of one installation."""

    def __init__(self, settings: Settings) -> None:
        secret = settings.cursor_secret or ",".join(settings.api_key_hashes) + settings.jwt_secret
        self._key = hashlib.blake2b(secret.encode("utf-8", "surrogateescape"), person=b"pingfeed cursor").digest()

    def write(self, chain: Chain, user_id: str) -> str:
        """The cursor of a chain's next page."""
        body = _BODY.pack(_VERSION, chain.began_ms, chain.position)
        sealed = body + self._seal(body, user_id)
        return binascii.b2a_base64(sealed, newline=False).translate(_TO_URL).decode()

    def read(self, text: str, user_id: str) -> Chain:
        """The chain of a cursor that this installation gave to this user; InvalidInput for any other text."""
        try:
            data = binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL), strict_mode=True)
        except ValueError as error:
            raise _refused() from error
        body, seal = data[: _BODY.size], data[_BODY.size :]
        if len(text) != LENGTH or not hmac.compare_digest(seal, self._seal(body, user_id)):
            raise _refused()
        version, began_ms, position = _BODY.unpack(body)
        if version != _VERSION:
            raise _refused()
        return Chain(began_ms, position)

    def _seal(self, body: bytes, user_id: str) -> bytes:
        return hashlib.blake2b(body + user_id.encode(), key=self._key, digest_size=_SEAL_BYTES).digest()


def _refused() -> InvalidInput:
    return InvalidInput(
        "cursor is not one that this feed gave to this user; ask without it for a first page",
        field="cursor",
        code="invalid_value",
    )
