"""AWS: lazily opened clients, translation of errors, S3 locations and DynamoDB table URLs.

Region, credentials and `AWS_ENDPOINT_URL` (of an emulator) come from the environment, as usual with AWS. Adapters retry
themselves, as they know what may be sent twice, so botocore's own retries are few and its time-outs short. With a
custom endpoint both Arrow and botocore address S3 buckets by path.
"""

import asyncio
import gzip
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from pingfeed.core.errors import FormatError, InvalidInput, NotFound, PingfeedError, SettingsError, Unavailable
from pingfeed.core.urls import flaw, is_hidden, parts_of

CONNECT_S: Final = 2.0
READ_S: Final = 10.0
KEY: Final = "k"
"""The only key attribute of our DynamoDB tables, a string."""
TTL: Final = "t"
"""The attribute by which DynamoDB removes expired items."""
_ABSENT_KEY: Final = frozenset({"NoSuchKey", "404"})
_CONDITION_FAILED: Final = frozenset({"PreconditionFailed", "412", "ConditionalCheckFailedException"})
_ARCHIVED: Final = "InvalidObjectState"


def region() -> str | None:
    """The AWS region from the environment; None leaves it to the libraries (a profile, the machine).

    botocore reads only AWS_DEFAULT_REGION, other SDKs AWS_REGION first, and Lambda and ECS set only AWS_REGION. So
    every client gets the region explicitly.
    """
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


class AwsClient:
    """A client of one AWS service, for one event loop.

    client = AwsClient("dynamodb")
    with translated("the table pings"):
        item = await (await client.get()).get_item(...)
    await client.close()
    """

    def __init__(self, service: str, *, read_s: float = READ_S, attempts: int = 1, connections: int = 50) -> None:
        self._service, self._read_s, self._attempts, self._connections = service, read_s, attempts, connections
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._opening = asyncio.Lock()
        with suppress(RuntimeError):  # A client may be made outside its loop; `open_clients` does not know it then.
            _made.setdefault(asyncio.get_running_loop(), weakref.WeakSet()).add(self)

    async def get(self) -> Any:
        """The aioboto3 client; the first call opens it (half a second of imports and service models)."""
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await self._open()
        return self._client

    async def close(self) -> None:
        """Close its connections."""
        await self._stack.aclose()
        self._client = None

    async def _open(self) -> Any:
        import aioboto3
        import aiobotocore.session
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=self._read_s,
            retries={"total_max_attempts": self._attempts, "mode": "standard"},
            max_pool_connections=self._connections,
        )
        with translated(self._service):
            session = aiobotocore.session.get_session()
            session.register_component("data_loader", _models())
            client = aioboto3.Session(botocore_session=session).client(
                self._service, region_name=region(), config=config
            )
            return await self._stack.enter_async_context(client)


_made: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.WeakSet[AwsClient]]" = weakref.WeakKeyDictionary()


async def open_clients() -> None:
    """Open every client that was made in the running event loop; no connection is made yet."""
    for client in list(_made.get(asyncio.get_running_loop(), ())):
        await client.get()


@cache
def _models() -> Any:
    """The service models, read once a process: a client of another service or loop costs 15 ms instead of 100.

    botocore's own reader decodes them (1 MB of JSON for three services) four times slower.
    """
    from botocore.loaders import JSONFileLoader, Loader

    class Files(JSONFileLoader):  # type: ignore[misc]  # It has no type information.
        def load_file(self, file_path: str) -> Any:
            for suffix, opened in ((".json", open), (".json.gz", gzip.open)):
                if Path(file_path + suffix).is_file():
                    with opened(file_path + suffix, "rb") as file:
                        return msgspec.json.decode(file.read())
            return None

    return Loader(file_loader=Files())


def sync_client(service: str, what: str, *, attempts: int, connections: int = 10) -> Any:
    """A boto3 client for the batch side, for any thread; `what` it is opened for is named in errors."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        max_pool_connections=connections,
    )
    endpoint = s3_endpoint() if service == "s3" else None
    with translated(what):
        return boto3.Session().client(service, region_name=region(), endpoint_url=endpoint, config=config)


class Conflict(PingfeedError):
    """The condition of a conditional write did not hold. Adapters catch it."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Translate AWS's errors, chaining the cause; `what` names the table, bucket or stream in the message.

    NotFound for an absent object, Conflict for a condition that does not hold, FormatError for what is in an archive
    (Glacier), SettingsError where credentials, region or AWS's libraries are missing, Unavailable for everything else:
    a table or permission that does not exist yet can be added without a restart.
    """
    try:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            HTTPClientError,
            InvalidRegionError,
            NoCredentialsError,
            NoRegionError,
            PartialCredentialsError,
        )
    except ModuleNotFoundError as error:
        raise SettingsError(f"{what}: needs {error.name}, which is not installed; install pingfeed[aws]") from error
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise SettingsError(
            f"{what}: no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
            field="AWS_ACCESS_KEY_ID",
        ) from error
    except (NoRegionError, InvalidRegionError) as error:
        raise SettingsError(
            f"{what}: no AWS region; set AWS_REGION or AWS_DEFAULT_REGION, such as us-east-1", field="AWS_REGION"
        ) from error
    except ClientError as error:
        raise _of_response(what, error.response.get("Error", {})) from error
    except (BotoCoreError, HTTPClientError, OSError, TimeoutError) as error:
        raise Unavailable(f"{what} does not respond: {type(error).__name__}") from error


def _of_response(what: str, error: dict[str, Any]) -> PingfeedError:
    code = str(error.get("Code", "an error without a code"))
    if code in _ABSENT_KEY:
        return NotFound(f"{what} does not exist")
    if code in _CONDITION_FAILED:
        return Conflict(f"{what} was changed by another process")
    if code == _ARCHIVED:
        return FormatError(f"{what} is archived; restore it first")
    # AWS's message may quote the request; its code is enough.
    return Unavailable(f"{what} is not available: {code}")


@dataclass(frozen=True)
class TableUrl:
    """`dynamodb://table?option=value`."""

    table: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, url: str, *known: str) -> "TableUrl":
        """The parts of a URL; InvalidInput without a table or with an option that is not `known`."""
        if wrong := flaw(url):
            raise InvalidInput(wrong)
        split = urlsplit(url)
        options = dict(parse_qsl(split.query, keep_blank_values=True))
        if unknown := options.keys() - set(known):
            raise InvalidInput(f"has the option {min(unknown)!r}, which is unknown")
        return cls(split.netloc, options)


@dataclass(frozen=True)
class Location:
    """A bucket and the prefix of all keys below it, without slashes at its ends."""

    bucket: str
    prefix: str

    @classmethod
    def of(cls, url: str) -> "Location":
        """Parse a URL; InvalidInput without a bucket or with an option."""
        split = urlsplit(url)
        if split.scheme != "s3" or not split.netloc or set(split.netloc) & set("@:"):
            raise InvalidInput("must be like s3://bucket/prefix; credentials and endpoint come from AWS_* variables")
        if given := dict(parse_qsl(split.query, keep_blank_values=True)):
            raise InvalidInput(f"has the option {min(given)!r}, which is unknown")
        path = unquote(split.path).strip("/")
        return cls(split.netloc, "/".join(parts_of(path)) if path else "")

    def key(self, relative: str) -> str:
        """The object's key; InvalidInput as `urls.parts_of`."""
        return "/".join([*([self.prefix] if self.prefix else []), *parts_of(relative)])

    def below(self, folder: str) -> str:
        """The common prefix of all keys below a folder; "" is the whole location."""
        inside = self.key(folder) if folder.strip("/") else self.prefix
        return f"{inside}/" if inside else ""

    def relative(self, key: str) -> str:
        """A key as a path below the prefix."""
        return key[len(self.prefix) + 1 :] if self.prefix else key

    def is_listed(self, key: str) -> bool:
        """Whether listings show the key: it is not a folder marker and no name below the prefix is hidden."""
        return not key.endswith("/") and not any(map(is_hidden, PurePosixPath(self.relative(key)).parts))


def s3_endpoint() -> str | None:
    """The custom S3 endpoint (an emulator), None for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
