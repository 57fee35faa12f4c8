"""A lake with cached listings: one LIST for each top-level folder instead of one for each table and day.

A tick lists some 280 folders (31 days, nine tables), and on S3 each listing costs a request and a round trip. The batch
side is the only writer of its own folders, one run at a time (`lease.py`), so a cached listing that includes its own
writes stays correct. `refresh` clears the cache: a run does so when it begins, to see raw files that landed and changes
of earlier processes.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pd
import pyarrow.parquet as pq

from pingfeed.ports import Lake


class ListedLake:
    """Wraps a lake (`ports.Lake`) and caches its listings. Not thread-safe."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._listed: dict[str, list[str]] = {}
        self._held: dict[str, bytes] | None = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold what is written until the end, and forget it if the block raises. Reads see it."""
        held: dict[str, bytes] = {}
        self._held = held
        try:
            yield
        except BaseException:
            self._held = None
            self._listed.clear()
            raise
        self._held = None
        for path, data in held.items():
            self._lake.write(path, data)

    @property
    def in_transaction(self) -> bool:
        """Whether what is written is held."""
        return self._held is not None

    def refresh(self, root: str | None = None) -> None:
        """Clear the cache, or only that of one top-level folder."""
        if root is None:
            self._listed.clear()
        else:
            self._listed.pop(root, None)

    def list(self, prefix: str) -> list[str]:
        """Every file below the folder `prefix`, sorted, as of the last `refresh` plus this process's own changes."""
        folder = prefix.strip("/")
        if not folder:
            return self._lake.list(prefix)
        root = folder.partition("/")[0]
        if root not in self._listed:
            self._listed[root] = self._lake.list(root)
        paths = self._listed[root]
        # "0" follows "/" in ASCII: every path below the folder sorts between the two.
        return paths[bisect_left(paths, f"{folder}/") : bisect_left(paths, f"{folder}0")]

    def read(self, path: str) -> bytes:
        """Passed to the lake."""
        return self._held[path] if self._held and path in self._held else self._lake.read(path)

    def write(self, path: str, data: bytes) -> None:
        """Write through and add the file to the cached listing."""
        if self._held is None:
            self._lake.write(path, data)
        else:
            self._held[path] = data
        paths = self._listed.get(path.partition("/")[0])
        if paths is not None:
            at = bisect_left(paths, path)
            if at == len(paths) or paths[at] != path:
                paths.insert(at, path)

    def delete(self, path: str) -> None:
        """Delete and remove the file from the cached listing."""
        self._lake.delete(path)
        paths = self._listed.get(path.partition("/")[0])
        if paths is not None:
            at = bisect_left(paths, path)
            if at < len(paths) and paths[at] == path:
                del paths[at]

    def dataset(self, paths: Sequence[str], schema: Any) -> Any:
        """Passed to the lake, and what a transaction holds as well."""
        held = [path for path in paths if self._held and path in self._held]
        if not held:
            return self._lake.dataset(paths, schema)
        tables = [pq.read_table(pa.BufferReader(self.read(path))).cast(schema) for path in held]
        rest = [path for path in paths if path not in held]
        parts = [self._lake.dataset(rest, schema)] if rest else []
        return pd.dataset([*parts, pd.dataset(pa.concat_tables(tables))])
