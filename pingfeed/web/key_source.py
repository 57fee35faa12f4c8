"""Where the public keys of tokens come from: a file, or a URL that is read with limits to size and time.

A redirect is not followed: it could lead from https to anywhere. Plain http is for this machine (the settings see to
that) and goes past any proxy.
"""

import time
import urllib.request
from collections.abc import Callable
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Final
from urllib.error import HTTPError

from pingfeed.core.errors import Unavailable

MAX_BYTES: Final = 256 << 10
SOCKET_S: Final = 3.0
WHOLE_S: Final = 6.0


def source_of(address: str) -> Callable[[], bytes]:
    """Something that reads the document at an address (a URL or an absolute path), and blocks meanwhile.

    It raises Unavailable, in a sentence, where there is none or it is too large.
    """
    if "://" in address:
        return lambda: _fetched(address)
    return lambda: _checked_size(_of_file(Path(address)))


def _of_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unavailable(f"cannot be read: {(error.strerror or 'it is not there').lower()}") from error


def _fetched(url: str) -> bytes:
    proxies = [urllib.request.ProxyHandler({})] if url.lower().startswith("http:") else []
    opener = urllib.request.build_opener(_NoRedirect, *proxies)
    opener.addheaders = [("Accept", "application/json"), ("User-Agent", "pingfeed")]
    end = time.monotonic() + WHOLE_S
    try:
        with opener.open(url, timeout=SOCKET_S) as answer:
            return _checked_size(_read(answer, end))
    except HTTPError as error:
        error.close()
        raise Unavailable(f"answered with status {error.code}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"did not answer: {getattr(error, 'reason', None) or error}") from error


def _read(answer: Any, end: float) -> bytes:
    """The body, or as much as shows that it is too large; a server that trickles it is left after `end`."""
    body = b""
    while len(body) <= MAX_BYTES and (part := answer.read1(MAX_BYTES)):
        body += part
        if time.monotonic() > end:
            raise Unavailable(f"took more than {WHOLE_S:g} s")
    return body


def _checked_size(body: bytes) -> bytes:
    if len(body) > MAX_BYTES:
        raise Unavailable(f"holds more than {MAX_BYTES:,} bytes")
    return body


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """None: the 30x is the answer."""
