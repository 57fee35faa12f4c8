"""The lake in versions: a run's changes become visible together, and only if no other run made some meanwhile.

    VERSIONS/000000000017.json           every file of the folders below, and the number of the lease that wrote it
    VERSIONS/000000000017.copy.json      the same, for when that is damaged

Everything in the folders `VERSIONED` is read through the newest version; what it does not name does not exist. There a
file never changes: what a run writes gets a name of its own, with the lease's number (`run-5.parquet` is stored as
`run-5.12-4f0a1b2c.parquet`; JSON keeps its name while that is free), and `commit` names it in the next version.
Only one process can create that file. A run that has lost its lease to another finds its number taken, discards what it
wrote and stops. The nightly job removes files that no version names, and those that crashed runs left, once they are a
day old (`sweep`), except those that it has replaced itself: readers that began before it still need them. No other run
deletes a file that is not its own.

Other folders (raw files, rejected and quarantined data, deletion requests) have other writers, too, and no versions.
A lake without versions was written by an earlier release: all its files count, and the first commit names them.

Listings are cached: a tick lists some 280 folders, and on S3 each costs a request and a round trip. `refresh` clears
the cache: a run does so when it begins.
"""

import logging
import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from batch.lake.lease import ANOTHER, HeldLease
from pingfeed.core.errors import Busy, FormatError, NotFound
from pingfeed.core.integrity import Sealed, read_manifest, seal
from pingfeed.ports import Lake

VERSIONS: Final = "VERSIONS"
"""In capitals, so that whatever copies a lake in the order of its names copies the version before what it names."""
VERSIONED: Final = ("aggregates", "catalogue", "clean", "compactions", "features", "imports", "ticks", "training")
_KEPT: Final = 10
_CLAIMS: Final = 10
_LOG = logging.getLogger(__name__)


class Version(Sealed, frozen=True, kw_only=True):
    """Which files there are."""

    fence: int
    """The number of the lease under which it was written."""
    files: dict[str, str]
    """Path -> the tag in its stored name (`12-4f0a1b2c`), "" if it has none."""


class VersionedLake:
    """Wraps a lake (`ports.Lake`). Reads are for any thread, changes for one."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._listed: dict[str, list[str]] = {}
        self._files: dict[str, str] | None = None
        self._committed: dict[str, str] = {}
        self._number = 0
        self._written: set[str] = set()
        self._begun_with: set[str] = set()
        self._held: HeldLease | None = None
        self.fence = 0
        """The number of the held lease, otherwise of the version that was read."""
        self.in_transaction = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Forget the changes made inside if the block raises."""
        before = dict(self._view())
        self.in_transaction = True
        try:
            yield
        except BaseException:  # Undo, also when the run is interrupted; the error is raised again.
            self._files = before
            self._listed.clear()
            raise
        finally:
            self.in_transaction = False
        self._remove_own(self._view())

    def refresh(self, root: str | None = None) -> None:
        """Clear the cache and forget what is not committed, or clear only the cache of one top-level folder."""
        if root is None:
            self._files = None
            self._listed.clear()
        else:
            self._listed.pop(root, None)

    def newest_fence(self) -> int:
        """The number of the lease under which the newest version was written."""
        self._view()
        return self.fence

    def claim(self, held: HeldLease) -> None:
        """Begin a run under a lease. A version without changes comes first: no earlier holder can commit after it."""
        for _ in range(_CLAIMS):
            held.check()
            self.end()
            began = {_stored(*one) for one in self._view().items()}
            if self.fence > held.fence:
                raise Busy(ANOTHER)
            self._held, self.fence, self._begun_with = held, held.fence, began
            with suppress(Busy):
                return self._commit()
        raise Busy(ANOTHER)

    def end(self) -> None:
        """End the run: what is not committed is forgotten."""
        self._held = None
        self.refresh()

    def check(self) -> None:
        """Busy once the lease is lost; called before every change."""
        if self._held is not None:
            self._held.check()

    def verify(self) -> None:
        """During a run: Busy if another one, even with a different lease, had begun when this was called."""
        if self._held is not None:
            self._held.verify()
            self._view()
            if self._lake.list(VERSIONS)[-1:] != [_path(self._number)]:
                raise Busy(ANOTHER)

    def commit(self, *others: str) -> None:
        """Make the changes visible.

        Busy if another run has committed meanwhile: then the files that this one wrote are discarded, and so are
        `others`, those that it wrote to other folders.
        """
        if self._view() != self._committed:
            self._commit(*others)

    def _commit(self, *others: str) -> None:
        self.check()
        files = self._view()
        path, data = _path(self._number + 1), seal(Version(fence=self.fence, files=files), b"")
        made = self._lake.create(path, data)
        with suppress(NotFound):  # If the call was retried, the first attempt may have succeeded.
            made = made or self._lake.read(path) == data
        there = self._lake.list(VERSIONS)
        # The number may have been used and removed before, or another run may already have built on this version.
        if not made or there[-1] != path:
            newest = self._newest().files
            self._remove_own(newest)
            if not made or newest.items().isdisjoint(files.items() - self._committed.items()):
                for other in others:
                    self._lake.delete(other)
            self.refresh()
            raise Busy(ANOTHER)
        self._lake.write(_copy_of(path), data)
        self._number += 1
        self._committed = dict(files)
        self._remove_own(files)
        self._written.clear()
        for old in there[: -2 * _KEPT]:
            self._lake.delete(old)

    def sweep(self, before_ms: int | None = None) -> int:
        """Delete files that the version does not name; how many.

        With a time, only those written before it that the run did not find named when it began.
        """
        named = {_stored(*one) for one in self._view().items()} | (self._begun_with if before_ms is not None else set())
        earlier = [path for path in self._lake.list(VERSIONS) if path < _copy_of(_path(self._number))]
        found = [path for root in VERSIONED for path in self._lake.list(root, before_ms) if path not in named]
        # Until now no other run began, so none will ever name what was found.
        self.verify()
        for path in (*earlier, *found):  # In this order: no version names a missing file.
            self._lake.delete(path)
        return len(found)

    def list(self, prefix: str, before_ms: int | None = None) -> list[str]:
        """Every file below the folder `prefix`, sorted, as of the last `refresh` plus this process's own changes.

        When each was written is not known (`before_ms`).
        """
        assert before_ms is None
        folder = prefix.strip("/")
        root = folder.partition("/")[0]
        if not folder:
            others = (path for path in self._lake.list("") if path.partition("/")[0] not in (*VERSIONED, VERSIONS))
            return sorted([*others, *self._view()])
        if root not in self._listed:
            found = [path for path in self._view() if path.startswith(f"{root}/")] if root in VERSIONED else None
            self._listed[root] = self._lake.list(root) if found is None else sorted(found)
        paths = self._listed[root]
        # "0" follows "/" in ASCII: every path below the folder sorts between the two.
        return paths[bisect_left(paths, f"{folder}/") : bisect_left(paths, f"{folder}0")]

    def read(self, path: str) -> bytes:
        """A file's bytes."""
        return self._lake.read(self._found(path))

    def write(self, path: str, data: bytes) -> None:
        """Write a file and add it to the cached listing."""
        self.check()
        root = path.partition("/")[0]
        if root in VERSIONED:
            self._view()
            if not self._number:  # From now on, what lies there is only what a version names.
                self._commit()
            self._view()[path] = self._write_new(path, data)
        else:
            self._lake.write(path, data)
        paths = self._listed.get(root)
        if paths is not None:
            at = bisect_left(paths, path)
            if at == len(paths) or paths[at] != path:
                paths.insert(at, path)

    def create(self, path: str, data: bytes) -> bool:
        """Passed to the lake."""
        self.check()
        return self._lake.create(path, data)

    def delete(self, path: str) -> None:
        """Delete a file and remove it from the cached listing; what is stored in a version is only named no longer."""
        self.check()
        root = path.partition("/")[0]
        if root in VERSIONED:
            self._view().pop(path, None)
        else:
            self._lake.delete(path)
        paths = self._listed.get(root)
        if paths is not None:
            at = bisect_left(paths, path)
            if at < len(paths) and paths[at] == path:
                del paths[at]

    def dataset(self, paths: Sequence[str], schema: Any) -> Any:
        """The Parquet files as a dataset."""
        return self._lake.dataset([self._found(path) for path in paths], schema)

    def _write_new(self, path: str, data: bytes) -> str:
        """Store a file under a free name; the tag in that name."""
        if path.endswith(".json") and path not in self._view() and self._lake.create(path, data):
            return ""
        tag = f"{self.fence}-{os.urandom(4).hex()}"
        self._lake.write(_stored(path, tag), data)
        self._written.add(_stored(path, tag))
        return tag

    def _remove_own(self, files: Mapping[str, str]) -> None:
        """Delete the files that this process has written since the last commit, except these."""
        named = {_stored(*one) for one in files.items()}
        for path in sorted(self._written - named):
            self._lake.delete(path)
        self._written &= named

    def _found(self, path: str) -> str:
        """A path as it is stored; NotFound."""
        if path.partition("/")[0] not in VERSIONED:
            return path
        tag = self._view().get(path)
        if tag is None:
            raise NotFound(f"{path} does not exist")
        return _stored(path, tag)

    def _view(self) -> dict[str, str]:
        """The files of the newest version and this process's own changes."""
        if self._files is None:
            version = self._newest()
            if self._held is not None and version.fence != self._held.fence:
                raise Busy(ANOTHER)
            self.fence, self._committed = version.fence, version.files
            self._files = dict(version.files)
        return self._files

    def _newest(self) -> Version:
        paths = self._lake.list(VERSIONS)
        self._number = int(paths[-1].rpartition("/")[2].partition(".")[0]) if paths else 0
        for path in reversed(paths):
            try:
                return read_manifest(Version, self._lake.read(path), path)
            except NotFound:  # Another run has ended meanwhile.
                return self._newest()
            except FormatError as error:
                _LOG.error("%s", error.message)
        if paths:
            raise FormatError(f"every file in {VERSIONS}/ of the lake is damaged: restore one from a backup")
        return Version(fence=0, files=dict.fromkeys((path for root in VERSIONED for path in self._lake.list(root)), ""))


def _path(number: int) -> str:
    return f"{VERSIONS}/{number:012}.json"


def _copy_of(path: str) -> str:
    return path.replace(".json", ".copy.json")


def _stored(path: str, tag: str) -> str:
    """The name under which a file is stored."""
    if not tag:
        return path
    stem, dot, kind = path.rpartition(".")
    return f"{stem}.{tag}{dot}{kind}"
