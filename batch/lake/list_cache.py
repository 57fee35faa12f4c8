"""A lake that is listed once a run: one LIST for each of its folders, instead of one for each table and day.

A tick asks for some 280 folders (31 days, nine tables), and on S3 every listing costs a request and a round trip. The
batch side is the only writer of its own folders, one run at a time (`lease.py`), so what it lists once and keeps up
with its own writes is what is there. `refresh` forgets it: a run does so when it begins, for raw files that landed and
for what another process did before.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from pingfeed.ports import Lake


class ListedLake:
    """The lake behind it (`ports.Lake`), with its listings remembered. For one thread."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._listed: dict[str, list[str]] = {}

    def refresh(self, root: str | None = None) -> None:
        """List anew what is asked for from now on; only below one folder of the lake, if it is given."""
        if root is None:
            self._listed.clear()
        else:
            self._listed.pop(root, None)

    def list(self, prefix: str) -> list[str]:
        """Every file below the folder `prefix`, sorted, as of the last `refresh` and this process' own changes."""
        folder = prefix.strip("/")
        if not folder:
            return self._lake.list(prefix)
        root = folder.partition("/")[0]
        if root not in self._listed:
            self._listed[root] = self._lake.list(root)
        paths = self._listed[root]
        # "0" is what follows "/": every path below the folder lies between the two.
        return paths[bisect_left(paths, f"{folder}/") : bisect_left(paths, f"{folder}0")]

    def read(self, path: str) -> bytes:
        """As the lake behind it."""
        return self._lake.read(path)

    def write(self, path: str, data: bytes) -> None:
        """As the lake behind it; a listing shows the file from now on."""
        self._lake.write(path, data)
        paths = self._listed.get(path.partition("/")[0])
        if paths is not None:
            at = bisect_left(paths, path)
            if at == len(paths) or paths[at] != path:
                paths.insert(at, path)

    def delete(self, path: str) -> None:
        """As the lake behind it; no listing shows the file any more."""
        self._lake.delete(path)
        paths = self._listed.get(path.partition("/")[0])
        if paths is not None:
            at = bisect_left(paths, path)
            if at < len(paths) and paths[at] == path:
                del paths[at]

    def dataset(self, paths: Sequence[str], schema: Any) -> Any:
        """As the lake behind it."""
        return self._lake.dataset(paths, schema)
