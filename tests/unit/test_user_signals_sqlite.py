"""Sessions and relations in SQLite: nothing is lost, doubled or brought back, whoever writes, dies or forgets."""

import asyncio
import random
import resource
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pingfeed.adapters import _sqlite, user_signals_sqlite
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.errors import Unavailable
from pingfeed.core.signals import MAX_BLOCKS, MAX_SEEN, STATE_TTL_MS, Act, ActKind, UserState
from tests.conformance.samples import NOON_MS

KINDS: list[ActKind] = ["follow", "block", "hide", "seen", "engaged", "served", "unfollow"]
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteUserSignals]:
    opened = _open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def other(tmp_path: Path, store: SqliteUserSignals) -> AsyncIterator[SqliteUserSignals]:
    """Another process's view of the same file."""
    opened = _open(tmp_path)
    yield opened
    await opened.close()


def _open(folder: Path) -> SqliteUserSignals:
    return SqliteUserSignals(f"sqlite://{folder}/s.sqlite")


def _seen(user: str, number: int) -> Act:
    return Act(user, "seen", f"p{number}", NOON_MS + number)


async def _state(store: SqliteUserSignals, user: str, now_ms: int = NOON_MS) -> UserState:
    return (await store.read(user, now_ms)).state


def _run(folder: Path, *statements: str) -> list[Any]:
    """The rows that the last statement gives."""
    connection = sqlite3.connect(folder / "s.sqlite")
    with connection:
        rows = [connection.execute(statement).fetchall() for statement in statements][-1]
    connection.close()
    return rows


def _files_with(folder: Path, text: str) -> list[str]:
    return [path.name for path in folder.iterdir() if text.encode() in path.read_bytes()]


def _in_order(acts: list[Act], user: str) -> UserState:
    state = UserState()
    for act in acts:
        if act.user_id == user:
            state.apply(act)
    return state


_acts = st.lists(
    st.builds(
        Act,
        st.sampled_from(["ann", "bob", "cem"]),
        st.sampled_from(KINDS),
        st.sampled_from(["a", "b", "c"]),
        st.integers(NOON_MS, NOON_MS + 3),
    ),
    min_size=1,
    max_size=5,
)
_steps = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(_acts, st.sampled_from(["ann", "bob"]), st.none())), max_size=40
)


@given(_steps)
@settings(max_examples=60, deadline=None)
def test_applies_and_reads_by_two_processes_in_any_order_give_the_state_that_acts_give_in_order(
    steps: list[tuple[int, Any]],
) -> None:
    """A list of acts is an apply, a name a read, None a kill and a new start."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_play(Path(folder), steps))


async def _play(folder: Path, steps: list[tuple[int, Any]]) -> None:
    stores = [_open(folder), _open(folder)]
    applied: list[Act] = []
    for which, step in steps:
        if step is None:
            await stores[which].close()
            stores[which] = _open(folder)
        elif isinstance(step, str):
            assert await _state(stores[which], step) == _in_order(applied, step)
        else:
            await stores[which].apply(step)
            applied += step
    for store in stores:
        for user in ("ann", "bob", "cem"):
            assert await _state(store, user) == _in_order(applied, user)
        await store.close()


async def test_an_apply_that_the_disk_refuses_is_in_no_later_state(
    store: SqliteUserSignals, other: SqliteUserSignals
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(6):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        try:
            with pytest.raises(Unavailable):
                await store.apply([_seen("ann", 100 + number), Act("ann", "block", "undone", NOON_MS)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await (store, other)[number % 2].apply([_seen("ann", number), Act("ann", "block", f"c{number}", NOON_MS)])
        for one in (store, other):
            state = await _state(one, "ann")
            assert state.seen.keys() == {f"p{n}" for n in range(number + 1)}
            assert state.blocks.keys() == {f"c{n}" for n in range(number + 1)}


async def test_a_busy_user_is_decoded_once_and_a_write_by_another_process_is_noticed(
    store: SqliteUserSignals, other: SqliteUserSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = user_signals_sqlite._decoded

    def counting(user_id: str, data: bytes) -> UserState:
        decoded.append(user_id)
        return decode(user_id, data)

    monkeypatch.setattr(user_signals_sqlite, "_decoded", counting)
    for number in range(10):
        await store.apply([_seen("ann", number)])
        assert len((await _state(store, "ann")).seen) == number + 1
    assert decoded == []
    await other.apply([_seen("ann", 10)])
    assert len((await _state(store, "ann")).seen) == 11
    assert decoded == ["ann", "ann"], "by each process once"


async def test_a_reader_asks_only_for_relations_that_changed(
    store: SqliteUserSignals, other: SqliteUserSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.apply([Act("ann", "block", f"c{n}", NOON_MS) for n in range(50)])
    assert len((await _state(other, "ann")).blocks) == 50
    rows: list[Any] = []
    query = other._database.all

    def counting(sql: str, *values: object) -> list[Any]:
        rows.extend(found := query(sql, *values))
        return found

    monkeypatch.setattr(other._database, "all", counting)
    await store.apply([_seen("ann", 1), Act("ann", "unfollow", "c1", NOON_MS)])
    assert (await _state(other, "ann")).follows == {"c1": -NOON_MS}
    assert rows == [("follow", "c1", -NOON_MS)]


async def test_a_relation_row_holds_the_order_key_and_an_older_act_leaves_it(
    tmp_path: Path, store: SqliteUserSignals
) -> None:
    for kind, at_ms in (("follow", NOON_MS), ("unfollow", NOON_MS + 5), ("follow", NOON_MS + 4)):
        await store.apply([Act("ann", kind, "c", at_ms)])  # type: ignore[arg-type]
    sql = "SELECT kind, target, active, timestamp, received_ms, seq, event_id FROM relation"
    assert _run(tmp_path, sql) == [("follow", "c", 0, NOON_MS + 5, NOON_MS + 5, 0, "")]


@pytest.mark.parametrize("at_once", [1, 7, 700])
async def test_states_are_bounded_and_the_newest_relations_stay_for_every_reader(
    store: SqliteUserSignals, other: SqliteUserSignals, at_once: int
) -> None:
    acts = [Act("ann", "block", f"c{n}", NOON_MS + n) for n in range(MAX_BLOCKS - 3)]
    await store.apply([*acts, *(_seen("ann", n) for n in range(MAX_SEEN + 100))])
    await _state(other, "ann")
    more = [Act("ann", "block", f"c{n}", NOON_MS + n) for n in range(MAX_BLOCKS - 3, MAX_BLOCKS + 11)]
    for start in range(0, len(more), at_once):
        await store.apply(more[start : start + at_once])
    for one in (store, other):
        state = await _state(one, "ann")
        assert MAX_BLOCKS * 3 // 4 < len(state.blocks) <= MAX_BLOCKS
        assert state.blocks.keys() == {f"c{n}" for n in range(MAX_BLOCKS + 11 - len(state.blocks), MAX_BLOCKS + 11)}
        assert len(state.seen) <= MAX_SEEN


async def test_decoded_states_in_memory_are_bounded(store: SqliteUserSignals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store._sessions, "_limit", 500)
    monkeypatch.setattr(store._relations, "_limit", 500)
    for n in range(50):
        await store.apply([_seen(f"user-{n}", n), Act(f"user-{n}", "block", "c", NOON_MS)])
        await store.read(f"user-{n}", NOON_MS)
    assert 1 < len(store._sessions._held) < 30
    assert 1 < len(store._relations._held) < 30
    assert (await _state(store, "user-0")).blocks == {"c": NOON_MS}


async def test_expired_rows_leave_the_file_with_their_relations_and_live_ones_stay(
    tmp_path: Path, store: SqliteUserSignals
) -> None:
    await store.apply([Act(f"user-{n}", "block", "c", NOON_MS) for n in range(100)])
    await store.apply([Act("", "deleted", "p", NOON_MS), Act("ann", "hide", "p", NOON_MS + 1)])
    for n in range(70):
        await store.apply([Act("new", "seen", f"p{n}", NOON_MS + STATE_TTL_MS)])
    assert _run(tmp_path, "SELECT user_id FROM session ORDER BY 1") == [("ann",), ("new",)]
    assert _run(tmp_path, "SELECT kind, target FROM relation") == [("hide", "p")]
    assert _run(tmp_path, "SELECT * FROM deleted") == []


async def test_applies_that_wait_together_write_a_user_once(store: SqliteUserSignals) -> None:
    await store.check()
    statements: list[str] = []
    store._database._writer.set_trace_callback(statements.append)
    await asyncio.gather(*(store.apply([_seen("ann", n)]) for n in range(50)))
    assert sum(statement.startswith("INSERT INTO session") for statement in statements) == 1
    assert len((await _state(store, "ann")).seen) == 50


async def test_a_large_apply_holds_the_write_lock_for_a_few_users_at_a_time(store: SqliteUserSignals) -> None:
    await store.check()
    statements: list[str] = []
    store._database._writer.set_trace_callback(statements.append)
    await store.apply([_seen(f"user-{n}", n) for n in range(200)])
    assert statements.count("COMMIT") == 4


async def test_a_damaged_state_starts_over_and_costs_no_relation(
    tmp_path: Path, store: SqliteUserSignals, other: SqliteUserSignals, caplog: pytest.LogCaptureFixture
) -> None:
    await store.apply([_seen("ann", 1), Act("ann", "hide", "q", NOON_MS), _seen("bob", 1)])
    _run(tmp_path, "UPDATE session SET state = x'c1ff' WHERE user_id = 'ann'")
    assert await _state(other, "ann") == UserState(hides={"q": NOON_MS})
    assert "damaged" in caplog.text
    await other.apply([_seen("ann", 2)])
    assert (await _state(store, "ann")).seen.keys() == {"p2"}
    assert (await _state(other, "bob")).seen.keys() == {"p1"}


async def test_forgetting_reaches_other_processes_memory(store: SqliteUserSignals, other: SqliteUserSignals) -> None:
    await store.apply([_seen("ann", 1), _seen("bob", 1), Act("ann", "block", "c", NOON_MS)])
    await other.apply([_seen("ann", 2)])
    assert (await _state(other, "ann")).blocks
    await store.forget("ann")
    for one in (store, other):
        assert await _state(one, "ann") == UserState()
        assert (await _state(one, "bob")).seen.keys() == {"p1"}
    await other.apply([_seen("ann", 3)])
    for one in (store, other):
        assert await _state(one, "ann") == UserState(seen={"p3": NOON_MS + 3})


async def test_no_byte_of_a_forgotten_user_is_left_in_the_files(tmp_path: Path, store: SqliteUserSignals) -> None:
    rng = random.Random(7)
    users = [f"user-{rng.getrandbits(64):016x}" for _ in range(120)]
    for n in range(400):
        user = rng.choice(users)
        pings = tuple(f"ping-{k}" for k in range(rng.randrange(400)))
        await store.apply([_seen(user, n), Act(rng.choice(users), "served", f"r{n}", NOON_MS + n, pings)])
        if n % 10 == 9:
            gone = users.pop(rng.randrange(len(users)))
            await store.forget(gone)
            assert _files_with(tmp_path, gone) == []
            users.append(f"user-{rng.getrandbits(64):016x}")


async def test_a_journal_that_cannot_be_emptied_is_an_error(
    tmp_path: Path, store: SqliteUserSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite, "_WRITE_WAIT_MS", 20)
    await store.apply([_seen("ann", 1)])
    reader = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM session").fetchall()
    with pytest.raises(Unavailable, match="journal"):
        await store.forget("ann")
    assert await _state(store, "ann") == UserState()
    reader.close()
    await store.forget("ann")


def _old_file(folder: Path, *changes: str) -> list[Act]:
    """A file that the program of format 2 wrote, most acts folded into states, and these acts."""
    connection = sqlite3.connect(folder / "s.sqlite")
    connection.executescript((GOLDEN / "signals_format2.sql").read_text())
    for change in changes:
        connection.execute(change)
    connection.commit()
    connection.close()
    return [
        Act(("ann", "bob", "cem")[n % 3], kind, f"t{n // 6}", NOON_MS + n, ("p1", "p2") if kind == "served" else ())
        for n in range(42)
        for kind in (("seen", "engaged") if KINDS[n // 3 % 7] == "engaged" else (KINDS[n // 3 % 7],))
    ]


async def test_a_file_of_format_2_is_upgraded_with_nothing_lost(tmp_path: Path) -> None:
    acts = [*_old_file(tmp_path), _seen("ann", 100)]
    opened = await asyncio.gather(*(asyncio.to_thread(_open, tmp_path) for _ in range(3)))
    await opened[0].apply(acts[-1:])
    for store in opened:
        for user in ("ann", "bob", "cem"):
            assert await _state(store, user) == _in_order(acts, user)
        assert (await store.read("ann", NOON_MS)).deleted == {"gone"}
        assert await _state(store, "long-gone") == UserState()
        await store.close()
    tables = {name for (name,) in _run(tmp_path, "SELECT name FROM sqlite_schema")}
    assert not tables & {"state", "log", "progress"}


async def test_a_file_of_format_1_is_upgraded_and_its_free_pages_erased(tmp_path: Path) -> None:
    _old_file(tmp_path, "DROP TABLE log", "DROP TABLE progress", "PRAGMA user_version = 1", "PRAGMA secure_delete = 0")
    state = _in_order([_seen("dan", 0), Act("dan", "block", "c", NOON_MS)], "dan")
    connection = sqlite3.connect(tmp_path / "s.sqlite")
    connection.execute("PRAGMA secure_delete = 0")
    connection.execute("INSERT INTO state VALUES ('dan', ?, ?)", (NOON_MS, state.encode()))
    connection.execute("INSERT INTO state VALUES ('once-there', 0, x'90')")
    connection.execute("DELETE FROM state WHERE user_id = 'once-there'")
    connection.commit()
    connection.close()
    store = _open(tmp_path)
    assert await _state(store, "dan") == state
    await store.close()
    assert _files_with(tmp_path, "once-there") == []


async def test_a_damaged_part_of_an_old_log_costs_itself_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _old_file(
        tmp_path,
        "UPDATE log SET acts = x'c1' WHERE seq = 31",
        "UPDATE log SET acts = zeroblob(LENGTH(acts)) WHERE seq = 32",
        "UPDATE log SET acts = CAST(REPLACE(acts, 'unfollow', 'unfellow') AS BLOB) WHERE seq = 41",
    )
    store = _open(tmp_path)
    assert caplog.text.count("damaged") == 3
    assert "t6" not in (await _state(store, "ann")).follows
    assert (await _state(store, "bob")).follows["t6"] < 0
    await store.close()


async def test_an_upgrade_that_is_interrupted_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts = _old_file(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(user_signals_sqlite, "old_acts", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _open(tmp_path)
    store = _open(tmp_path)
    assert await _state(store, "ann") == _in_order(acts, "ann")
    await store.close()
