"""Taking lines out of the files below `rejected/`, whoever else may be appending to them."""

from collections.abc import Callable
from pathlib import Path

from pingfeed.core.urls import scheme_of
from pingfeed.files import below, writing
from pingfeed.local.appended import rewrite
from pingfeed.ports import Lake
from pingfeed.settings import Settings, url_path


def folder_of(settings: Settings) -> Path | None:
    """The lake's folder where it is one: there a service may be appending to today's file. Elsewhere, all are whole."""
    return url_path(settings.lake_url) if scheme_of(settings.lake_url) == "file" else None


def keep_lines(lake: Lake, folder: Path | None, path: str, keeps: Callable[[bytes], bool]) -> int:
    """Take out of a file the lines that `keeps` does not; how many went. A file without lines goes. Unavailable.

    `folder` as `folder_of` gives it: what a service appends meanwhile is not lost.
    """
    gone = 0

    def kept(data: bytes) -> bytes:
        nonlocal gone
        lines = data.splitlines(keepends=True)
        left = [line for line in lines if keeps(line)]
        gone = len(lines) - len(left)
        return b"".join(left)

    if folder is not None:
        with writing(path):
            rewrite(below(folder, path), kept)
        return gone
    before = lake.read(path)
    after = kept(before)
    if not after:
        lake.delete(path)
    elif after != before:
        lake.write(path, after)
    return gone
