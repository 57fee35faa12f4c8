"""Models, snapshots and pointers as objects of an S3 bucket (or of what speaks S3's protocol).

A PUT replaces an object whole, and whoever reads next sees it: publishing needs no rename. A pointer is some sixty
bytes, and S3 charges an answer "not modified" like any other, so `get` asks plainly.

`fetch` keeps local files in a cache folder, to be mapped: `<digest of the key>-<ETag, percent-encoded>`, so that a
replaced artifact is another file, and a name never refers to other bytes than it did before. Every fetch
asks whether the newest file that it has of the key is current (If-None-Match); where it is, no bytes travel. The folder
holds the few files that were used last; what a reader has mapped stays readable to it when its file is removed.

The reader's role needs `s3:ListBucket` beside `s3:GetObject`: without it S3 answers "forbidden" for an absent key.
"""

import asyncio
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Final
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

    Without the option it lies below the system's folder for temporary files. It must be this user's own.
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
        """A file of the cache folder with the artifact's present bytes; NotFound if there is none."""
        stem = hashlib.blake2b(f"{self._place.bucket}/{self._place.key(key)}".encode(), digest_size=8).hexdigest()
        with writing(str(self._cache)):
            have = await asyncio.to_thread(self._newest, stem)
        try:
            data, etag = await self._read(key, IfNoneMatch=_etag_of(have)) if have else await self._read(key)
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
        """An object's bytes and ETag; _NotModified where the condition says that they are known."""
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
                if _status(error) == 304:
                    raise _NotModified from error
                raise
            except ClientPayloadError as error:  # The connection ended in the middle: neither botocore's nor OSError.
                raise Unavailable(f"{key} was cut off while it was read") from error

    def _newest(self, stem: str) -> Path | None:
        """The newest file that is cached of a key, marked as used; OSError."""
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
        """Write a file to the cache and remove those that were used longest ago; OSError."""
        write_whole(path, data)
        kept = sorted(self._cache.glob("[!.]*"), key=_modified_s)
        dead = [left for left in self._cache.glob(".*") if _modified_s(left) < time.time() - _LEFT_BEHIND_S]
        for old in (*kept[:-KEPT], *dead):
            old.unlink(missing_ok=True)


class _NotModified(Exception):
    """The object still has the ETag that was asked about."""


def _etag_of(cached: Path) -> str:
    return unquote(cached.name.partition("-")[2])


def _modified_s(path: Path) -> float:
    """When a file was written or used last; a file that another process has just removed is the oldest."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
