"""The URLs of the settings: what is wrong with one, and how to show one.

A URL may hold a password: no sentence about a wrong one quotes it, and `masked` is the only way to print one.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import SplitResult, urlsplit

from pingfeed.core.errors import InvalidInput

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_TABLE: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_SECRET_OPTION: Final = re.compile(r"([?&][^=&]*(?:pass|secret|token|key|user)[^=&]*=)[^&]*", re.IGNORECASE)
# Readers of the lake pass over names that begin with a dot or an underscore, and take `history-*` for written history.
_STREAM: Final = re.compile(r"(?!history-)[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@lru_cache(1024)
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def masked(url: str) -> str:
    """The URL with `***` for its credentials (up to the last @: passwords hold any character) and secret options."""
    return _SECRET_OPTION.sub(r"\1***", re.sub(r"(?<!/)//(?!/).*@", "//***@", url))


def scheme_of(url: str) -> str:
    """What stands before `://`, in lower case; empty where that is no scheme."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return found[1].lower() if found else ""


def flaw(url: str) -> str | None:
    """What is wrong with a URL, as the end of a sentence that does not quote it; None if it is fine."""
    try:
        split = urlsplit(url)
    except ValueError:
        return "is not a URL"
    check = _FLAWS.get(split.scheme)
    return check(split) if check else None


def _of_path(split: SplitResult) -> str | None:
    return None if (split.netloc + split.path).strip("/") else "names no path, such as file:///var/lib/pingfeed/lake"


def _of_bucket(split: SplitResult) -> str | None:
    return None if _BUCKET.fullmatch(split.netloc) else "names no bucket, such as s3://bucket/prefix"


def _of_table(split: SplitResult) -> str | None:
    fine = _TABLE.fullmatch(split.netloc) and split.path in ("", "/") and not split.fragment
    rule = "3 to 255 of A-Z a-z 0-9 . _ -"
    return None if fine else f"names no table, such as dynamodb://pingfeed-candidates: {rule}"


def _of_stream(split: SplitResult) -> str | None:
    fine = _STREAM.fullmatch(split.netloc) and split.path in ("", "/") and not split.query
    rule = "1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or a digit, and not with history-"
    return None if fine else f"names no stream, such as firehose://pingfeed-events: {rule}"


def _of_server(split: SplitResult) -> str | None:
    try:
        port = split.port
    except ValueError:  # Its message quotes what was given.
        port = 0
    if port == 0:
        return "has a port that is not a number from 1 to 65535; a /, # or ? in a password is written %2F, %23, %3F"
    return None if split.hostname else "names no host, such as redis://127.0.0.1:6379/0"


_FLAWS: Final[Mapping[str, Callable[[SplitResult], str | None]]] = {
    "file": _of_path,
    "disk": _of_path,
    "sqlite": _of_path,
    "s3": _of_bucket,
    "dynamodb": _of_table,
    "firehose": _of_stream,
    "redis": _of_server,
    "rediss": _of_server,
}


def is_hidden(name: str) -> bool:
    """Whether readers pass over a name: a half-written file (a dot) or another program's own (an underscore)."""
    return name.startswith((".", "_"))


def parts_of(relative: str) -> tuple[str, ...]:
    """The names in a path with forward slashes; InvalidInput if it would lead out of the store or to a hidden name."""
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or any(is_hidden(part) for part in parts):
        raise InvalidInput(f"{relative!r} is not a path below the store's folder")
    return parts
