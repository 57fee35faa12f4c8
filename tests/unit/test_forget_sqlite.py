"""Whoever is forgotten leaves no bytes in an SQLite file, nor in the log beside it while a service has both open."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pingfeed.adapters.candidates_sqlite import SqliteCandidateStore
from pingfeed.adapters.user_signals_sqlite import SqliteUserSignals
from pingfeed.core.signals import Act
from tests.unit.forget_world import ZOE

NOW_MS = 1_795_348_800_000
FAR_MS = NOW_MS + 10**10


def _bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[tuple[SqliteCandidateStore, SqliteUserSignals]]:
    """The stores as services hold them, with some thousand users."""
    candidates = SqliteCandidateStore(f"sqlite://{tmp_path}/c.sqlite")
    signals = SqliteUserSignals(f"sqlite://{tmp_path}/s.sqlite")
    people = [f"user-{number * 7919 % 3000:05}" for number in range(3000)]
    for start in range(0, len(people), 500):
        some = [*people[start : start + 500], ZOE]
        await candidates.put_many(dict.fromkeys(some, b"x" * 900), FAR_MS)
        await signals.apply([Act(user, "follow", "c1", NOW_MS + start) for user in some])
    yield candidates, signals
    await candidates.close()
    await signals.close()


async def test_no_byte_of_the_id_is_left_while_the_services_run(
    tmp_path: Path, serving: tuple[SqliteCandidateStore, SqliteUserSignals]
) -> None:
    assert await serving[0].get(ZOE, NOW_MS)
    assert (await serving[1].read(ZOE, NOW_MS)).state.follows
    assert ZOE.encode() in _bytes(tmp_path)
    candidates = SqliteCandidateStore(f"sqlite://{tmp_path}/c.sqlite")
    signals = SqliteUserSignals(f"sqlite://{tmp_path}/s.sqlite")
    await candidates.delete(ZOE)
    await signals.forget(ZOE)
    await candidates.close()
    await signals.close()
    assert ZOE.encode() not in _bytes(tmp_path)
    assert await serving[0].get("user-00001", NOW_MS)
