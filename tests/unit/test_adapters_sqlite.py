"""What the SQLite stores share, and what only their own backend can show: group commit, refusals, sweeping."""

import asyncio
import os
import resource
import sqlite3
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pingfeed.adapters.candidates_sqlite import SqliteCandidateStore
from pingfeed.adapters.trending_sqlite import SqliteTrending
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.core.packet import TTL_S
from pingfeed.core.signals import STATE_TTL_MS, Act, UserState
from pingfeed.local import fold
from pingfeed.local import sqlite as local_sqlite
from pingfeed.local.sqlite import Database
from pingfeed.local.sweep import Sweep
from tests.conformance.samples import NOON_MS

SCHEMA = ("CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text)",)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(tmp_path / "deep" / "er" / "notes.sqlite", SCHEMA, durable=True)
    yield opened
    await opened.close()


def _insert(text: object, connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO note (text) VALUES (?)", (text,))


def _texts(database: Database) -> list[Any]:
    return [text for (text,) in database.all("SELECT text FROM note ORDER BY id")]


async def test_a_write_returns_its_result_once_it_is_committed(database: Database) -> None:
    def work(connection: sqlite3.Connection) -> str:
        _insert("a", connection)
        return "done"

    assert await database.write(work) == "done"
    assert _texts(database) == ["a"]
    assert database.one("SELECT text FROM note WHERE id = ?", 7) is None


async def test_writes_that_wait_together_share_one_transaction_in_order(database: Database) -> None:
    statements: list[str] = []
    begun, go = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        begun.set()
        go.wait(10)
        _insert("first", connection)

    first = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(begun.wait, 10)
    database._writer.set_trace_callback(statements.append)
    others = [asyncio.create_task(database.write(partial(_insert, str(n)))) for n in range(50)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, *others)
    assert statements.count("COMMIT") == 2
    assert _texts(database) == ["first", *(str(n) for n in range(50))]


async def test_a_failing_write_is_undone_alone_and_raises_where_it_was_asked_for(database: Database) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        _insert("half done", connection)
        raise ValueError("not like this")

    def fine(connection: sqlite3.Connection) -> None:
        _insert("fine", connection)

    results = await asyncio.gather(
        database.write(fine), database.write(fail), database.write(fine), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), ValueError, type(None)]
    assert _texts(database) == ["fine", "fine"]


async def test_a_refusing_disk_fails_everything_that_waits_and_recovers_by_itself(database: Database) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        writes = [database.write(partial(_insert, os.urandom(1 << 18))) for _ in range(3)]
        results = await asyncio.gather(*writes, return_exceptions=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(isinstance(result, Unavailable) for result in results)
    assert all(isinstance(result.__cause__, sqlite3.Error) for result in results if isinstance(result, Unavailable))
    assert _texts(database) == []
    await database.write(partial(_insert, "better"))
    assert _texts(database) == ["better"]


async def test_a_lock_that_is_never_given_back_is_unavailable_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_sqlite, "_WRITE_WAIT_MS", 20)
    database = Database(tmp_path / "notes.sqlite", SCHEMA, durable=False)
    greedy = sqlite3.connect(database.path, isolation_level=None)
    greedy.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        await database.write(partial(_insert, "x"))
    with pytest.raises(Unavailable):
        await database.check()
    assert _texts(database) == [], "readers are not kept out"
    greedy.execute("COMMIT")
    greedy.close()
    await database.check()
    await database.close()


async def test_many_processes_may_create_the_same_file_at_once(tmp_path: Path) -> None:
    opened = await asyncio.gather(
        *(asyncio.to_thread(Database, tmp_path / "notes.sqlite", SCHEMA, durable=True) for _ in range(8))
    )
    for database in opened:
        await database.write(partial(_insert, "x"))
    assert len(_texts(opened[0])) == 8
    for database in opened:
        await database.close()


async def test_closing_finishes_what_was_asked_for_then_refuses(database: Database) -> None:
    writes = [asyncio.create_task(database.write(partial(_insert, "x"))) for _ in range(20)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*writes)
    with pytest.raises(Unavailable):
        await database.write(partial(_insert, "x"))
    connection = sqlite3.connect(database.path)
    assert connection.execute("SELECT COUNT(*) FROM note").fetchone() == (20,)
    connection.close()


def test_a_waiter_whose_loop_is_gone_stops_nobody_else(tmp_path: Path) -> None:
    """The batch side calls stores through one `asyncio.run` after the other."""
    database = Database(tmp_path / "notes.sqlite", SCHEMA, durable=True)
    release = threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        release.wait(10)
        _insert("late", connection)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(database.write(slow), 0.01)

    async def go_on() -> None:
        await database.write(partial(_insert, "on"))
        await database.close()

    asyncio.run(give_up())
    release.set()
    asyncio.run(go_on())
    connection = sqlite3.connect(database.path)
    assert connection.execute("SELECT text FROM note ORDER BY id").fetchall() == [("late",), ("on",)]
    connection.close()


async def test_a_read_that_cannot_be_is_unavailable(database: Database) -> None:
    with pytest.raises(Unavailable):
        database.one("SELECT * FROM nowhere")
    with pytest.raises(Unavailable):
        database.all("SELECT * FROM nowhere")


@pytest.mark.parametrize("open_store", [SqliteCandidateStore, SqliteUserSignals, SqliteTrending])
def test_a_file_that_is_no_database_is_unavailable(open_store: type, tmp_path: Path) -> None:
    tmp_path.joinpath("x.sqlite").write_bytes(b"certainly no database" * 100)
    with pytest.raises(Unavailable):
        open_store(f"sqlite://{tmp_path}/x.sqlite")


def test_a_file_of_another_format_is_refused_by_name(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "notes.sqlite")
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(FormatError, match=r"notes\.sqlite is of format 9"):
        Database(tmp_path / "notes.sqlite", SCHEMA, durable=True)


async def test_a_file_whose_maker_was_killed_half_way_is_finished(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "notes.sqlite")
    connection.execute(SCHEMA[0])
    connection.close()
    database = Database(tmp_path / "notes.sqlite", (*SCHEMA, "CREATE TABLE more (id)"), durable=True)
    assert database.all("SELECT * FROM more") == []
    await database.close()


async def test_a_sweep_looks_at_a_few_rows_a_step_and_comes_round(database: Database) -> None:
    for text in (1, 9, 1, 1, 9, 1, 9):
        await database.write(partial(_insert, text))
    sweep = Sweep("note", "text", rows=3)
    left = []
    for _ in range(5):
        await database.write(lambda c: sweep.step(c, 5))
        left.append(len(_texts(database)))
    assert left == [5, 3, 3, 3, 3]
    await database.write(partial(_insert, 1))
    for _ in range(3):
        await database.write(lambda c: sweep.step(c, 5))
    assert _texts(database) == [9, 9, 9]


def _count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    (count,) = connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
    connection.close()
    return int(count)


async def test_expired_packets_leave_the_file(tmp_path: Path) -> None:
    store = SqliteCandidateStore(f"sqlite://{tmp_path}/c.sqlite")
    await store.put_many({f"old-{n}": b"x" for n in range(100)}, NOON_MS + TTL_S * 1000)
    for _ in range(2):  # The first look ends where the table ends, the next begins anew.
        await store.put_many({"new": b"y"}, NOON_MS + 2 * TTL_S * 1000)
    assert _count(tmp_path / "c.sqlite", "packet") == 1
    await store.close()


async def test_expired_states_leave_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "FOLD_BYTES", 200)
    store = SqliteUserSignals(f"sqlite://{tmp_path}/s.sqlite")
    await store.apply([Act(f"user-{n}", "seen", "p", NOON_MS) for n in range(100)])
    await store.apply([Act("", "deleted", "p", NOON_MS)])
    for n in range(70):
        await store.apply([Act("new", "seen", f"p{n}", NOON_MS + STATE_TTL_MS)])
    assert _count(tmp_path / "s.sqlite", "state") == 1
    assert _count(tmp_path / "s.sqlite", "deleted") == 0
    await store.close()


async def test_a_damaged_state_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "FOLD_BYTES", 1)
    store = SqliteUserSignals(f"sqlite://{tmp_path}/s.sqlite")
    await store.apply([Act("ann", "seen", "p", NOON_MS), Act("bob", "seen", "p", NOON_MS)])
    for _ in range(3):  # Begins the fold, reads, writes.
        await store.apply([Act("cem", "seen", "p", NOON_MS)])
    connection = sqlite3.connect(tmp_path / "s.sqlite")
    with connection:
        connection.execute("UPDATE state SET state = x'c1ff' WHERE user_id = 'ann'")
    connection.close()
    assert (await store.read("ann", NOON_MS)).state == UserState()
    assert "damaged" in caplog.text
    await store.apply([Act("ann", "hide", "q", NOON_MS + 1)])
    assert (await store.read("ann", NOON_MS)).state.hides.keys() == {"q"}
    assert (await store.read("bob", NOON_MS)).state.seen.keys() == {"p"}
    await store.close()
