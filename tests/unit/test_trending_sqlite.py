"""Trending in SQLite: engagements are buffered and counted together, losses are reported, everything is bounded."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pingfeed.adapters import _sqlite, trending_sqlite
from pingfeed.adapters.trending_sqlite import SqliteTrending as Store
from pingfeed.core.clock import DAY_MS, HOUR_MS
from pingfeed.core.errors import Unavailable
from pingfeed.core.trending import Engagement
from tests.conformance.samples import NOON_MS, eventually, sql, statements_of

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(f"sqlite://{tmp_path}/t.sqlite")
    yield opened
    await opened.close()


async def _flushed(store: Store) -> None:
    await store.top(None, 1, NOON_MS)


def _keys(folder: Path) -> int:
    return int(sql(folder / "t.sqlite", "SELECT COUNT(*) FROM counted")[0][0])


def _like(user: str, ping: str = "p") -> Engagement:
    return Engagement(user, ping, "like", "DE", NOON_MS)


async def test_keys_of_older_days_are_forgotten_and_never_count_again(tmp_path: Path, store: Store) -> None:
    old = [Engagement(f"u{n}", "old", "like", "DE", NOON_MS) for n in range(20)]
    await store.add(old)
    await _flushed(store)
    now_ms = NOON_MS + 4 * DAY_MS
    for n in range(20):
        await store.add([Engagement(f"u{n}", "new", "like", "DE", now_ms)])
        await _flushed(store)
    assert _keys(tmp_path) == 20
    before = await store.top("DE", 10, now_ms)
    await store.add(old)
    assert await store.top("DE", 10, now_ms) == before


async def test_the_number_of_keys_is_bounded(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trending_sqlite, "MAX_COUNTED", 30)
    for n in range(10):
        await store.add([Engagement(f"u{n}-{k}", "p", "like", "DE", NOON_MS + n) for k in range(10)])
        await _flushed(store)
        assert _keys(tmp_path) <= 30
    assert _keys(tmp_path) == 30
    await store.add([Engagement("u9-9", "p", "like", "DE", NOON_MS + 9)])
    assert dict(await store.top("DE", 1, NOON_MS + 9)) == {"p": pytest.approx(300, rel=1e-4)}


async def test_pings_without_weight_leave_with_a_moved_landmark(tmp_path: Path, store: Store) -> None:
    await store.add([Engagement("ann", "old", "like", "DE", NOON_MS)])
    await _flushed(store)
    await store.add([Engagement("ann", "new", "like", "DE", NOON_MS + 300 * HOUR_MS)])
    await _flushed(store)
    assert sql(tmp_path / "t.sqlite", "SELECT DISTINCT ping_id FROM weight") == [("new",)]


async def test_many_adds_are_one_transaction(store: Store) -> None:
    statements = await statements_of(store._database)
    for n in range(100):
        await store.add([_like(f"u{n}")])
    assert dict(await store.top("DE", 1, NOON_MS)) == {"p": pytest.approx(300)}
    assert statements.count("COMMIT") == 1


async def test_the_buffer_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trending_sqlite, "MAX_WAITING", 10)
    store = Store(f"sqlite://{tmp_path}/t.sqlite")
    for n in range(35):
        await store.add([_like(f"u{n}")])
        assert len(store._waiting) < 10
    assert _keys(tmp_path) == 30
    await store.close()
    assert _keys(tmp_path) == 35


async def test_a_failed_flush_is_reported_once(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite, "_WRITE_WAIT_MS", 10)
    monkeypatch.setattr(trending_sqlite, "FLUSH_S", 0.01)
    greedy = sqlite3.connect(tmp_path / "t.sqlite", isolation_level=None)
    greedy.execute("BEGIN IMMEDIATE")
    await store.add([_like("ann"), _like("bob")])
    assert store._timer is not None
    await store._timer
    with pytest.raises(Unavailable, match="2 engagements were not counted"):
        await store.add([_like("cem")])
    greedy.execute("COMMIT")
    greedy.close()
    await store.add([_like("dan")])
    assert dict(await store.top("DE", 1, NOON_MS)) == {"p": pytest.approx(6)}, "cem and dan"
    await store.add([_like("ann")])
    assert dict(await store.top("DE", 1, NOON_MS)) == {"p": pytest.approx(9)}, "what was missed may come again"


async def test_an_add_during_a_flush_is_counted(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trending_sqlite, "FLUSH_S", 0.01)
    begun, go_on, count = threading.Event(), threading.Event(), store._count

    def slow(*batch: Any) -> None:
        begun.set()
        go_on.wait(10)
        count(*batch)

    monkeypatch.setattr(store, "_count", slow)
    await store.add([_like("ann")])
    await asyncio.to_thread(begun.wait, 10)
    await store.add([_like("bob")])
    go_on.set()
    await eventually(lambda: _keys(tmp_path) == 2)


async def test_adds_from_one_loop_after_the_other_are_counted(tmp_path: Path) -> None:
    store = Store(f"sqlite://{tmp_path}/t.sqlite")
    await asyncio.to_thread(asyncio.run, store.add([_like("ann")]))
    await asyncio.to_thread(asyncio.run, store.add([_like("bob")]))
    await store.close()
    assert _keys(tmp_path) == 2


@pytest.mark.parametrize("version", [1, 2])
async def test_a_file_of_an_older_format_keeps_its_weights(tmp_path: Path, version: int) -> None:
    old = sqlite3.connect(tmp_path / "t.sqlite")
    old.executescript((GOLDEN / "trending_format2.sql").read_text())
    if version == 1:
        old.execute("DROP TABLE counted_keys")
        old.execute("CREATE INDEX hottest ON weight (country, weight DESC, ping_id)")
        old.execute("CREATE TABLE counted (id INTEGER PRIMARY KEY, day INTEGER NOT NULL, key BLOB NOT NULL UNIQUE)")
        old.execute("INSERT INTO counted VALUES (1, 1, x'00')")
        old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    store = Store(f"sqlite://{tmp_path}/t.sqlite")
    await store.add([_like("cem")])
    assert dict(await store.top("DE", 1, NOON_MS)) == {"p": pytest.approx(9)}
    assert _keys(tmp_path) == 1
    names = {name for (name,) in sql(tmp_path / "t.sqlite", "SELECT name FROM sqlite_schema")}
    assert not names & {"counted_keys", "hottest"}
    await store.close()


def test_a_key_is_of_user_ping_type_and_day_and_the_same_in_every_process() -> None:
    engagements = [
        Engagement(user, ping, kind, country, NOON_MS + day * DAY_MS)
        for user in ("ann", "bob")
        for ping in ("ann", "bob")
        for kind in ("like", "share")
        for country in ("DE", None)
        for day in (0, 1)
    ]
    keys = [trending_sqlite._key(e) for e in engagements]
    assert len(set(keys)) == len(keys) / 2, "the country is no part of it"
    assert keys[0] == 2488052282916549703
