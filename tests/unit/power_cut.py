"""A disk in memory that tracks what was synced, fails on demand, and can lose power.

    disk = PowerCutDisk(seed)
    disk.at(7, "cut")            # at the 7th call from now the power fails: that call and all later ones raise
    disk.at(3, "eio")            # or the 3rd raises EIO, or ENOSPC ("full"), having done all, a part or nothing of it
    after = disk.after_the_cut() # what the next start finds

It does what POSIX allows, and no more kindly than it has to: of a file's bytes that were not synced a power cut keeps
all, none, a prefix, a mixture by blocks, or zeros; an entry that was removed may be there again; of an entry that was
replaced either is there, unless the call returned. After a sync that failed the bytes that it was for count as written
and may never become durable, whatever a later sync says (Rebello et al., USENIX ATC 2020): so an append to that
file breaks the spool's promise, and `misused` says so.
"""

import errno
import os
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pingfeed.spool.disk import Disk

Fault = Literal["cut", "eio", "full"]
_BLOCK = 16
_ERRNO = {"cut": errno.EIO, "eio": errno.EIO, "full": errno.ENOSPC}


@dataclass(eq=False)
class _File:
    durable: bytes = b""
    versions: list[bytes] = field(default_factory=lambda: [b""])
    """What the file was since the last good sync, the durable state first."""
    sync_failed: bool = False

    @property
    def now(self) -> bytes:
        return self.versions[-1]

    def synced(self) -> None:
        self.durable, self.versions = self.now, [self.now]

    def after_a_cut(self, chance: random.Random) -> bytes:
        """One of the states that the bytes may be in."""
        kind = chance.choice(("durable", "all", "prefix", "torn", "zeroed"))
        if kind == "durable" or len(self.versions) == 1:
            return self.durable
        if kind == "all":
            return self.now
        lengths = [len(version) for version in self.versions]
        size = chance.randint(min(lengths), max(lengths))
        if kind == "prefix":
            return (self.now + self.durable[len(self.now) :])[:size]
        found = bytearray(size)
        for at in range(0, size, _BLOCK):
            sources = self.versions if kind == "torn" else self.versions[:1]
            found[at : at + _BLOCK] = chance.choice(sources)[at : at + _BLOCK].ljust(_BLOCK, b"\0")
        kept = min(min(lengths), size)
        found[:kept] = bytes(self._never_changed(n, found[n]) for n in range(kept))
        return bytes(found[:size])

    def _never_changed(self, at: int, otherwise: int) -> int:
        """A byte that all versions agree on cannot be anything else."""
        return self.durable[at] if len({version[at] for version in self.versions}) == 1 else otherwise


class PowerCutDisk(Disk):
    """Overrides every call of the real one. Calls may come from any thread, one at a time."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)
        self._entries: dict[Path, _File] = {}
        self._durable: dict[Path, list[_File | None]] = {}
        """By path, what a power cut may leave there; one item where that is certain."""
        self._handles: dict[int, _File] = {}
        self._made = 0
        self._lock = threading.RLock()
        self.calls = 0
        """Calls that change something, so far."""
        self.names_of_calls: list[str] = []
        self.faults: dict[int, Fault] = {}
        self.is_dead = False
        self.misused = ""
        self.room = sys.maxsize
        """What `spare` says."""
        self.sync_begun, self.sync_may_go_on = threading.Event(), threading.Event()
        self.sync_may_go_on.set()

    def at(self, call: int, fault: Fault) -> None:
        """The call'th change from now on (1 is the next) fails."""
        self.faults[self.calls + call] = fault

    def hold_syncs(self) -> None:
        """From now on `sync` waits, before it does anything, until `sync_may_go_on` is set."""
        self.sync_begun.clear()
        self.sync_may_go_on.clear()

    def after_the_cut(self) -> "PowerCutDisk":
        """The disk as the next start finds it; this one is dead."""
        self.is_dead = True
        found = PowerCutDisk(self._chance.randrange(1 << 30))
        for path, choices in self._durable.items():
            file = self._chance.choice(choices)
            if file is not None:
                data = file.after_a_cut(self._chance)
                found._entries[path] = kept = _File(data, [data])
                found._durable[path] = [kept]
        return found

    # What changes nothing

    def make_folder(self, folder: Path) -> None:
        """Folders are not what this is about."""
        self._must_live()

    def names(self, folder: Path) -> list[str]:
        self._must_live()
        return sorted(path.name for path in self._entries if path.parent == folder)

    def spare(self, folder: Path) -> int:
        return self.room

    def read(self, path: Path) -> bytes:
        self._must_live()
        if path not in self._entries:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self._entries[path].now

    def close(self, handle: int) -> None:
        self._handles.pop(handle)

    # What changes something

    def create(self, path: Path) -> int:
        with self._change("create") as fault:
            if fault is None or self._half():
                file = self._entries.get(path)
                if file is None:
                    file = self._entries[path] = _File()
                    self._durable.setdefault(path, [None]).append(file)
                else:  # Emptied: its pages are new ones.
                    file.versions.append(b"")
                    file.sync_failed = False
                if fault is None:
                    self._durable[path] = [file]
                    self._made += 1
                    self._handles[self._made] = file
        return self._made

    def write(self, handle: int, data: bytes) -> None:
        with self._change("write") as fault:
            file = self._handles[handle]
            if file.sync_failed:
                self.misused = "something was appended to a file of which a sync has failed"
            taken = data if fault is None else data[: self._chance.randint(0, len(data))]
            file.versions.append(file.now + taken)

    def sync(self, handle: int) -> None:
        self.sync_begun.set()
        self.sync_may_go_on.wait()
        with self._change("sync") as fault:
            file = self._handles[handle]
            if fault is None:
                file.synced()
            else:
                file.sync_failed = True

    def check_linked(self, handle: int, path: Path) -> None:
        """No test removes a file of this disk."""

    def truncate(self, handle: int, size: int) -> None:
        with self._change("truncate") as fault:
            file = self._handles[handle]
            if fault is None or self._half():
                file.versions.append(file.now[:size])

    def remove(self, path: Path) -> None:
        with self._change("remove") as fault:
            if (fault is None or self._half()) and self._entries.pop(path, None) is not None:
                self._durable[path].append(None)

    def sync_folder(self, folder: Path) -> None:
        with self._change("sync_folder") as fault:
            if fault is None:
                for path in [path for path in (*self._durable, *self._entries) if path.parent == folder]:
                    self._durable[path] = [self._entries.get(path)]

    def write_whole(self, path: Path, data: bytes) -> None:
        with self._change("write_whole") as fault:
            file = _File(data, [data])
            if fault is None:
                self._entries[path], self._durable[path] = file, [file]
            elif self._half():  # It took its name, and then the folder could not be synced.
                self._entries[path] = file
                self._durable.setdefault(path, [None]).append(file)

    @contextmanager
    def _change(self, name: str) -> Iterator[Fault | None]:
        """Count a call; raise the fault that it was given, if any, once the caller did as much as it wanted."""
        with self._lock:
            self._must_live()
            self.calls += 1
            self.names_of_calls.append(name)
            fault = self.faults.pop(self.calls, None)
            if fault == "cut":
                self.is_dead = True
            yield fault
            if fault is not None:
                raise OSError(_ERRNO[fault], os.strerror(_ERRNO[fault]))

    def _half(self) -> bool:
        return self._chance.random() < 0.5

    def _must_live(self) -> None:
        if self.is_dead:
            raise OSError(errno.EIO, "the power is off")
