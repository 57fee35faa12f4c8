"""Models, snapshots and pointers as objects of an S3 bucket (or a compatible store).

A PUT replaces an object atomically, so publishing needs no rename. `get` sends no condition: pointers have some sixty
bytes, and S3 bills "not modified" like any other response.

`fetch` keeps local files in a cache folder, to be mapped: `<digest of the key>-<ETag, percent-encoded>`, so a replaced
artifact is another file. Every fetch asks whether the newest cached file of the key is current (If-None-Match). The
folder holds the few most recently used files; a mapped file stays readable after it is removed.

The reader's role needs `s3:ListBucket` besides `s3:GetObject`: otherwise S3 returns "forbidden" for an absent key.
"""

import asyncio
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from pingfeed.aws import AwsClient, Location, translated
from pingfeed.core.errors import NotFound, Unavailable
from pingfeed.files import write_whole, writing

KEPT: Final = 4
"""Files in the cache: the live snapshot, the one before it, and room for those of a roll-out."""
_LEFT_BEHIND_S: Final = 600
_ATTEMPTS: Final = 3
_READ_S: Final = 10.0


class S3Artifacts:
    """`s3://bucket/prefix`, or `s3://bucket/prefix?cache=/folder` to name the folder of fetched files.

    The default is in the system's folder for temporary files. The folder must belong to this user.
    """

    def __init__(self, url: str) -> None:
        self._place = Location.of(url, options=frozenset({"cache"}))
        given = self._place.options.get("cache")
        self._cache = Path(given) if given else Path(tempfile.gettempdir()) / f"pingfeed-artifacts-{os.getuid()}"
        self._aws = AwsClient("s3", read_s=_READ_S, attempts=_ATTEMPTS)

    async def get(self, key: str) -> bytes:
        data, _ = await self._read(key)
        return data

    async def put(self, key: str, data: bytes) -> None:
        full = self._place.key(key)
        with translated(key):
            await (await self._aws.get()).put_object(Bucket=self._place.bucket, Key=full, Body=data)

    async def fetch(self, key: str) -> Path:
        """A file of the cache folder."""
        stem = hashlib.blake2b(f"{self._place.bucket}/{self._place.key(key)}".encode(), digest_size=8).hexdigest()
        with writing(str(self._cache)):
            have = await asyncio.to_thread(self._newest, stem)
        try:
            known = {"IfNoneMatch": unquote(have.name.partition("-")[2])} if have else {}
            data, etag = await self._read(key, **known)
        except _NotModified:
            assert have is not None
            return have
        path = self._cache / f"{stem}-{quote(etag, safe='')}"
        with writing(str(self._cache)):
            await asyncio.to_thread(self._keep, path, data)
        return path

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

    async def _read(self, key: str, **condition: str) -> tuple[bytes, str]:
        """An object's bytes and ETag; _NotModified if it is unchanged."""
        from aiohttp import ClientPayloadError
        from botocore.exceptions import ClientError

        full = self._place.key(key)
        with translated(key):
            try:
                client = await self._aws.get()
                answer = await client.get_object(Bucket=self._place.bucket, Key=full, **condition)
                async with answer["Body"] as body:
                    return await body.read(), answer["ETag"]
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 304:
                    raise _NotModified from error
                raise
            except ClientPayloadError as error:  # The connection ended in the middle: neither botocore's nor OSError.
                raise Unavailable(f"{key} was cut off while it was read") from error

    def _newest(self, stem: str) -> Path | None:
        """The newest cached file of a key, marked as used; OSError."""
        self._make_cache()
        found = max(self._cache.glob(f"{stem}-*"), key=_modified_s, default=None)
        if found is not None:
            found.touch()
        return found

    def _make_cache(self) -> None:
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._cache.stat().st_uid != os.getuid():  # The parent may be writable by all.
            raise PermissionError(f"{self._cache} belongs to another user")

    def _keep(self, path: Path, data: bytes) -> None:
        """Write a file to the cache and remove the least recently used ones; OSError."""
        write_whole(path, data)
        kept = sorted(self._cache.glob("[!.]*"), key=_modified_s)
        dead = [left for left in self._cache.glob(".*") if _modified_s(left) < time.time() - _LEFT_BEHIND_S]
        for old in (*kept[:-KEPT], *dead):
            old.unlink(missing_ok=True)


class _NotModified(Exception):
    """The object still has the ETag that was asked about."""


def _modified_s(path: Path) -> float:
    """When a file was last used; one that another process has just removed is the oldest."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
