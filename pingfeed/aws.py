"""AWS from the services: one client an adapter, opened when it is first used, and AWS's errors as ours.

Region, credentials and `AWS_ENDPOINT_URL` (an emulator's, say) come from the environment, as everywhere with AWS.
Adapters try again themselves, where they know what may be sent twice: botocore's own retries are few, its time-outs
short.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final

from pingfeed.core.errors import FormatError, NotFound, PingfeedError, SettingsError, Unavailable

CONNECT_S: Final = 2.0
READ_S: Final = 10.0
_ABSENT_KEY: Final = frozenset({"NoSuchKey", "404"})
_ARCHIVED: Final = "InvalidObjectState"


def region() -> str | None:
    """The AWS region that the environment names; None leaves it to the libraries (a profile's, the machine's).

    botocore reads AWS_DEFAULT_REGION alone, other SDKs AWS_REGION first, and Lambda and ECS set only that one. So every
    client is told.
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

    async def get(self) -> Any:
        """The aioboto3 client; the first call opens it (half a second of imports and service models)."""
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await self._open()
        return self._client

    async def close(self) -> None:
        """Let its connections go."""
        await self._stack.aclose()
        self._client = None

    async def _open(self) -> Any:
        import aioboto3
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=self._read_s,
            retries={"total_max_attempts": self._attempts, "mode": "standard"},
            max_pool_connections=self._connections,
        )
        with translated(self._service):
            client = aioboto3.Session().client(self._service, region_name=region(), config=config)
            return await self._stack.enter_async_context(client)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """AWS's errors as ours, the cause chained; `what` names the table, bucket or stream in the sentence.

    NotFound for an absent object, FormatError for one in an archive (Glacier), SettingsError where credentials or
    region are missing, Unavailable for all else: a table that does not exist yet and a right that was not granted yet
    are mended without a restart.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        HTTPClientError,
        InvalidRegionError,
        NoCredentialsError,
        NoRegionError,
        PartialCredentialsError,
    )

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
        raise _of_answer(what, error.response.get("Error", {})) from error
    except (BotoCoreError, HTTPClientError, OSError, TimeoutError) as error:
        raise Unavailable(f"{what} does not answer: {type(error).__name__}") from error


def _of_answer(what: str, answer: dict[str, Any]) -> PingfeedError:
    code = str(answer.get("Code", "an error without a code"))
    if code in _ABSENT_KEY:
        return NotFound(f"{what} does not exist")
    if code == _ARCHIVED:
        return FormatError(f"{what} is archived; restore it first")
    # AWS's message may quote what was sent; its code says enough.
    return Unavailable(f"{what} is not available: {code}")
