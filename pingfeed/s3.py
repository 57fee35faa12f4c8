"""S3 by URL: `s3://bucket/prefix` as bucket and keys, and Arrow's file system for it.

Endpoint (`AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`), region and credentials come from the environment, as
everywhere with AWS. With an endpoint of one's own (an emulator's) both Arrow and botocore address buckets by path.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pingfeed.aws import region
from pingfeed.core.errors import InvalidInput, NotFound, PingfeedError, Unavailable
from pingfeed.core.urls import is_hidden, parts_of

_CONNECT_S: Final = 2.0
_READ_S: Final = 20.0
_ABSENT: Final = ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND")


@dataclass(frozen=True)
class Location:
    """A bucket and the prefix of all keys below it, without slashes at its ends."""

    bucket: str
    prefix: str
    options: Mapping[str, str]
    """What the URL says after `?`."""

    @classmethod
    def of(cls, url: str, *, options: frozenset[str] = frozenset()) -> "Location":
        """The place that a URL names; InvalidInput for one without a bucket, or with options that nobody knows."""
        split = urlsplit(url)
        if split.scheme != "s3" or not split.netloc or set(split.netloc) & set("@:"):
            raise InvalidInput("must be like s3://bucket/prefix; credentials and endpoint come from AWS_* variables")
        given = dict(parse_qsl(split.query, keep_blank_values=True))
        if given.keys() - options:
            raise InvalidInput(f"has the option {min(given.keys() - options)!r}, which is unknown")
        path = unquote(split.path).strip("/")
        return cls(split.netloc, "/".join(parts_of(path)) if path else "", given)

    def key(self, relative: str) -> str:
        """The object's key; InvalidInput as `keys.parts_of`."""
        return "/".join([*([self.prefix] if self.prefix else []), *parts_of(relative)])

    def below(self, folder: str) -> str:
        """What all keys below a folder begin with; "" is the whole place."""
        inside = self.key(folder) if folder.strip("/") else self.prefix
        return f"{inside}/" if inside else ""

    def relative(self, key: str) -> str:
        """A key as a path below the prefix."""
        return key[len(self.prefix) + 1 :] if self.prefix else key

    def is_listed(self, key: str) -> bool:
        """Whether readers see the key: no folder's marker, no hidden name below the prefix."""
        return not key.endswith("/") and not any(map(is_hidden, PurePosixPath(self.relative(key)).parts))


def endpoint() -> str | None:
    """The endpoint that stands in for AWS' own, None for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def file_system() -> Any:
    """A `pyarrow.fs.S3FileSystem`. A file of up to 5 MB is written by one PUT, a larger one in parts."""
    from pyarrow.fs import S3FileSystem

    given = urlsplit(endpoint() or "")
    elsewhere = (
        {"endpoint_override": given.netloc + given.path.rstrip("/"), "scheme": given.scheme} if given.netloc else {}
    )
    return S3FileSystem(
        region=region(),
        connect_timeout=_CONNECT_S,
        request_timeout=_READ_S,
        # Otherwise opening a file for writing begins an upload in parts: three requests for the smallest file.
        allow_delayed_open=True,
        background_writes=False,
        **elsewhere,
    )


@contextmanager
def arrow_translated(what: str) -> Iterator[None]:
    """Errors of Arrow's S3 as ours. What is wrong with a file's content is no matter of S3 and passes unchanged."""
    try:
        yield
    except OSError as error:
        found = _of_arrow(what, error)
        if found is None:
            raise
        raise found from error


def _of_arrow(what: str, error: OSError) -> PingfeedError | None:
    """Arrow says `AWS Error CODE during OPERATION operation: MESSAGE`; the message may quote what was sent."""
    text = str(error)
    if isinstance(error, FileNotFoundError) or any(f"AWS Error {code}" in text for code in _ABSENT):
        return NotFound(f"{what} does not exist")
    _, found, rest = text.partition("AWS Error ")
    return Unavailable(f"{what} is not available: {rest.split(' ', 1)[0]}") if found else None
