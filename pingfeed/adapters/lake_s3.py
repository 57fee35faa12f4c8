"""The lake as objects of an S3 bucket (or a compatible store).

Each request costs money and a round trip. `list` is one request per thousand objects; `read`, `write` and `delete` are
one each, through botocore (Arrow's file system needs up to three, and its delete leaves a marker of the folder). A
write is a single PUT, so there are no unfinished uploads. `dataset` requests the first half megabyte of every file,
many at once: all of most files, and the size of the larger ones. Arrow reads the rest as a query needs it.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds

from pingfeed import aws
from pingfeed.adapters import _arrow_s3
from pingfeed.adapters.lake_file import PARQUET
from pingfeed.aws import Conflict, sync_client, translated

WHOLE_BYTES: Final = 512 << 10
"""Files up to this size are read by one request."""
_AT_ONCE: Final = 16
_ATTEMPTS: Final = 4


class S3Lake:
    """`s3://bucket/prefix`. Names that begin with a dot or an underscore are never listed."""

    def __init__(self, url: str) -> None:
        self._place = aws.Location.of(url)
        self._opening = threading.Lock()
        self._opened: Any = None

    def list(self, prefix: str, before_ms: int | None = None) -> list[str]:
        with translated(self._what(prefix)):
            return sorted(self._place.relative(key) for key in self._keys(prefix, before_ms))

    def read(self, path: str) -> bytes:
        key = self._place.key(path)
        with translated(path):
            data: bytes = self._client.get_object(Bucket=self._place.bucket, Key=key)["Body"].read()
            return data

    def write(self, path: str, data: bytes) -> None:
        key = self._place.key(path)
        with translated(path):
            self._client.put_object(Bucket=self._place.bucket, Key=key, Body=data)

    def create(self, path: str, data: bytes) -> bool:
        key = self._place.key(path)
        try:
            with translated(path):
                self._client.put_object(Bucket=self._place.bucket, Key=key, Body=data, IfNoneMatch="*")
        except Conflict:
            return False
        return True

    def delete(self, path: str) -> None:
        key = self._place.key(path)
        with translated(path):
            self._client.delete_object(Bucket=self._place.bucket, Key=key)

    def dataset(self, paths: Sequence[str], schema: Any) -> Any:
        """Reading from the dataset raises Unavailable, and NotFound for a file that was deleted in between."""
        if not paths:
            return ds.dataset([], schema=schema, format=PARQUET)
        with ThreadPoolExecutor(min(_AT_ONCE, len(paths)), "lake") as pool:
            fragments = list(pool.map(self._fragment, paths))
        return _S3Dataset(fragments, schema, PARQUET)

    def _fragment(self, path: str) -> Any:
        """One file: its bytes, or the path and size of a large one (which saves Arrow a request)."""
        key = self._place.key(path)
        with translated(path):
            data, size = self._head(key)
        if len(data) == size:
            return PARQUET.make_fragment(pa.py_buffer(data))
        return PARQUET.make_fragment(f"{self._place.bucket}/{key}", self._arrow, file_size=size)

    def _head(self, key: str) -> tuple[bytes, int]:
        """The first bytes of an object, and its size."""
        from botocore.exceptions import ClientError

        asked = f"bytes=0-{WHOLE_BYTES - 1}"
        try:
            answer = self._client.get_object(Bucket=self._place.bucket, Key=key, Range=asked)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "InvalidRange":
                raise
            return b"", 0  # There is no first byte: the object is empty.
        data: bytes = answer["Body"].read()
        return data, int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(data)

    def _keys(self, prefix: str, before_ms: int | None) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._place.bucket, Prefix=self._place.below(prefix)):
            for entry in page.get("Contents", ()):
                is_old = before_ms is None or entry["LastModified"].timestamp() * 1000 < before_ms
                if is_old and self._place.is_listed(entry["Key"]):
                    yield entry["Key"]

    @property
    def _client(self) -> Any:
        """The boto3 client, opened at first use; for any thread."""
        with self._opening:
            if self._opened is None:
                self._opened = sync_client("s3", self._what(""), attempts=_ATTEMPTS, connections=_AT_ONCE)
            return self._opened

    @cached_property
    def _arrow(self) -> Any:
        return _arrow_s3.file_system()

    def _what(self, prefix: str) -> str:
        return "/".join(filter(None, (f"s3://{self._place.bucket}", self._place.prefix, prefix.strip("/"))))


class _S3Dataset(ds.FileSystemDataset):  # type: ignore[misc]  # pyarrow publishes no types
    """A dataset that translates the errors of later reads."""

    def to_table(self, **options: Any) -> Any:
        with _arrow_s3.translated("a file of the lake"):
            return super().to_table(**options)

    def to_batches(self, **options: Any) -> Iterator[Any]:
        batches = super().to_batches(**options)
        while True:
            with _arrow_s3.translated("a file of the lake"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def count_rows(self, **options: Any) -> int:
        with _arrow_s3.translated("a file of the lake"):
            return int(super().count_rows(**options))
