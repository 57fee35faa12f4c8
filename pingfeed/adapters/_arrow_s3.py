"""Arrow's S3 client, for reading: the lake writes through botocore (`pingfeed/aws.py`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from pyarrow.fs import S3FileSystem

from pingfeed.aws import CONNECT_S, region, s3_endpoint
from pingfeed.core.errors import NotFound, PingfeedError, Unavailable

_READ_S: Final = 20.0
_ABSENT: Final = ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND")


def file_system() -> S3FileSystem:
    """A `pyarrow.fs.S3FileSystem`, for reading: the lake writes through botocore."""
    given = urlsplit(s3_endpoint() or "")
    override = (
        {"endpoint_override": given.netloc + given.path.rstrip("/"), "scheme": given.scheme} if given.netloc else {}
    )
    return S3FileSystem(
        region=region(),
        connect_timeout=CONNECT_S,
        request_timeout=_READ_S,
        **override,
    )


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Translate the errors of Arrow's S3 client; errors in a file's content pass unchanged."""
    try:
        yield
    except OSError as error:
        found = _error_of(what, error)
        if found is None:
            raise
        raise found from error


def _error_of(what: str, error: OSError) -> PingfeedError | None:
    """Arrow's message is `AWS Error CODE during OPERATION operation: MESSAGE`; the message may quote what was sent."""
    text = str(error)
    if isinstance(error, FileNotFoundError) or any(f"AWS Error {code}" in text for code in _ABSENT):
        return NotFound(f"{what} does not exist")
    _, found, rest = text.partition("AWS Error ")
    return Unavailable(f"{what} is not available: {rest.split(' ', 1)[0]}") if found else None
