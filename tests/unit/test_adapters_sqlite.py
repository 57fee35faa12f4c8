"""What the SQLite stores share: transactions, locks, opening, sweeping, erasing, coalesced calls."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pingfeed.adapters import _sqlite
from pingfeed.adapters._cache import Cache
from pingfeed.adapters._sqlite import MAX_ITEMS, Coalescer, Database, Sweep
from pingfeed.adapters.candidates_sqlite import SqliteCandidateStore
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.core.packet import TTL_S
from pingfeed.core.signals import Act
from tests.conformance.samples import NOON_MS, disk_full_above, sql, statements_of
from tests.unit.forget_world import ZOE

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


async def test_writes_are_transactions_of_their_own_in_order(database: Database) -> None:
    statements = await statements_of(database)
    await asyncio.gather(*(database.write(partial(_insert, str(n))) for n in range(20)))
    assert statements.count("COMMIT") == 20
    assert _texts(database) == [str(n) for n in range(20)]


async def test_a_failing_write_is_undone_alone_and_raises_to_its_caller(database: Database) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        _insert("half done", connection)
        raise ValueError("not like this")

    works: list[Callable[[sqlite3.Connection], None]] = [partial(_insert, "fine"), fail, partial(_insert, "fine")]
    results = await asyncio.gather(*(database.write(work) for work in works), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), ValueError, type(None)]
    assert _texts(database) == ["fine", "fine"]


async def test_a_full_disk_fails_every_waiting_write_and_recovers(database: Database) -> None:
    with disk_full_above(1 << 16):
        writes = [database.write(partial(_insert, os.urandom(1 << 18))) for _ in range(3)]
        results = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert all(isinstance(result.__cause__, sqlite3.Error) for result in results if isinstance(result, Unavailable))
    assert _texts(database) == []
    await database.write(partial(_insert, "better"))
    assert _texts(database) == ["better"]


async def test_a_lock_that_is_never_released_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite, "_WRITE_WAIT_MS", 20)
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


async def test_closing_finishes_pending_writes_and_rejects_later_ones(database: Database) -> None:
    writes = [asyncio.create_task(database.write(partial(_insert, "x"))) for _ in range(20)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*writes)
    with pytest.raises(Unavailable):
        await database.write(partial(_insert, "x"))
    assert sql(database.path, "SELECT COUNT(*) FROM note") == [(20,)]


def test_a_caller_whose_loop_has_ended_blocks_no_other(tmp_path: Path) -> None:
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
    assert sql(database.path, "SELECT text FROM note ORDER BY id") == [("late",), ("on",)]


async def test_a_failing_read_is_unavailable(database: Database) -> None:
    for read in (database.one, database.all):
        with pytest.raises(Unavailable):
            read("SELECT * FROM nowhere")


def test_a_file_of_a_newer_format_is_rejected(tmp_path: Path) -> None:
    sql(tmp_path / "notes.sqlite", "PRAGMA user_version = 9")
    with pytest.raises(FormatError, match=r"notes\.sqlite is of format 9"):
        Database(tmp_path / "notes.sqlite", SCHEMA, durable=True)


async def test_a_half_created_file_is_completed(tmp_path: Path) -> None:
    sql(tmp_path / "notes.sqlite", *SCHEMA)
    database = Database(tmp_path / "notes.sqlite", (*SCHEMA, "CREATE TABLE more (id)"), durable=True)
    assert database.all("SELECT * FROM more") == []
    await database.close()


async def test_a_sweep_looks_at_a_few_rows_a_step_and_starts_over(database: Database) -> None:
    for text in (1, 9, 1, 1, 9, 1, 9):
        await database.write(partial(_insert, text))
    sweep = Sweep("note", "text <= ?", rows=3)
    left = []
    for _ in range(5):
        await database.write(lambda c: sweep.step(c, 5))
        left.append(len(_texts(database)))
    assert left == [5, 3, 3, 3, 3]
    await database.write(partial(_insert, 1))
    for _ in range(3):
        await database.write(lambda c: sweep.step(c, 5))
    assert _texts(database) == [9, 9, 9]


async def test_expired_packets_leave_the_file(tmp_path: Path) -> None:
    store = SqliteCandidateStore(f"sqlite://{tmp_path}/c.sqlite")
    await store.put_many({f"old-{n}": b"x" for n in range(100)}, NOON_MS + TTL_S * 1000)
    for _ in range(2):  # The first look ends where the table ends, the next begins anew.
        await store.put_many({"new": b"y"}, NOON_MS + 2 * TTL_S * 1000)
    assert sql(tmp_path / "c.sqlite", "SELECT COUNT(*) FROM packet") == [(1,)]
    await store.close()


async def test_a_process_gets_the_write_lock_between_another_ones_long_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite, "_LONG_S", 0.0)
    monkeypatch.setattr(_sqlite, "_YIELD_S", 0.05)
    busy, waiting = (Database(tmp_path / "notes.sqlite", SCHEMA, durable=False) for _ in range(2))
    begun = threading.Event()

    def first(connection: sqlite3.Connection) -> None:
        _insert("busy", connection)
        begun.set()

    works: list[Callable[[sqlite3.Connection], None]] = [first, *[partial(_insert, "busy")] * 20]
    long = [asyncio.create_task(busy.write(work)) for work in works]
    await asyncio.to_thread(begun.wait, 10)
    await waiting.write(partial(_insert, "waiting"))
    assert not all(task.done() for task in long)
    await asyncio.gather(*long)
    for database in (busy, waiting):
        await database.close()


async def test_no_byte_of_a_forgotten_id_is_left_while_services_keep_the_files_open(tmp_path: Path) -> None:
    """The operator's command opens the files anew, beside the services; a thousand users fill some pages."""

    def opened() -> tuple[SqliteCandidateStore, SqliteUserSignals]:
        return SqliteCandidateStore(f"sqlite://{tmp_path}/c.sqlite"), SqliteUserSignals(f"sqlite://{tmp_path}/s.sqlite")

    def is_left() -> bool:
        return any(ZOE.encode() in path.read_bytes() for path in tmp_path.iterdir())

    serving = opened()
    users = [f"user-{number * 7919 % 1000:05}" for number in range(1000)]
    for start in range(0, len(users), 250):
        some = [*users[start : start + 250], ZOE]
        await serving[0].put_many(dict.fromkeys(some, b"x" * 900), NOON_MS + 10**10)
        await serving[1].apply([Act(user, "follow", "c1", NOON_MS + start) for user in some])
    assert await serving[0].get(ZOE, NOON_MS)
    assert (await serving[1].read(ZOE, NOON_MS)).state.follows
    assert is_left()
    command = opened()
    await command[0].delete(ZOE)
    await command[1].forget(ZOE)
    for store in command:
        await store.close()
    assert not is_left()
    assert await serving[0].get("user-00001", NOON_MS)
    for store in serving:
        await store.close()


def test_a_cache_keeps_the_most_recently_used_values_within_its_size() -> None:
    cache: Cache[str] = Cache(10)
    for key in "abc":
        cache.put(key, key.upper(), 4)
    assert [cache.get(key) for key in "abc"] == [None, "B", "C"]
    cache.get("b")
    cache.put("d", "D", 4)
    assert [cache.get(key) for key in "bcd"] == ["B", None, "D"]
    cache.put("d", "DD", 2)
    cache.drop("b")
    cache.put("e", "E", 8)
    assert [cache.get(key) for key in "bde"] == [None, "DD", "E"]
    cache.put("f", "too large", 11)
    assert [cache.get(key) for key in "def"] == [None, None, None]


class Recorder:
    """Takes calls, one at a time; each returns once `go_on` is set."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None
        self.coalesced = Coalescer(self.call)

    async def call(self, items: Sequence[int]) -> None:
        self.calls.append(list(items))
        self.begun.set()
        await self.go_on.wait()
        if self.error is not None:
            raise self.error


async def test_calls_during_a_running_call_are_merged_into_the_next_in_order() -> None:
    recorder = Recorder()
    first = asyncio.create_task(recorder.coalesced([1, 2]))
    await recorder.begun.wait()
    others = [asyncio.create_task(recorder.coalesced([n])) for n in (3, 4, 5)]
    await asyncio.sleep(0)
    assert recorder.calls == [[1, 2]]
    recorder.go_on.set()
    await asyncio.gather(first, *others)
    assert recorder.calls == [[1, 2], [3, 4, 5]]


async def test_every_caller_of_a_failed_call_gets_its_error_and_the_next_call_is_made() -> None:
    recorder = Recorder()
    recorder.go_on.set()
    recorder.error = Unavailable("down")
    outcomes = await asyncio.gather(recorder.coalesced([1]), recorder.coalesced([2]), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["down", "down"]
    recorder.error = None
    await recorder.coalesced([3])
    assert recorder.calls == [[1, 2], [3]]


async def test_the_items_of_a_cancelled_caller_stay_in_the_call() -> None:
    recorder = Recorder()
    going, staying = (asyncio.create_task(recorder.coalesced([n])) for n in (1, 2))
    await recorder.begun.wait()
    going.cancel()
    recorder.go_on.set()
    await staying
    with pytest.raises(asyncio.CancelledError):
        await going
    assert recorder.calls == [[1, 2]]


async def test_a_merged_call_is_bounded_but_a_single_large_one_is_not_cut() -> None:
    recorder = Recorder()
    recorder.go_on.set()
    sizes = [1, MAX_ITEMS, MAX_ITEMS + 1, 1]
    await asyncio.gather(*(recorder.coalesced([0] * size) for size in sizes))
    assert [len(call) for call in recorder.calls] == sizes
