"""The lake in versions: what counts is what the newest one names (`batch/lake/versions.py`)."""

import os
from pathlib import Path

import pytest

from batch.lake.lease import HeldLease
from batch.lake.versions import VersionedLake
from batch.wiring import move_pointer
from pingfeed.adapters.lake_file import FileLake
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import Busy, FormatError, NotFound, Unavailable
from pingfeed.core.ranker import pointer_key
from pingfeed.ports import Artifacts
from tests.unit.lakes import FIRST, LakeWorld, event_id, like

PATH = "clean/day=2024-10-04/run-5.parquet"


class Lease(HeldLease):
    """Held until `lost`."""

    def __init__(self, fence: int) -> None:
        self.fence, self.lost = fence, False

    def check(self) -> None:
        if self.lost:
            raise Busy("lost")

    verify = check


@pytest.fixture
def disk(tmp_path: Path) -> FileLake:
    return FileLake(f"file://{tmp_path}/lake")


def committed(disk: FileLake, *paths: str) -> VersionedLake:
    lake = VersionedLake(disk)
    for path in paths:
        lake.write(path, path.encode())
    lake.commit()
    return lake


def test_what_is_not_committed_does_not_exist(disk: FileLake) -> None:
    lake = committed(disk, PATH)
    lake.write("clean/other.parquet", b"x")
    lake.delete(PATH)
    assert lake.list("clean") == ["clean/other.parquet"]
    assert VersionedLake(disk).list("clean") == [PATH]
    lake.refresh()
    assert lake.list("clean") == [PATH]
    with pytest.raises(NotFound):
        lake.read("clean/other.parquet")


def test_a_file_keeps_its_bytes_for_readers_of_the_version_before(disk: FileLake) -> None:
    lake = committed(disk, PATH)
    reader = VersionedLake(disk)
    assert reader.list("clean") == [PATH]
    lake.write(PATH, b"new")
    lake.commit()
    assert reader.read(PATH) == PATH.encode()
    assert VersionedLake(disk).read(PATH) == b"new"


def test_a_run_that_another_has_overtaken_discards_its_files_and_says_busy(disk: FileLake) -> None:
    first, second = committed(disk, PATH), VersionedLake(disk)
    first.claim(Lease(1))
    first.write("clean/late.parquet", b"x")
    second.claim(Lease(2))
    with pytest.raises(Busy):
        first.commit()
    assert not [path for path in disk.list("clean") if "late" in path]
    with pytest.raises(Busy):
        first.list("clean")
    second.write("clean/won.parquet", b"x")
    second.commit()
    assert VersionedLake(disk).list("clean") == [PATH, "clean/won.parquet"]
    assert any("won.2-" in path for path in disk.list("clean")), "the name has the lease's number"


def test_a_run_that_was_paused_before_its_claim_stops_and_the_next_one_goes_on(disk: FileLake) -> None:
    first, second = committed(disk, PATH), VersionedLake(disk)
    second.claim(Lease(2))
    with pytest.raises(Busy):
        first.claim(Lease(1))
    second.write("clean/won.parquet", b"x")
    second.commit()
    assert VersionedLake(disk).list("clean") == [PATH, "clean/won.parquet"]


def test_a_run_that_is_overtaken_right_after_its_commit_keeps_what_the_next_one_builds_on(disk: FileLake) -> None:
    first, second = committed(disk, PATH), VersionedLake(disk)
    first.claim(Lease(1))
    first.write("clean/new.parquet", b"x")
    first.write("events/compacted.parquet", b"x")

    class Overtaken(FileLake):
        def create(self, path: str, data: bytes) -> bool:
            made = super().create(path, data)
            second.claim(Lease(2))
            return made

    first._lake = Overtaken(f"file://{disk.root}")
    with pytest.raises(Busy):
        first.commit("events/compacted.parquet")
    assert second.read("clean/new.parquet") == b"x"
    assert disk.list("events")


def test_a_commit_of_which_nothing_was_heard_is_not_undone_by_the_next(disk: FileLake) -> None:
    lake = committed(disk, PATH)
    lake.write("clean/new.parquet", b"x")

    class Silent(FileLake):
        def create(self, path: str, data: bytes) -> bool:
            super().create(path, data)
            raise Unavailable("no answer")

    lake._lake = Silent(f"file://{disk.root}")
    with pytest.raises(Unavailable):
        lake.commit()
    lake._lake = disk
    lake.delete(PATH)
    with pytest.raises(Busy):
        lake.commit()
    assert VersionedLake(disk).read("clean/new.parquet") == b"x"


def test_a_number_that_was_used_and_removed_cannot_be_used_again(disk: FileLake) -> None:
    first = committed(disk, PATH)
    first.write("events/compacted.parquet", b"x")
    first.write("compactions/late.json", b"x")
    second = VersionedLake(disk)
    for number in range(20):
        second.write("ticks/trained.json", b"%d" % number)
        second.commit()
    second.sweep(before_ms=0)
    with pytest.raises(Busy):
        first.commit("events/compacted.parquet")
    assert VersionedLake(disk).read("ticks/trained.json") == b"19"
    assert not disk.list("events")


def test_a_run_stops_at_its_first_change_after_it_has_lost_the_lease(disk: FileLake) -> None:
    lake, lease = committed(disk, PATH), Lease(1)
    lake.claim(lease)
    lease.lost = True
    for change in (lambda: lake.write("events/x", b""), lambda: lake.delete(PATH), lake.sweep):
        with pytest.raises(Busy):
            change()


def test_a_run_removes_no_file_of_one_with_another_lease(disk: FileLake) -> None:
    """Two machines whose settings name different leases."""
    first, second = committed(disk, PATH), VersionedLake(disk)
    first.claim(Lease(1))
    second.claim(Lease(1))
    second.write("clean/new.parquet", b"x")
    with pytest.raises(Busy):
        first.sweep()
    second.commit()
    assert VersionedLake(disk).read("clean/new.parquet") == b"x"


def test_a_lake_without_versions_counts_as_it_is(disk: FileLake) -> None:
    for path in (PATH, "ticks/7/manifest.json"):
        disk.write(path, path.encode())
    lake = committed(disk, "clean/new.parquet")
    assert VersionedLake(disk).list("") == [PATH, "clean/new.parquet", "ticks/7/manifest.json"]
    lake.write(PATH, b"new")
    assert disk.read(PATH) == PATH.encode()


@pytest.mark.parametrize("harm", [b"", b"{}", b'{"fence": 1, "files": {}, "sha256": "1", "checksum": "2"}'])
def test_a_damaged_version_is_read_from_its_copy(disk: FileLake, harm: bytes) -> None:
    committed(disk, PATH)
    newest = disk.list("VERSIONS")[-1]
    disk.write(newest, harm)
    lake = VersionedLake(disk)
    assert lake.list("clean") == [PATH]
    lake.write("clean/new.parquet", b"x")
    lake.commit()
    assert VersionedLake(disk).list("clean") == [PATH, "clean/new.parquet"]
    for path in disk.list("VERSIONS"):
        disk.write(path, b"")
    with pytest.raises(FormatError, match="restore"):
        VersionedLake(disk).list("clean")


def test_files_that_no_version_names_are_removed_after_a_day(tmp_path: Path) -> None:
    world = LakeWorld(tmp_path)
    world.land([like(FIRST)])
    world.night(FIRST)
    folder = tmp_path / "lake" / "clean" / "day=2024-10-04"
    (left,) = folder.iterdir()
    for name in ("old.1-00.parquet", "young.1-00.parquet"):
        (folder / name).write_bytes(left.read_bytes())
    for path in (left, folder / "old.1-00.parquet"):
        os.utime(path, (path.stat().st_mtime - 90_000,) * 2)
    world.night(FIRST + 1)
    assert {path.name for path in folder.iterdir()} == {left.name, "young.1-00.parquet"}
    assert world.known() == [(event_id(0), FIRST)]


def test_a_reader_finds_the_old_files_that_the_nightly_job_replaces_meanwhile(disk: FileLake) -> None:
    reader = committed(disk, PATH)
    for path in disk.list("clean"):
        os.utime(disk.root / path, (1, 1))
    for number, left in ((1, True), (2, False)):
        nightly = VersionedLake(disk)
        nightly.claim(Lease(number))
        nightly.write(PATH, b"compacted")
        nightly.commit()
        nightly.sweep(before_ms=DAY_MS)
        if left:
            assert reader.read(PATH) == PATH.encode()
    with pytest.raises(NotFound):
        reader.read(PATH)


def test_a_file_that_is_named_and_gone_is_rebuilt(tmp_path: Path) -> None:
    world = LakeWorld(tmp_path)
    world.land([like(FIRST)])
    world.night(FIRST)
    for name, path in world.stored().items():
        if name.startswith(("clean/", "ticks/")):
            path.unlink()
    world.land([like(FIRST + 1, 1)])
    world.night(FIRST + 1)
    assert [event for event, _ in world.known()] == sorted([event_id(0), event_id(1)])


def test_only_the_run_that_read_a_pointer_moves_it(tmp_path: Path) -> None:
    batch = LakeWorld(tmp_path).batch
    lease = Lease(1)
    batch.tables.versions.claim(lease)
    key = pointer_key("d", "snapshot")

    async def move(artifacts: Artifacts) -> bytes:
        await move_pointer(batch, artifacts, "d", "snapshot", "7")
        await move_pointer(batch, artifacts, "d", "snapshot", "6", lambda live: int(live) < 6)
        lease.lost = True
        with pytest.raises(Busy):
            await move_pointer(batch, artifacts, "d", "snapshot", "8")
        return await artifacts.get(key)

    assert b'"7"' in batch.with_artifacts(move)


def test_a_lease_is_renewed_in_the_background_and_its_loss_is_remembered() -> None:
    class Store:
        renewed, taken = 0, False

        def renew(self, fence: int, seconds: float) -> None:
            self.renewed += 1
            if self.taken:
                raise Busy("taken")

        def release(self, fence: int) -> None:
            pass

    store = Store()
    held = HeldLease(store, 1, 0.03)  # type: ignore[arg-type]

    def work() -> None:
        with held.kept():
            while store.renewed < 3:
                held.check()
            store.taken = True
            while True:
                held.check()

    with pytest.raises(Busy, match="paused for too long"):
        work()
    store.taken = False
    with pytest.raises(Busy):
        held.verify()


def test_a_run_that_wakes_up_while_it_removes_files_removes_none_of_the_next_one(disk: FileLake) -> None:
    first, second = committed(disk, PATH), VersionedLake(disk)
    lease = Lease(1)
    first.claim(lease)

    class Paused(FileLake):
        def list(self, prefix: str, before_ms: int | None = None) -> list[str]:
            if prefix == "VERSIONS" and not lease.lost:
                lease.lost = True
                second.claim(Lease(2))
                second.write("clean/new.parquet", b"x")
                second.commit()
            return super().list(prefix, before_ms)

    first._lake = Paused(f"file://{disk.root}")
    with pytest.raises(Busy):
        first.sweep()
    assert VersionedLake(disk).read("clean/new.parquet") == b"x"
