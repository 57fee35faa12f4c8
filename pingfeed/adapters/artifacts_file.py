"""Models, snapshots and pointers as files of this machine."""

import asyncio
import os
from pathlib import Path

from pingfeed.core.errors import Unavailable
from pingfeed.files import below, locked, make_folder, reading, remove, write_whole, writing
from pingfeed.settings import url_path


class FileArtifacts:
    """`file:///path/of/the/artifacts`."""

    def __init__(self, url: str) -> None:
        self._root = url_path(url)

    async def get(self, key: str) -> bytes:
        path = below(self._root, key)
        with reading(key):
            return await asyncio.to_thread(path.read_bytes)

    async def put(self, key: str, data: bytes) -> None:
        path = below(self._root, key)
        with writing(key):
            await asyncio.to_thread(write_whole, path, data)

    async def swap(self, key: str, data: bytes, seen: bytes | None) -> bool:
        path = below(self._root, key)
        with writing(key):
            return await asyncio.to_thread(_swap, path, data, seen)

    async def delete(self, key: str) -> None:
        path = below(self._root, key)
        with writing(key):
            await asyncio.to_thread(remove, path)

    async def check(self) -> None:
        await asyncio.to_thread(self._probe)

    async def close(self) -> None:
        """Nothing is held."""

    def _probe(self) -> None:
        with writing(str(self._root)):
            make_folder(self._root)
        if not os.access(self._root, os.R_OK | os.X_OK):
            raise Unavailable(f"{self._root} may not be read")


def _swap(path: Path, data: bytes, seen: bytes | None) -> bool:
    make_folder(path.parent)
    with locked(path.with_name(f".{path.name}.lock")):
        if (path.read_bytes() if path.exists() else None) != seen:
            return False
        write_whole(path, data)
        return True
