"""A backup taken while everything runs has what was acknowledged, once; a restore brings it back or says why."""

import asyncio
import hashlib
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from batch.lake.ledger import Ledger
from batch.lake.raw_files import each_events
from batch.ops import backup
from batch.ops.backup import PART_BYTES, _is_ahead, _Spool, places_of, restore, save, store_at
from batch.ops.reconcile import reconcile
from batch.wiring import Batch, build
from pingfeed import cli
from pingfeed.adapters import registry
from pingfeed.core.clock import DAY_MS, day_of, system_clock
from pingfeed.core.errors import Busy, InvalidInput, NotFound
from pingfeed.ports import Lake
from pingfeed.settings import load
from tests.prove import figure, rounds
from tests.unit.feed_world import until
from tests.unit.loop_world import Loop, loop_world
from tests.unit.test_relations_last import act, created

MINE: Final = {"mine", "new", "signals.sqlite-wal"} | {
    f"{name}-{n}" for name in ("lake", "artifacts") for n in range(3)
}
"""Names of the files that tests here make."""


@pytest.fixture
async def loop(tmp_path: Path) -> AsyncIterator[Loop]:
    async with loop_world(tmp_path / "home", EXPLORE_SHARE="0") as opened:
        # Tallies forget days of more than a year ago.
        opened.now_ms = (system_clock() // DAY_MS - 3) * DAY_MS + DAY_MS // 2
        await opened.send(*(created(number) for number in range(60)))
        await opened.tick()
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> Lake:
    return registry.open_lake_at(f"file://{tmp_path / 'backups'}")


@pytest.fixture
def small(tmp_path: Path) -> Batch:
    """A home with one file in each place, some larger than a part."""
    batch = at(tmp_path / "small")
    for name, root in places_of(batch.settings).items():
        if root.suffix == ".sqlite":
            continue
        (root / "sub").mkdir(parents=True)
        for number in range(3):
            data = f"{name} {number}".encode() * (PART_BYTES // 4 if not number else 1)
            (root / "sub" / f"{name}-{number}").write_bytes(data)
    return batch


def at(home: Path) -> Batch:
    return build(load({"PINGFEED_HOME": str(home), "PINGFEED_EXPLORE_SHARE": "0"}), quiet=True)


def landed(lake: Lake) -> Counter[str]:
    """How often each event is in the raw files."""
    found: Counter[str] = Counter()
    for one in each_events(lake, lake.list("events")):
        assert not one.left_out
        found.update(one.rows["event_id"].to_pylist())
    return found


def files_below(root: Path) -> dict[str, bytes]:
    """What a test has put there: not what a lease keeps for itself."""
    every = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in every.items() if name.rpartition("/")[2] in MINE}


async def write_on(loop: Loop, acknowledged: list[str]) -> None:
    """Send likes, and events that are rejected, until cancelled."""
    while True:
        ids = [str(uuid.uuid4()) for _ in range(5)]
        await loop.send(*(act("like", ping_id=f"p{at:03}", event_id=one) for at, one in enumerate(ids)))
        acknowledged += ids
        await loop.ingest.post("/track-event", json=act("like", ping_id=""))
        await asyncio.sleep(0.002)


def slowly(call: Callable[..., Any], pause_s: float) -> Callable[..., Any]:
    def made(*given: Any) -> Any:
        try:
            return call(*given)
        finally:
            time.sleep(pause_s)

    return made


async def test_what_was_acknowledged_before_a_backup_is_restored_once(
    loop: Loop, store: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken under load, between ticks, at any moment of a delivery. Reconciling the restored home agrees."""
    waiting = 0
    acknowledged: list[str] = []
    for number in range(rounds(4, 20)):
        home = tmp_path / f"restored-{number}"
        with monkeypatch.context() as slower:
            # Longer than a flush, so that batches are delivered between the copies of a spool and of the lake.
            slower.setattr(backup, "_copy_spool", slowly(backup._copy_spool, (0.0, 0.03, 0.07, 0.2)[number % 4]))
            writing = asyncio.create_task(write_on(loop, acknowledged))
            await asyncio.sleep(0.2)
            before = list(acknowledged)
            await asyncio.to_thread(save, loop.batch, store, keep=2)
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
        await asyncio.to_thread(restore, at(home), store)
        async with loop_world(home) as restored:
            restored.now_ms = loop.now_ms
            waiting += restored.delivery.counters.spooled_events
            await restored.landed()
        lake = registry.open_lake_at(restored.settings.lake_url)
        found = landed(lake)
        assert [one for one in before if found[one] != 1] == []
        assert max(found.values()) == 1
        [day] = reconcile(lake, restored.settings.spool_dir, [day_of(loop.now_ms)], loop.now_ms).days
        assert (day.counts.missing, day.counts.duplicates, day.counts.spooled) == (0, 0, 0)
        assert day.counts.accepted == day.counts.landed
        rejected = [line for path in lake.list("rejected") for line in lake.read(path).splitlines()]
        assert len(rejected) == len(set(rejected))
        known = Ledger(restored.batch.tables, restored.batch.ticks).known_ticks()
        assert known
        assert set(known) <= set(lake.list("events")), "no manifest names a missing file"
        if number % 2:
            await loop.tick()
    figure("backups under load", backups=number + 1, acknowledged=len(acknowledged), waited_in_spools=waiting)


async def test_a_restored_home_serves_the_same_feed(loop: Loop, store: Lake, tmp_path: Path) -> None:
    await loop.send(act("hide", ping_id="p001"), act("block", creator_id="c0"))
    await loop.applied()
    await asyncio.to_thread(save, loop.batch, store)
    expected = [await loop.feed("ann"), await loop.feed("bob")]
    await asyncio.to_thread(restore, at(tmp_path / "other"), store)
    async with loop_world(tmp_path / "other", EXPLORE_SHARE="0") as other:
        other.now_ms = loop.now_ms

        async def is_live() -> bool:
            page = await other.feed("watcher")
            return (page["tick_ms"], page["degraded"]) == (expected[0]["tick_ms"], expected[0]["degraded"])

        await until(is_live)
        found = [await other.feed("ann"), await other.feed("bob")]
    assert [one["items"] for one in found] == [one["items"] for one in expected]
    assert [one["degraded"] for one in found] == [one["degraded"] for one in expected]
    assert all(item["creator_id"] != "c0" for item in found[0]["items"])


SPOOLS: Final = {"a" * 16: _Spool(acked_to=20, segments={11: 20, 21: 30, 31: 35})}


@pytest.mark.parametrize(
    ("name", "ahead"),
    [
        ("part-aaaaaaaaaaaaaaaa-000000000011-000000000020.parquet", False),  # delivered, and so says the tally
        ("part-aaaaaaaaaaaaaaaa-000000000021-000000000030.parquet", False),  # delivered again under the same name
        ("part-aaaaaaaaaaaaaaaa-000000000031-000000000040.parquet", True),  # copied when it had fewer records
        ("aaaaaaaaaaaaaaaa-000000000041-000000000050.jsonl", True),  # newer than the copy
        ("part-bbbbbbbbbbbbbbbb-000000000041-000000000050.parquet", False),  # another machine's
        ("history-000001.parquet", False),
    ],
)
def test_a_batch_that_lands_meanwhile_is_left_out_if_the_restored_spool_delivers_it(name: str, ahead: bool) -> None:
    assert _is_ahead(f"events/year=2025/month=04/day=01/{name}", SPOOLS) is ahead


def test_a_backup_copies_only_changes_and_keep_removes_what_no_backup_needs(small: Batch, store: Lake) -> None:
    save(small, store)
    before = parts_of(store, "sub/")
    lake = places_of(small.settings)["lake"]
    (lake / "sub" / "lake-1").unlink()
    (lake / "new").write_bytes(b"new")
    for number in range(3):  # Names are seconds; here a second passes for each.
        later = build(small.settings, wall_clock=lambda n=number: small.wall_clock() + 1000 * (n + 1), quiet=True)  # type: ignore[misc]
        save(later, store, keep=None if number < 2 else 2)
    assert len(store.list("backups")) == 2
    kept = parts_of(store, "")
    assert before - kept == {hashlib.sha256(b"lake 1").hexdigest()}
    assert hashlib.sha256(b"new").hexdigest() in kept
    assert {path.rpartition("/")[2] for path in store.list("parts")} == kept
    restore(at(lake.parents[1] / "other"), store)


def test_a_large_file_comes_back_byte_for_byte(small: Batch, store: Lake, tmp_path: Path) -> None:
    save(small, store)
    restore(at(tmp_path / "other"), store)
    for place in ("lake", "artifacts"):
        found = files_below(tmp_path / "other" / place)
        assert found == files_below(tmp_path / "small" / place)
        assert max(map(len, found.values())) > PART_BYTES


def parts_of(store: Lake, within: str) -> set[str]:
    """The parts of the newest backup's files whose path contains a text."""
    return {part for file in backup.load(store)[1].files if within in file.path for part in file.parts}


def harm(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data) if how == "changed" else path.unlink()


@pytest.mark.parametrize("how", ["changed", "gone"])
@pytest.mark.parametrize("what", ["parts", "backups"])
def test_a_damaged_backup_is_refused_by_name_and_nothing_changes(
    small: Batch,
    store: Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    how: str,
) -> None:
    name, _ = save(small, store)
    harm(tmp_path / "backups" / store.list(what)[0], how)
    home = tmp_path / "other"
    (home / "lake").mkdir(parents=True)
    (home / "lake" / "mine").write_bytes(b"mine")
    monkeypatch.setenv("PINGFEED_HOME", str(home))
    for option in ("--dry-run", "--force"):
        assert cli.main(["restore", str(tmp_path / "backups"), option]) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert ("no backup" if (what, how) == ("backups", "gone") else f"the backup {name} is damaged: ") in said
        assert files_below(home) == {"lake/mine": b"mine"}


def test_a_restore_refuses_a_home_with_data_and_moves_it_aside_when_forced(
    small: Batch, store: Lake, tmp_path: Path
) -> None:
    save(small, store)
    home = tmp_path / "other"
    (home / "lake").mkdir(parents=True)
    (home / "lake" / "mine").write_bytes(b"mine")
    (home / "signals.sqlite-wal").write_bytes(b"of another store")
    with pytest.raises(InvalidInput, match="has data"):
        restore(at(home), store)
    assert set(files_below(home)) == {"lake/mine", "signals.sqlite-wal"}
    aside, journal = restore(at(home), store, force=True)
    assert (aside / "mine").read_bytes() == b"mine"
    assert journal.read_bytes() == b"of another store", "a new store must not take it for its own"
    assert files_below(home / "lake") == files_below(tmp_path / "small" / "lake")


async def test_a_restore_refuses_while_a_service_runs(loop: Loop, store: Lake) -> None:
    await asyncio.to_thread(save, loop.batch, store)
    with pytest.raises(Busy, match="stop the services"):
        await asyncio.to_thread(restore, loop.batch, store, force=True)
    name, found = backup.load(store)
    await asyncio.to_thread(backup.fetch, loop.batch, store, name, found, {})  # Checking one is fine.


def test_a_backup_or_restore_that_another_run_has_overtaken_changes_nothing(
    small: Batch, store: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(step: Callable[..., Any], home: Path) -> Callable[..., Any]:
        def made(*given: Any) -> Any:
            (home / "lake" / "_lease" / "99.json").write_text("{}")  # The next number is taken.
            return step(*given)

        return made

    with monkeypatch.context() as patched:
        patched.setattr(backup, "_snapshot", overtaken(backup._snapshot, tmp_path / "small"))
        with pytest.raises(Busy, match="paused for too long"):
            save(small, store)
    assert not store.list("backups")
    save(small, store)
    home = tmp_path / "other"
    (home / "lake").mkdir(parents=True)
    (home / "lake" / "mine").write_bytes(b"mine")
    monkeypatch.setattr(backup, "fetch", overtaken(backup.fetch, home))
    with pytest.raises(Busy, match="paused for too long"):
        restore(at(home), store, force=True)
    assert files_below(home) == {"lake/mine": b"mine"}


def test_an_unknown_backup_and_a_wrong_place_are_one_sentence(
    small: Batch, store: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _ = save(small, store)
    with pytest.raises(NotFound, match=f"there is no backup 1999; there is {name}"):
        restore(at(tmp_path / "other"), store, "1999")
    for place in (str(tmp_path / "small" / "lake" / "backups"), "ftp://host/x"):
        with pytest.raises(InvalidInput, match="folder outside"):
            store_at(place, small.settings)
    monkeypatch.setenv("PINGFEED_HOME", str(tmp_path / "small"))
    assert cli.main(["backup", str(tmp_path / "backups"), "--keep", "3"]) == 0
    assert cli.main(["restore", str(tmp_path / "backups"), "--dry-run"]) == 0
    assert cli.main(["restore", str(tmp_path / "backups")]) == 1
    said = capsys.readouterr()
    assert "is whole: " in said.out
    assert said.err.strip().splitlines()[-1].startswith("pingfeed restore: ")


KILLED: Final = """
import os, pathlib, sys
from pingfeed import cli
left, calls = [int(sys.argv[1])], [(pathlib.Path, "rename"), (pathlib.Path, "replace"), (os, "link"), (os, "sync")]
def mortal(call):
    def made(*given, **more):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), 9)
        return call(*given, **more)
    return made
for owner, name in calls:
    setattr(owner, name, mortal(getattr(owner, name)))
sys.exit(cli.main(sys.argv[2:]))
"""


def killed(home: Path, *words: str, step: int, most: int = 150) -> Iterator[bool]:
    """Run a command that is killed at its n-th change of the disk; yields after each, whether it ended by itself."""
    for changes in range(0, most, step):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(changes), *words],
            env={"PINGFEED_HOME": str(home), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, -9), done.stderr
        yield done.returncode == 0
        if done.returncode == 0:
            return
    raise AssertionError(f"more than {most} changes")


def test_a_killed_backup_does_not_count_and_the_next_one_is_whole(small: Batch, store: Lake, tmp_path: Path) -> None:
    name, _ = save(small, store)
    expected = files_below(tmp_path / "small" / "lake")
    (tmp_path / "small" / "lake" / "new").write_bytes(b"new")
    for ended in killed(tmp_path / "small", "backup", str(tmp_path / "backups"), step=4 - rounds(1, 3)):
        home = tmp_path / f"other-{ended}"
        restore(at(home), store, "" if ended else name, force=True)
        assert files_below(home / "lake") == expected | ({"new": b"new"} if ended else {})
    assert not (tmp_path / "small" / ".backup").exists()


def test_a_killed_restore_is_run_again(small: Batch, store: Lake, tmp_path: Path) -> None:
    save(small, store)
    home = tmp_path / "other"
    (home / "lake").mkdir(parents=True)
    (home / "lake" / "mine").write_bytes(b"mine")
    for ended in killed(home, "restore", str(tmp_path / "backups"), "--force", step=3 - rounds(1, 2)):
        if not ended:
            lakes = [path for path in home.glob("lake*") if (path / "mine").exists()]
            assert lakes, "what was there is there or aside"
    assert files_below(home / "lake") == files_below(tmp_path / "small" / "lake")
    assert not (home / ".restore").exists()
