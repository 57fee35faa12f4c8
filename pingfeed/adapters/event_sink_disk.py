"""The lake's raw events on this machine: one Parquet file a batch, in the folder of its UTC day of arrival.

`<root>/events/year=YYYY/month=MM/day=DD/part-<batch.name>.parquet`, schema `arrow.EVENT_SCHEMA`, zstd. A file
appears whole or not at all (`_files.write_whole`), and the same batch written again replaces its own file.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pingfeed.core.arrow import table_of_lines
from pingfeed.core.clock import day_of
from pingfeed.core.errors import Unavailable
from pingfeed.files import make_folder, write_whole, writing
from pingfeed.ports import Batch, SinkCounters
from pingfeed.settings import url_path


def partition_of(received_ms: int) -> str:
    """The folder of a UTC day of arrival, relative to the lake's root."""
    year, month, day = day_of(received_ms).split("-")
    return f"events/year={year}/month={month}/day={day}"


def parquet_of(table: Any) -> Any:
    """A `pyarrow.Table` as the bytes of a Parquet file (a `pyarrow.Buffer`)."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


class DiskEventSink:
    """`disk:///path/of/the/lake`."""

    def __init__(self, url: str) -> None:
        self._root = url_path(url)
        self._counters = SinkCounters()

    @property
    def counters(self) -> SinkCounters:
        """Files and their bytes; nothing is billed."""
        return self._counters

    async def write(self, batch: Batch) -> None:
        await asyncio.to_thread(self._write, batch)

    async def check(self) -> None:
        await asyncio.to_thread(self._probe)

    async def close(self) -> None:
        """Nothing is held."""

    def _path(self, batch: Batch) -> Path:
        return self._root / partition_of(batch.received_ms) / f"part-{batch.name}.parquet"

    def _write(self, batch: Batch) -> None:
        data = parquet_of(table_of_lines(b"".join(batch.lines)))
        path = self._path(batch)
        with writing(str(path)):
            write_whole(path, memoryview(data))
        self._counters.records += 1
        self._counters.bytes += data.size

    def _probe(self) -> None:
        with writing(str(self._root)):
            make_folder(self._root)
        if not os.access(self._root, os.W_OK | os.X_OK):
            raise Unavailable(f"{self._root} may not be written to")
