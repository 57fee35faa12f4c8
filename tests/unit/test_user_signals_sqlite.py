"""Sessions and relations in SQLite: nothing is lost, duplicated or restored by writes, kills and deletions."""

import asyncio
import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pingfeed.adapters import _sqlite, user_signals_sqlite
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals as Store
from pingfeed.core.errors import Unavailable
from pingfeed.core.signals import STATE_TTL_MS, Act, ActKind, Profile, Session, UserState, seen_key
from tests.conformance.samples import NOON_MS, disk_full_above, sql, statements_of
from tests.unit.whole_state import WholeState

KINDS: list[ActKind] = [
    *("follow", "unfollow", "block", "unblock", "hide", "unhide", "mute", "unmute"),
    *("seen", "engaged", "like", "unlike", "served"),
]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = _open(tmp_path)
    yield opened
    await opened.close()


other = store
"""Another process's view of the same file."""


def _open(folder: Path) -> Store:
    return Store(f"sqlite://{folder}/s.sqlite")


def _seen(user: str, number: int) -> Act:
    return Act(user, "seen", f"p{number}", NOON_MS + number)


async def _state(store: Store, user: str, now_ms: int = NOON_MS) -> UserState:
    return (await store.read(user, now_ms)).state


def _files_with(folder: Path, text: str) -> list[str]:
    return [path.name for path in folder.iterdir() if text.encode() in path.read_bytes()]


def _in_order(acts: list[Act], user: str) -> UserState:
    state = WholeState()
    for act in acts:
        if act.user_id == user:
            state.apply(act)
    return state.at(NOON_MS)


def _seen_by(state: UserState) -> set[int]:
    return set(state.session.seen)


def _keys(*numbers: int) -> set[int]:
    return {seen_key(f"p{n}") for n in numbers}


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
def test_two_processes_in_any_order_give_the_state_of_the_acts_in_order(steps: list[tuple[int, Any]]) -> None:
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


async def test_an_apply_that_failed_on_a_full_disk_is_in_no_later_state(store: Store, other: Store) -> None:
    for number in range(6):
        with disk_full_above(1), pytest.raises(Unavailable):
            await store.apply([_seen("ann", 100 + number), Act("ann", "block", "undone", NOON_MS)])
        await (store, other)[number % 2].apply([_seen("ann", number), Act("ann", "block", f"c{number}", NOON_MS)])
        for one in (store, other):
            state = await _state(one, "ann")
            assert _seen_by(state) == _keys(*range(number + 1))
            assert state.blocks == {f"c{n}" for n in range(number + 1)}


async def test_an_unchanged_state_is_decoded_once(store: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Mock(wraps=user_signals_sqlite._decoded)
    monkeypatch.setattr(user_signals_sqlite, "_decoded", decode)
    for number in range(10):
        await store.apply([_seen("ann", number)])
        assert len(_seen_by(await _state(store, "ann"))) == number + 1
    sessions = [call.args[1] for call in decode.call_args_list if call.args[1]]
    assert sessions == []
    await other.apply([_seen("ann", 10)])
    assert len(_seen_by(await _state(store, "ann"))) == 11
    sessions = [call.args[1] for call in decode.call_args_list if call.args[1]]
    assert len(sessions) == 2, "once by each process"


async def test_a_read_loads_new_relations_only(store: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_a_relation_row_holds_the_order_key_of_the_newest_act(tmp_path: Path, store: Store) -> None:
    for kind, at_ms in (("follow", NOON_MS), ("unfollow", NOON_MS + 5), ("follow", NOON_MS + 4)):
        await store.apply([Act("ann", kind, "c", at_ms)])  # type: ignore[arg-type]
    columns = "SELECT kind, target, active, timestamp, received_ms, seq, event_id FROM relation"
    assert sql(tmp_path / "s.sqlite", columns) == [("follow", "c", 0, NOON_MS + 5, NOON_MS + 5, 0, "")]


async def test_decoded_states_in_memory_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store._sessions, "_limit", 500)
    monkeypatch.setattr(store._relations, "_limit", 500)
    for n in range(50):
        await store.apply([_seen(f"user-{n}", n), Act(f"user-{n}", "block", "c", NOON_MS)])
        await store.read(f"user-{n}", NOON_MS)
    assert 1 < len(store._sessions._held) < 30
    assert 1 < len(store._relations._held) < 30
    assert (await _state(store, "user-0")).blocks == {"c"}


async def test_expired_sessions_leave_the_file_and_relations_and_profiles_stay(tmp_path: Path, store: Store) -> None:
    await store.apply([_seen(f"user-{n}", n) for n in range(100)])
    profile = Profile({"country": (1, "DE")})
    await store.apply([Act("ann", "block", "c", NOON_MS), Act("bob", "profile", "", NOON_MS, profile=profile)])
    await store.apply([_seen("ann", 1), _seen("bob", 1), Act("", "deleted", "p", NOON_MS)])
    for n in range(140):
        await store.apply([Act("new", "seen", f"p{n}", NOON_MS + 1000 + STATE_TTL_MS)])
    left = sql(tmp_path / "s.sqlite", "SELECT user_id, LENGTH(state) > 0 FROM session ORDER BY 1")
    assert left == [("ann", 0), ("bob", 0), ("new", 1)]
    assert sql(tmp_path / "s.sqlite", "SELECT kind, target FROM relation") == [("block", "c")]
    assert sql(tmp_path / "s.sqlite", "SELECT * FROM deleted") == []
    late = await _state(store, "ann", NOON_MS + 2 * STATE_TTL_MS)
    assert (late.blocks, late.session) == ({"c"}, Session())


async def test_applies_that_wait_together_write_a_user_once(store: Store) -> None:
    statements = await statements_of(store._database)
    await asyncio.gather(*(store.apply([_seen("ann", n)]) for n in range(50)))
    assert sum(statement.startswith("INSERT INTO session") for statement in statements) == 1
    assert len(_seen_by(await _state(store, "ann"))) == 50


async def test_a_large_apply_is_several_transactions(store: Store) -> None:
    statements = await statements_of(store._database)
    await store.apply([_seen(f"user-{n}", n) for n in range(200)])
    assert statements.count("COMMIT") == 4


async def test_a_damaged_state_starts_over_and_keeps_its_relations(
    tmp_path: Path, store: Store, other: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await store.apply([_seen("ann", 1), Act("ann", "hide", "q", NOON_MS), _seen("bob", 1)])
    sql(tmp_path / "s.sqlite", "UPDATE session SET state = x'c1ff' WHERE user_id = 'ann'")
    await store.mark_complete()
    damaged = await other.read("ann", NOON_MS)
    assert (damaged.state, damaged.complete) == (UserState(hides={"q"}), False)
    assert "damaged" in caplog.text
    await other.apply([_seen("ann", 2)])
    assert (await store.read("ann", NOON_MS)).complete
    assert _seen_by(await _state(store, "ann")) == _keys(2)
    assert _seen_by(await _state(other, "bob")) == _keys(1)


async def test_no_byte_of_a_forgotten_user_is_left_in_the_files(tmp_path: Path, store: Store) -> None:
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


async def test_a_busy_journal_is_unavailable(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
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


FORMAT_3 = (
    "CREATE TABLE session (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL UNIQUE, "
    "written_ms INTEGER NOT NULL, version INTEGER NOT NULL, changed INTEGER NOT NULL, "
    "trimmed INTEGER NOT NULL DEFAULT 0, state BLOB NOT NULL)",
    "CREATE TABLE relation (user INTEGER, kind TEXT, target TEXT, active INTEGER NOT NULL, timestamp INTEGER NOT NULL, "
    "received_ms INTEGER NOT NULL, seq INTEGER NOT NULL DEFAULT 0, event_id TEXT NOT NULL DEFAULT '', "
    "change INTEGER NOT NULL, PRIMARY KEY (user, kind, target)) WITHOUT ROWID",
    "CREATE TABLE deleted (seq INTEGER PRIMARY KEY AUTOINCREMENT, ping_id TEXT NOT NULL UNIQUE, at_ms INTEGER)",
    f"INSERT INTO session VALUES (1, 'ann', {NOON_MS}, 5, 1, 0, x'9600')",
    f"INSERT INTO relation VALUES (1, 'block', 'c', 1, {NOON_MS}, {NOON_MS}, 0, '', 1)",
    "PRAGMA user_version = 3",
)
FORMAT_2 = (
    "CREATE TABLE state (user_id TEXT PRIMARY KEY, written_ms INTEGER NOT NULL, state BLOB NOT NULL)",
    "CREATE TABLE log (seq INTEGER PRIMARY KEY, acts BLOB NOT NULL)",
    f"INSERT INTO state VALUES ('ann', {NOON_MS}, x'90')",
    "PRAGMA user_version = 2",
)


@pytest.mark.parametrize(("old", "blocks"), [(FORMAT_3, {"c"}), (FORMAT_2, set())])
async def test_a_file_of_an_earlier_format_keeps_its_relation_rows_and_waits_to_be_rebuilt(
    old: tuple[str, ...], blocks: set[str], tmp_path: Path
) -> None:
    sql(tmp_path / "s.sqlite", *old)
    stores = await asyncio.gather(*(asyncio.to_thread(_open, tmp_path) for _ in range(3)))
    for store in stores:
        read = await store.read("ann", NOON_MS)
        assert (read.state, read.complete) == (UserState(blocks=blocks), False)
    await stores[0].apply([_seen("ann", 1), Act("ann", "block", "d", NOON_MS)])
    await stores[1].mark_complete()
    for store in stores:
        read = await store.read("ann", NOON_MS)
        assert (read.state.blocks, _seen_by(read.state), read.complete) == (blocks | {"d"}, _keys(1), True)
        await store.close()
    tables = {name for (name,) in sql(tmp_path / "s.sqlite", "SELECT name FROM sqlite_schema")}
    assert not tables & {"state", "log", "progress"}
