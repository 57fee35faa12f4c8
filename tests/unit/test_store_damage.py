"""Derived stores that are damaged are moved aside, begun anew, and named until they are rebuilt."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pingfeed import checks
from pingfeed.adapters.candidates_sqlite import SqliteCandidateStore
from pingfeed.adapters.trending_sqlite import SqliteTrending
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.signals import Act
from pingfeed.core.trending import Engagement

NOW_MS = 1_795_348_800_000
STORES = [SqliteCandidateStore, SqliteUserSignals, SqliteTrending]
Store = SqliteCandidateStore | SqliteUserSignals | SqliteTrending


async def _write(store: Store, name: str) -> None:
    if isinstance(store, SqliteCandidateStore):
        await store.put_many({name: b"packet"}, NOW_MS + 1000)
    elif isinstance(store, SqliteUserSignals):
        await store.apply([Act(name, "block", "c1", NOW_MS)])
    else:
        await store.add([Engagement(name, name, "like", "DE", NOW_MS)])
        await store.top("DE", 10, NOW_MS)  # flushes


async def _holds(store: Store, name: str) -> bool:
    if isinstance(store, SqliteCandidateStore):
        return await store.get(name, NOW_MS) is not None
    if isinstance(store, SqliteUserSignals):
        return "c1" in (await store.read(name, NOW_MS)).state.blocks
    return name in [ping_id for ping_id, _ in await store.top("DE", 1000, NOW_MS)]


def _another_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={version}")
        connection.execute("CREATE TABLE other (id INTEGER)")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _flipped(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[100:4000] = b"\xa5" * 3900  # the schema's page
    path.write_bytes(whole)


HARM: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b"garbage" * 1000),
    lambda path: path.write_bytes(b"\0" * 8192),
    _flipped,
]


@pytest.fixture
async def filled(tmp_path: Path, kind: type[Store]) -> Path:
    """The closed file of a store that holds something."""
    path = tmp_path / "store.sqlite"
    store = kind(f"sqlite://{path}")
    for i in range(50):
        await _write(store, f"before-{i}")
    await store.close()
    return path


@pytest.mark.parametrize("harm", [*HARM, _another_database, _folder, lambda path: os.truncate(path, 5000)])
@pytest.mark.parametrize("kind", STORES)
async def test_a_damaged_store_is_moved_aside_at_the_start_and_begun_anew(
    filled: Path, kind: type[Store], harm: Callable[[Path], object]
) -> None:
    harm(filled)
    store = kind(f"sqlite://{filled}")
    try:
        assert not await _holds(store, "before-1")
        problems = await checks.problems(store=store.check)
        assert "began anew" in problems["store"]
        await _write(store, "after")
        assert await _holds(store, "after")
        assert len(list(filled.parent.glob("store.sqlite.damaged-*"))) >= 1
    finally:
        await store.close()


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("kind", STORES)
async def test_damage_that_shows_while_running_is_survived_by_every_process(
    filled: Path, kind: type[Store], harm: Callable[[Path], object]
) -> None:
    stores = [kind(f"sqlite://{filled}") for _ in range(2)]
    try:
        for store in stores:
            await _write(store, "running")
        harm(filled)
        third = kind(f"sqlite://{filled}")  # sees the damage, whatever the others have cached
        stores.append(third)
        for at, store in enumerate(stores):
            await _write(store, f"after-{at}")
        for store in stores:
            for at in range(3):
                assert await _holds(store, f"after-{at}")
    finally:
        await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.parametrize("name", ["store.sqlite", "store.sqlite-wal"])
@pytest.mark.parametrize("size", [0, 1, 100, 5000])
@pytest.mark.parametrize("kind", STORES)
async def test_a_live_store_that_is_truncated_in_place_goes_on(
    filled: Path, kind: type[Store], name: str, size: int
) -> None:
    store = kind(f"sqlite://{filled}")
    try:
        for at in range(40):
            await _write(store, f"running-{at}")
        os.truncate(filled.with_name(name), size)
        for at in range(40):
            await _write(store, f"after-{at}")
            # The first may be written to the file that is then found to be damaged.
            assert await _holds(store, f"after-{at}") or at < 3
        other = kind(f"sqlite://{filled}")
        await _write(other, "last")
        assert await _holds(other, "last")
        assert await _holds(store, "last")
        await other.close()
    finally:
        await store.close()


@pytest.mark.parametrize("kind", STORES)
async def test_a_store_whose_file_is_removed_goes_on_in_a_new_one(filled: Path, kind: type[Store]) -> None:
    stores = [kind(f"sqlite://{filled}") for _ in range(2)]
    for path in filled.parent.glob("store.sqlite*"):
        path.unlink()
    try:
        for at, store in enumerate(stores):
            await _write(store, f"after-{at}")
        for store in stores:
            assert await _holds(store, "after-0")
            assert await _holds(store, "after-1")
    finally:
        await asyncio.gather(*(store.close() for store in stores))
