"""The log of acts and its folding into states: nothing is lost, doubled or brought back, whoever folds or dies."""

import asyncio
import random
import resource
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import Unavailable
from pingfeed.core.signals import STATE_TTL_MS, Act, ActKind, UserState
from pingfeed.local import fold
from pingfeed.local.acts_log import encode_row, replay
from pingfeed.local.waiting import Waiting
from tests.conformance.samples import NOON_MS

KINDS: list[ActKind] = ["follow", "unfollow", "block", "hide", "seen", "engaged", "served"]


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


@pytest.fixture
def folding_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold begins every few applies and takes a few."""
    monkeypatch.setattr(fold, "FOLD_BYTES", 1000)


def _open(folder: Path) -> SqliteUserSignals:
    return SqliteUserSignals(f"sqlite://{folder}/s.sqlite")


def _seen(user: str, number: int) -> Act:
    return Act(user, "seen", f"p{number}", NOON_MS + number)


async def _state(store: SqliteUserSignals, user: str, now_ms: int = NOON_MS) -> UserState:
    return (await store.read(user, now_ms)).state


def _rows(store: SqliteUserSignals, table: str) -> int:
    (count,) = store._database.one(f"SELECT COUNT(*) FROM {table}")
    return int(count)


def _files_with(folder: Path, text: str) -> list[str]:
    return [path.name for path in folder.iterdir() if text.encode() in path.read_bytes()]


def _in_order(acts: list[Act], user: str) -> UserState:
    state = UserState()
    for act in acts:
        if act.user_id == user:
            state.apply(act)
    return state


_steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(
            st.lists(
                st.builds(
                    Act,
                    st.sampled_from(["ann", "bob", "cem"]),
                    st.sampled_from(KINDS),
                    st.sampled_from(["a", "b", "c"]),
                    st.integers(NOON_MS, NOON_MS + 3),
                ),
                min_size=1,
                max_size=5,
            ),
            st.sampled_from(["ann", "bob"]),
            st.just(None),
        ),
    ),
    max_size=40,
)


@given(_steps, st.sampled_from([150, 500, 3000]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_applies_folds_and_reads_by_two_processes_in_any_order_give_the_state_that_acts_give_in_order(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[int, Any]], fold_bytes: int
) -> None:
    """A list of acts is an apply, a name a read, None a kill and a new start."""
    monkeypatch.setattr(fold, "FOLD_BYTES", fold_bytes)
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


@pytest.mark.usefixtures("folding_often")
async def test_a_fold_that_is_killed_between_any_two_transactions_loses_nothing(tmp_path: Path) -> None:
    acts = [_seen(f"user-{n % 7}", n) for n in range(150)]
    for lives in (1, 2, 3, 5, 8, 11):
        folder = tmp_path / str(lives)
        store = _open(folder)
        for number, act in enumerate(acts):
            await store.apply([act])
            if number % lives == lives - 1:
                await store.close()  # Finishes no fold.
                store = _open(folder)
        for user in range(7):
            assert await _state(store, f"user-{user}") == _in_order(acts, f"user-{user}")
        assert lives < 8 or _rows(store, "state") > 3, "longer lives do fold"
        await store.close()


async def test_a_fold_whose_transaction_was_undone_is_given_up(
    store: SqliteUserSignals, other: SqliteUserSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "FOLD_BYTES", 3000)
    acts = [_seen(f"user-{n % 7}", n) for n in range(300)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number, act in enumerate(acts):
        if number % 9 == 4:  # The disk refuses the commit, in whichever step of a fold it is.
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
            try:
                with pytest.raises(Unavailable):
                    await store.apply([act])
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await (store, other)[number % 2].apply([act])
    for user in range(7):
        for one in (store, other):
            assert await _state(one, f"user-{user}") == _in_order(acts, f"user-{user}")


@pytest.mark.usefixtures("folding_often")
async def test_what_another_process_folds_and_removes_is_not_missed(
    store: SqliteUserSignals, other: SqliteUserSignals
) -> None:
    acts = [_seen(f"user-{n % 3}", n) for n in range(400)]
    for number, act in enumerate(acts):
        await store.apply([act])
        if number in (10, 200, 399):
            assert await _state(other, "user-1") == _in_order(acts[: number + 1], "user-1")
    (first,) = store._database.one("SELECT MIN(seq) FROM log")
    assert first > 201, "these rows went between two reads"


@pytest.mark.usefixtures("folding_often")
async def test_the_log_and_a_readers_memory_are_bounded(store: SqliteUserSignals, other: SqliteUserSignals) -> None:
    most = 0
    for n in range(600):
        await (store, other)[n % 3 == 0].apply([_seen(f"user-{n}", n)])
        await store.read("ann", NOON_MS)
        (size,) = store._database.one("SELECT SUM(LENGTH(acts) + 100) FROM log")
        assert len(store._waiting) <= 6 * 1000 // 100
        most = max(most, size)
    assert 1000 < most <= 6 * 1000
    assert _rows(store, "state") > 500


async def test_a_log_that_a_killed_process_left_is_folded_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _open(tmp_path)
    for n in range(40):
        await before.apply([_seen("ann", n)])
    await before.close()
    monkeypatch.setattr(fold, "FOLD_BYTES", 4000)
    after = _open(tmp_path)
    for n in range(40, 60):
        await after.apply([_seen("bob", n)])
    (last,) = after._database.one("SELECT folded_to FROM progress")
    assert last >= 40
    await after.close()


async def test_a_day_of_little_traffic_is_folded_too(store: SqliteUserSignals) -> None:
    await store.apply([_seen("ann", 1)])
    for n in range(4):
        await store.apply([Act("bob", "seen", "p", NOON_MS + DAY_MS + n + 2)])
    assert store._database.one("SELECT user_id FROM state") == ("ann",)
    assert _rows(store, "log") == 4


async def test_two_processes_that_share_a_file_do_not_keep_each_other_from_folding(
    store: SqliteUserSignals, other: SqliteUserSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are for it once a day has passed; a fold takes many steps, and could find the other's between its own."""
    monkeypatch.setattr(fold, "FOLD_BYTES", 30_000)
    dice = random.Random(1)
    for n in range(1200):
        at_ms = NOON_MS + n * (DAY_MS // 100)
        await dice.choice([store, other]).apply([Act(f"u{n % 50}", "seen", f"p{n}", at_ms)])
    (folded_to,) = store._database.one("SELECT folded_to FROM progress")
    assert folded_to > 400


@pytest.mark.usefixtures("folding_often")
async def test_a_state_that_an_act_in_the_log_keeps_alive_stays(store: SqliteUserSignals) -> None:
    for n in range(40):
        await store.apply([_seen("ann", n)])
    last_ms = NOON_MS + 39 + STATE_TTL_MS
    for n in range(300):
        await store.apply([Act("bob", "seen", f"p{n}", NOON_MS + STATE_TTL_MS // 2)])
    await store.apply([Act("ann", "seen", "late", last_ms - 1)])
    assert "p39" in (await _state(store, "ann", last_ms + 5 * DAY_MS)).seen


async def test_forgetting_reaches_the_log_and_other_processes_memory(
    store: SqliteUserSignals, other: SqliteUserSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.apply([_seen("ann", 1), _seen("bob", 1)])
    await other.apply([_seen("ann", 2)])
    assert (await _state(other, "ann")).seen.keys() == {"p1", "p2"}
    await store.forget("ann")
    for one in (store, other):
        assert await _state(one, "ann") == UserState()
        assert (await _state(one, "bob")).seen.keys() == {"p1"}
    await other.apply([_seen("ann", 3)])
    for one in (store, other):
        assert (await _state(one, "ann")).seen.keys() == {"p3"}


@pytest.mark.parametrize("steps", range(1, 14))
async def test_a_fold_that_holds_a_forgotten_users_acts_does_not_bring_them_back(
    store: SqliteUserSignals, other: SqliteUserSignals, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setattr(fold, "FOLD_BYTES", 1500)
    for n in range(20):
        await store.apply([_seen("ann", n), _seen(f"user-{n}", n)])
    for n in range(steps):  # However far the fold is by then.
        await store.apply([_seen("bob", n)])
    await other.forget("ann")
    for n in range(60):
        await store.apply([_seen("bob", 100 + n)])
    for one in (store, other):
        assert await _state(one, "ann") == UserState()
        assert (await _state(one, "user-5")).seen.keys() == {"p5"}
    assert store._database.one("SELECT 1 FROM state WHERE user_id = 'ann'") is None


@pytest.mark.usefixtures("folding_often")
async def test_no_byte_of_a_forgotten_user_is_left_in_the_files(tmp_path: Path, store: SqliteUserSignals) -> None:
    dice = random.Random(7)
    users = [f"user-{dice.getrandbits(64):016x}" for _ in range(120)]
    for n in range(1500):
        user = dice.choice(users)
        pings = tuple(f"ping-{k}" for k in range(dice.randrange(400)))
        await store.apply([_seen(user, n), Act(dice.choice(users), "served", f"r{n}", NOON_MS + n, pings)])
        if n % 10 == 9:
            gone = users.pop(dice.randrange(len(users)))
            await store.forget(gone)
            assert _files_with(tmp_path, gone) == []
            users.append(f"user-{dice.getrandbits(64):016x}")


async def test_a_journal_that_cannot_be_emptied_says_so(
    tmp_path: Path, store: SqliteUserSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pingfeed.local.sqlite._WRITE_WAIT_MS", 20)
    await store.apply([_seen("ann", 1)])
    reader = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM log").fetchall()
    with pytest.raises(Unavailable, match="journal"):
        await store.forget("ann")
    assert await _state(store, "ann") == UserState()
    reader.close()
    await store.forget("ann")


async def test_a_file_of_the_first_format_is_taken_over(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "s.sqlite")
    old.execute("PRAGMA journal_mode=WAL")
    old.execute("CREATE TABLE state (user_id TEXT PRIMARY KEY, written_ms INTEGER NOT NULL, state BLOB NOT NULL)")
    old.execute(
        "CREATE TABLE deleted "
        "(seq INTEGER PRIMARY KEY AUTOINCREMENT, ping_id TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL)"
    )
    for user in ("ann", "bob", "long-gone"):
        old.execute("INSERT INTO state VALUES (?, ?, ?)", (user, NOON_MS, _in_order([_seen(user, 0)], user).encode()))
    old.execute("INSERT INTO deleted (ping_id, at_ms) VALUES ('gone', ?)", (NOON_MS,))
    old.execute("DELETE FROM state WHERE user_id = 'long-gone'")
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    opened = await asyncio.gather(*(asyncio.to_thread(_open, tmp_path) for _ in range(3)))
    await opened[0].apply([_seen("ann", 1)])
    for store in opened:
        read = await store.read("ann", NOON_MS)
        assert read.state.seen.keys() == {"p0", "p1"}
        assert read.deleted == {"gone"}
        assert (await _state(store, "bob")).seen.keys() == {"p0"}
    await opened[0].forget("ann")
    for store in opened:
        await store.close()
    assert _files_with(tmp_path, "long-gone") == [], "the free pages of the old file went too"


async def test_a_damaged_row_of_the_log_costs_itself_alone(
    tmp_path: Path, store: SqliteUserSignals, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(4):
        await store.apply([_seen("ann", n)])
    connection = sqlite3.connect(tmp_path / "s.sqlite")
    with connection:
        connection.execute("UPDATE log SET acts = x'c1' WHERE seq = 1")
        connection.execute("UPDATE log SET acts = zeroblob(LENGTH(acts)) WHERE seq = 3")
        connection.execute("UPDATE log SET acts = CAST(REPLACE(acts, 'seen', 'sawn') AS BLOB) WHERE seq = 4")
    connection.close()
    assert (await _state(store, "ann")).seen.keys() == {"p1"}
    assert "damaged" in caplog.text


async def test_applies_that_wait_together_are_one_transaction(store: SqliteUserSignals) -> None:
    statements: list[str] = []
    await store.check()
    store._database._writer.set_trace_callback(statements.append)
    await asyncio.gather(*(store.apply([_seen("ann", n)]) for n in range(50)))
    assert statements.count("COMMIT") <= 2
    assert len((await _state(store, "ann")).seen) == 50


def test_a_like_is_one_entry_of_the_log_and_two_acts_again() -> None:
    acts = [
        Act("ann", "seen", "p", NOON_MS),
        Act("ann", "engaged", "p", NOON_MS),
        Act("ann", "engaged", "q", NOON_MS),
        Act("ann", "served", "r", NOON_MS, ("p", "q")),
    ]
    waiting = Waiting()
    waiting.take(1, encode_row(acts))
    entries = waiting.of("ann")
    assert [entry.kind for entry in entries] == ["both", "engaged", "served"]
    assert replay("ann", 0, UserState(), entries) == (NOON_MS, _in_order(acts, "ann"))


_COLLIDING = ("plumless", "buckeroo")
"""Two names of one CRC-32."""
_calls = st.lists(st.lists(st.sampled_from([*_COLLIDING, "ann", ""]), max_size=6), max_size=12)


@given(_calls, st.integers(0, 13))
def test_every_users_acts_are_found_in_order_also_of_users_with_one_crc(rows: list[list[str]], folded_to: int) -> None:
    assert crc32(_COLLIDING[0].encode()) == crc32(_COLLIDING[1].encode())
    waiting = Waiting()
    for seq, users in enumerate(rows, 1):
        waiting.take(seq, encode_row([_seen(user, 100 * seq + n) for n, user in enumerate(users) if user]))
    waiting.drop(folded_to)
    expected: dict[str, list[str]] = {}
    for seq, users in enumerate(rows, 1):
        for n, user in enumerate(users):
            if user and seq > folded_to:
                expected.setdefault(user, []).append(f"p{100 * seq + n}")
    places, begins = waiting.by_crc()
    grouped = [waiting.by_user(places[begin:end]) for begin, end in pairwise(begins.tolist())]
    for found in (
        {user: waiting.of(user) for user in (*_COLLIDING, "ann") if waiting.of(user)},
        {user: entries for group in grouped for user, entries in group.items()},
    ):
        assert {user: [entry.target for entry in entries] for user, entries in found.items()} == expected
