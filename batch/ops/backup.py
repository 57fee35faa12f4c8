"""Back up and restore what lives in files of this machine: lake, artifacts, spools, SQLite stores.

    <to>/parts/3f/3fa9...                 a part of a file (8 MiB at most), named by its SHA-256
    <to>/backups/20261128T030000Z.json    one backup: its files and their parts, and its own checksum

A backup's own file is written last: one that was killed does not count. Backups share parts, so each copies changes.

A backup is consistent while everything runs. Under the lease, so that no run changes the lake meanwhile, it copies the
spools (segments up to their last whole record, then the tally), links the lake's files into `HOME/.backup` (a file is
replaced, never changed, so a link is a copy of this moment) and copies the SQLite stores last: signals may know of more
than the lake. Whatever was acknowledged before it began is then in the copied spool or in the lake. A batch that lands
during those seconds is left out if its events are in the copied spool, too, or are newer: the restored service delivers
them once.
"""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from batch.wiring import Batch, build
from pingfeed import settings
from pingfeed.adapters import registry
from pingfeed.core.errors import Busy, FormatError, InvalidInput, NotFound
from pingfeed.core.integrity import Sealed, read_manifest, seal
from pingfeed.core.urls import scheme_of
from pingfeed.core.words import counted
from pingfeed.files import below, reading, try_lock, writing
from pingfeed.ports import Lake
from pingfeed.settings import Settings, url_path
from pingfeed.spool.checkpoint import FILE as TALLY
from pingfeed.spool.checkpoint import LOCK, Tally
from pingfeed.spool.segment import Damage, Record, first_id_of, records
from pingfeed.spool.stats import is_held

PART_BYTES: Final = 8 << 20
_STORES: Final = ("candidates", "signals", "trending")
_threads = partial(ThreadPoolExecutor, 4, "backup")
_BATCH: Final = re.compile(r"([0-9a-f]{16})-(\d+)-(\d+)\.(?:parquet|jsonl)$")
"""The end of a delivered batch's path: the spool's id, its first and its last record."""


class File(msgspec.Struct, frozen=True):
    """One file of a backup; its path begins with its place (`places_of`)."""

    path: str
    size: int
    mtime_ns: int
    parts: list[str]


class Backup(Sealed, frozen=True, kw_only=True):
    """One backup, as it is stored."""

    began_ms: int
    places: list[str]
    files: list[File]

    def __str__(self) -> str:
        return f"{counted(len(self.files), 'file')}, {sum(one.size for one in self.files):,} bytes"


class _Spool(NamedTuple):
    """A copied spool: up to which record it has delivered, and the last record of each copied segment by its first."""

    acked_to: int
    segments: dict[int, int]


def backup_command(*, to: str, keep: int | None, wait: float) -> None:
    """`pingfeed backup`."""
    chosen = settings.load(os.environ)
    name, done = save(build(chosen), store_at(to, chosen), keep=keep, wait_s=wait)
    sys.stdout.write(f"{name}: {done} of {', '.join(done.places)}\n")
    sys.stdout.write("users who are forgotten from now on stay in it until it is removed (--keep)\n")


def restore_command(*, source: str, backup: str, force: bool, dry_run: bool) -> None:
    """`pingfeed restore`."""
    chosen, aside = settings.load(os.environ), list[Path]()
    batch, store = build(chosen), store_at(source, chosen)
    name, found = load(store, backup)
    if dry_run:
        fetch(batch, store, name, found, {})
    else:
        aside = restore(batch, store, name, force=force)
    sys.stdout.write(f"{name} {'is whole' if dry_run else 'is restored'}: {found}\n")
    sys.stdout.write("".join(f"what was there before is in {path}\n" for path in aside))


def save(batch: Batch, store: Lake, *, keep: int | None = None, wait_s: float = 0) -> tuple[str, Backup]:
    """Store a backup and return it with its name; with `keep`, remove all but the newest. Raises Busy, Unavailable."""
    places = places_of(batch.settings)
    with _stage(batch.settings.home) as stage:
        with batch.progress.step("waiting for a running job, then taking a snapshot"), batch.lease(wait_s):
            began_ms = batch.wall_clock()
            _snapshot(batch.settings, places, stage)
            batch.tables.versions.verify()
        paths = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file())
        known = {path.rpartition("/")[2] for path in store.list("parts")}
        earlier: dict[str, File] = {}
        with suppress(NotFound, FormatError):
            earlier = {one.path: one for one in load(store)[1].files}
        with batch.progress.step(f"copying changes in {counted(len(paths), 'file')}"), _threads() as pool:
            files = list(pool.map(partial(_put, store, stage, known, earlier), paths))
    made = Backup(began_ms=began_ms, places=sorted(places), files=files)
    name = datetime.fromtimestamp(began_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    store.write(f"backups/{name}.json", seal(made, b""))
    if keep is not None:
        with batch.progress.step("removing old backups"):
            _prune(store, keep, known)
    return name, made


def restore(batch: Batch, store: Lake, name: str = "", *, force: bool = False) -> list[Path]:
    """Restore the newest backup whose name begins so; returns where the data is now that was there before.

    Every part is checked before anything changes. Raises Busy, InvalidInput, NotFound, FormatError, Unavailable.
    """
    name, found = load(store, name)
    places = {place: root for place, root in places_of(batch.settings).items() if place in found.places}
    if lacking := set(found.places) - set(places):
        raise InvalidInput(f"the backup has {min(lacking)}, and the settings name no place on this machine for it")
    full = [root for root in places.values() if (any(root.iterdir()) if root.is_dir() else root.exists())]
    if full and not force:
        raise InvalidInput(f"{full[0]} has data; with --force it is moved aside. Nothing was changed")
    with batch.lease():
        if held := [lock.parent for lock in places["spool"].rglob(LOCK) if is_held(lock.parent)]:
            raise Busy(f"a service uses {held[0]}; stop the services and the scheduler, then restore")
        _discard(places)
        try:
            fetch(batch, store, name, found, places)
            os.sync()
            batch.tables.versions.verify()
            now_ms = batch.wall_clock()
            return [path for place, root in places.items() for path in _exchange(place, root, root in full, now_ms)]
        finally:
            _discard(places)
            os.sync()


def store_at(place: str, chosen: Settings) -> Lake:
    """Where backups are: a folder or `s3://bucket/prefix`; InvalidInput for a folder that would be backed up itself."""
    if scheme_of(place) == "s3":
        return registry.open_lake_at(place)
    folder = Path(place).expanduser().absolute()
    if scheme_of(place) or any(folder.is_relative_to(root) for root in places_of(chosen).values()):
        raise InvalidInput(f"{place} must be s3://bucket/prefix, or a folder outside of what is backed up")
    return registry.open_lake_at(f"file://{folder}")


def places_of(chosen: Settings) -> dict[str, Path]:
    """Everything of an installation that is on this machine: its folder or file by name."""
    urls = {name: getattr(chosen, f"{name}_url") for name in ("lake", "artifacts", *_STORES)}
    here = {name: url_path(url) for name, url in urls.items() if scheme_of(url) in ("file", "sqlite")}
    return here | {"spool": chosen.spool_dir}


@contextmanager
def _stage(home: Path) -> Iterator[Path]:
    """An empty folder in the home, for one backup at a time; Busy."""
    stage = home / ".backup"
    with writing(str(stage)):
        home.mkdir(parents=True, exist_ok=True)
        held = try_lock(home / ".backup.lock")
    if held is None:
        raise Busy("another backup is running")
    try:
        shutil.rmtree(stage, ignore_errors=True)  # An earlier one was killed.
        with writing(str(stage)):
            stage.mkdir()
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        os.close(held)


def _snapshot(chosen: Settings, places: Mapping[str, Path], stage: Path) -> None:
    """Put a consistent copy of every place into `stage`. Under the lease."""
    trees = {
        name: registry.open_lake_at(getattr(chosen, f"{name}_url")) for name in ("lake", "artifacts") if name in places
    }
    landed = set(trees["lake"].list("")) if "lake" in trees else set()
    spools: dict[str, _Spool] = {}
    with writing(str(stage)):
        for tally in sorted(places["spool"].rglob(TALLY)):
            spools |= _copy_spool(tally.parent, stage / "spool" / tally.parent.relative_to(places["spool"]))
        for name, tree in trees.items():
            for path in tree.list(""):
                if path in landed or not _is_ahead(path, spools):
                    _link(places[name] / path, stage / name / path)
    for name in _STORES:
        if name in places and places[name].exists():
            registry.copy_sqlite(places[name], stage / name)


def _copy_spool(folder: Path, to: Path) -> dict[str, _Spool]:
    """Copy a spool; returns it by its id. Segments first: those delivered meanwhile are in the tally."""
    to.mkdir(parents=True, exist_ok=True)  # One spool may be in another's folder.
    segments: dict[int, int] = {}
    for name in sorted(os.listdir(folder)):
        if (first := first_id_of(name)) is None:
            continue
        with suppress(FileNotFoundError):  # Delivered meanwhile.
            data = (folder / name).read_bytes()
            found = list(records(data))
            if found and isinstance(found[-1], Damage):  # A record that is being written.
                data = data[: found[-1].start]
            if ids := [one.id for one in found if isinstance(one, Record)]:
                (to / name).write_bytes(data)
                segments[first] = max(ids)
    for small in folder.glob("*.json"):
        shutil.copyfile(small, to / small.name)
    try:
        tally = Tally.of((to / TALLY).read_bytes())
    except FormatError:  # The restored service quarantines it, and delivers every segment.
        return {}
    return {tally.spool_id: _Spool(tally.acked_to, segments)}


def _is_ahead(path: str, spools: Mapping[str, _Spool]) -> bool:
    """Whether a batch that landed during the copy has events that the copied spool will deliver, or newer ones."""
    found = _BATCH.search(path)
    spool = spools.get(found[1]) if found else None
    if found is None or spool is None:
        return False
    return int(found[2]) > spool.acked_to and spool.segments.get(int(found[2])) != int(found[3])


def _link(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # Removed meanwhile.
        try:
            os.link(file, to)
        except OSError:  # Another file system, or one without links.
            shutil.copy2(file, to)


def _put(store: Lake, stage: Path, known: set[str], earlier: Mapping[str, File], path: str) -> File:
    """Store a file's parts, except those in `known`; a file that is as it was in `earlier` is not read."""
    with reading(path):
        about = (stage / path).stat()
        before = earlier.get(path)
        if before and (before.size, before.mtime_ns) == (about.st_size, about.st_mtime_ns) and known >= {*before.parts}:
            return before
        parts: list[str] = []
        with (stage / path).open("rb") as opened:
            while data := opened.read(PART_BYTES):
                parts.append(_digest(data))
                if parts[-1] not in known:
                    store.write(_part(parts[-1]), data)
                    known.add(parts[-1])
    return File(path, about.st_size, about.st_mtime_ns, parts)


def _prune(store: Lake, keep: int, known: set[str]) -> None:
    """Remove all but the newest backups, then every part that none of those names."""
    for path in store.list("backups")[:-keep]:
        store.delete(path)
    used = {part for path in store.list("backups") for file in _read(store, path).files for part in file.parts}
    for digest in known - used:
        store.delete(_part(digest))


def load(store: Lake, name: str = "") -> tuple[str, Backup]:
    """The newest backup whose name begins so, and its name. Raises NotFound, FormatError, Unavailable."""
    every = store.list("backups")
    paths = [path for path in every if path.startswith(f"backups/{name}")]
    if not paths:
        raise NotFound("; there is ".join([f"there is no backup {name}".rstrip(), *map(_name, every[-3:])]))
    return _name(paths[-1]), _read(store, paths[-1])


def _read(store: Lake, path: str) -> Backup:
    return read_manifest(Backup, store.read(path), f"the backup {_name(path)}")


def fetch(batch: Batch, store: Lake, name: str, found: Backup, targets: Mapping[str, Path]) -> None:
    """Check every part of a backup, and write the files of `targets` beside them. Raises FormatError, Unavailable."""
    with batch.progress.step(f"checking {counted(len(found.files), 'file')}"), _threads() as pool:
        list(pool.map(partial(_get, store, name, targets), found.files))


def _get(store: Lake, name: str, targets: Mapping[str, Path], file: File) -> None:
    root = targets.get(file.path.partition("/")[0])
    target = below(_staged(root), file.path) if root else Path(os.devnull)
    with writing(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as opened:
            for part in file.parts:
                data = b""
                with suppress(NotFound):
                    data = store.read(_part(part))
                if _digest(data) != part:
                    wrong = f"{_part(part)} of {file.path} is {'changed' if data else 'gone'}"
                    raise FormatError(f"the backup {name} is damaged: {wrong}; nothing was restored")
                opened.write(data)


def _exchange(place: str, root: Path, has_data: bool, now_ms: int) -> Iterator[Path]:
    """Move what is there aside, and what was fetched into its place; where the former is now."""
    with writing(str(root)):
        if not has_data:  # An empty folder, or the lease's own files.
            shutil.rmtree(root, ignore_errors=True)
        for suffix in ("-wal", "-shm", ""):
            old = root.with_name(root.name + suffix)
            if old.exists():
                yield old.rename(old.with_name(f"{root.name}.replaced-{now_ms}{suffix}"))
        if (_staged(root) / place).exists():
            (_staged(root) / place).rename(root)


def _staged(root: Path) -> Path:
    return root.with_name(".restore")


def _discard(targets: Mapping[str, Path]) -> None:
    for root in targets.values():
        shutil.rmtree(_staged(root), ignore_errors=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _part(digest: str) -> str:
    return f"parts/{digest[:2]}/{digest}"


def _name(path: str) -> str:
    return path.removeprefix("backups/").removesuffix(".json")
