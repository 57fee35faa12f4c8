"""Models, snapshots and pointers as objects of an S3 bucket (or a compatible store).

A PUT replaces an object atomically, so publishing needs no rename. `get` sends no condition: pointers have some sixty
bytes, and S3 bills "not modified" like any other response.

The reader's role needs `s3:ListBucket` besides `s3:GetObject`: otherwise S3 returns "forbidden" for an absent key.
"""

from typing import Final

from pingfeed.aws import AwsClient, Conflict, Location, translated
from pingfeed.core.errors import NotFound, Unavailable

_ATTEMPTS: Final = 3
_READ_S: Final = 10.0


class S3Artifacts:
    """`s3://bucket/prefix`."""

    def __init__(self, url: str) -> None:
        self._place = Location.of(url)
        self._aws = AwsClient("s3", read_s=_READ_S, attempts=_ATTEMPTS)

    async def get(self, key: str) -> bytes:
        return (await self._get(key))[0]

    async def _get(self, key: str) -> tuple[bytes, str]:
        """An object's bytes and its tag."""
        from aiohttp import ClientPayloadError

        full = self._place.key(key)
        with translated(key):
            try:
                answer = await (await self._aws.get()).get_object(Bucket=self._place.bucket, Key=full)
                async with answer["Body"] as body:
                    return await body.read(), answer["ETag"]
            except ClientPayloadError as error:  # The connection ended in the middle: neither botocore's nor OSError.
                raise Unavailable(f"{key} was cut off while it was read") from error

    async def put(self, key: str, data: bytes) -> None:
        full = self._place.key(key)
        with translated(key):
            await (await self._aws.get()).put_object(Bucket=self._place.bucket, Key=full, Body=data)

    async def swap(self, key: str, data: bytes, seen: bytes | None) -> bool:
        condition = {"IfNoneMatch": "*"}
        if seen is not None:
            try:
                found, tag = await self._get(key)
            except NotFound:
                return False
            if found != seen:
                return False
            condition = {"IfMatch": tag}
        full = self._place.key(key)
        try:
            with translated(key):
                await (await self._aws.get()).put_object(Bucket=self._place.bucket, Key=full, Body=data, **condition)
        except (Conflict, NotFound):
            return await self._is(key, data)
        return True

    async def _is(self, key: str, data: bytes) -> bool:
        """Whether the object is this one: of a call that was retried, the first attempt may have succeeded."""
        try:
            return await self.get(key) == data
        except NotFound:
            return False

    async def delete(self, key: str) -> None:
        full = self._place.key(key)
        with translated(key):
            await (await self._aws.get()).delete_object(Bucket=self._place.bucket, Key=full)

    async def check(self) -> None:
        try:
            with translated(f"the bucket {self._place.bucket}"):
                await (await self._aws.get()).head_bucket(Bucket=self._place.bucket)
        except NotFound as error:
            raise Unavailable(error.message) from error

    async def close(self) -> None:
        await self._aws.close()
