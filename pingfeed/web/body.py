"""Read a request's body, inflating gzip; the size limit holds while it arrives and while it inflates."""

import zlib
from typing import Final

from starlette.requests import Request

from pingfeed.core.errors import MalformedBody, TooLarge
from pingfeed.core.events import MAX_BODY_BYTES

_GZIP_WINDOW: Final = zlib.MAX_WBITS | 16
_MAX_MEMBERS: Final = 1000
"""Of gzip: empty ones inflate to nothing, and 50,000 of them would occupy the event loop for a second."""


async def read_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """The body's bytes, inflated.

    Raises TooLarge above `limit` bytes, as sent or inflated, and MalformedBody for broken or truncated gzip or another
    encoding.
    """
    inflate = _inflater(request.headers.get("content-encoding", "identity").strip().lower(), limit)
    _check_declared(request.headers.get("content-length"), limit)
    received = 0
    parts: list[bytes] = []
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise _too_large(limit)
        parts.append(inflate.feed(chunk) if inflate else chunk)
    if inflate:
        inflate.finish()
    return b"".join(parts)


def _inflater(encoding: str, limit: int) -> "_Inflater | None":
    if encoding in ("identity", ""):
        return None
    if encoding in ("gzip", "x-gzip"):
        return _Inflater(limit)
    raise MalformedBody("Content-Encoding must be gzip or absent")


def _check_declared(length: str | None, limit: int) -> None:
    """Reject by the declared length before reading; the bytes that arrive are counted in any case."""
    if length and length.isdecimal() and int(length[:20]) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit:,} bytes (inflated)")


class _Inflater:
    """Inflates a series of gzip members (RFC 1952 allows several), at most `limit` bytes in all.

    NULs after a member are padding, as gzip itself takes them; any other byte must begin another member.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit
        self._member = zlib.decompressobj(_GZIP_WINDOW)
        self._members = 1

    def feed(self, chunk: bytes) -> bytes:
        out = bytearray()
        while chunk:
            if self._member.eof:
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    break
                self._members += 1
                if self._members > _MAX_MEMBERS:
                    raise MalformedBody(f"the gzip body has more than {_MAX_MEMBERS:,} members")
                self._member = zlib.decompressobj(_GZIP_WINDOW)
            try:
                # One byte more than is left distinguishes "at the limit" from "over it" without inflating the rest.
                out += self._member.decompress(chunk, self._left + 1 - len(out))
            except zlib.error as error:
                raise MalformedBody("the body is not valid gzip") from error
            if len(out) > self._left:
                raise _too_large(self._limit)
            chunk = self._member.unconsumed_tail or self._member.unused_data
        self._left -= len(out)
        return bytes(out)

    def finish(self) -> None:
        if not self._member.eof:
            raise MalformedBody("the gzip body is truncated")
