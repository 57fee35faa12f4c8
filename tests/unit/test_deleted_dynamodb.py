"""The list of deleted pings: several writers, and readers that have less time than its parts take."""

import asyncio
import functools
import gc
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pingfeed.adapters._dynamodb.deleted import HEAD, PART
from pingfeed.adapters._dynamodb.items import item_bytes
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals as Store
from pingfeed.core.errors import FormatError, Unavailable
from pingfeed.core.signals import DELETED_TTL_MS, MAX_DELETED, Act
from tests.conformance.samples import NOON_MS
from tests.unit.fake_dynamodb import FakeDynamodb, Hanging, Item, Work, after, done, partial, silent

CALL = 20
"""Turns of the event loop that a slow call takes. A read of head and parts makes two, and some turns of its own."""
PATIENCE = 30
PARTS = 3
PINGS = {f"p{number}" for number in range(PARTS * PART)}


@pytest.fixture
async def reader(fake: FakeDynamodb, other: Store, signals: Store) -> Store:
    """Before its first read of a list of three parts, which another process has written."""
    await other.apply([Act("", "deleted", ping_id, NOON_MS) for ping_id in sorted(PINGS)])
    await other.mark_complete()
    fake.calls.clear()
    return signals


@pytest.fixture
async def unhandled() -> AsyncIterator[list[dict[str, Any]]]:
    """What the event loop reports, such as an exception that was never retrieved."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    yield reports
    asyncio.get_running_loop().set_exception_handler(None)


def deletion(number: int, at_ms: int = NOON_MS) -> Act:
    return Act("", "deleted", f"p{number}", at_ms)


async def deleted(signals: Store, now_ms: int = NOON_MS) -> set[str]:
    return set((await signals.read("ann", now_ms)).deleted)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def slow(work: Work) -> dict[str, Any]:
    await turns(CALL)
    return work()


async def hasty(signals: Store) -> set[str] | None:
    """A read by somebody who leaves after `PATIENCE` turns; None if that was too early."""
    read = asyncio.create_task(deleted(signals))
    await turns(PATIENCE)
    if read.done():
        return read.result()
    read.cancel()
    await asyncio.wait([read])
    return None


def fetched(fake: FakeDynamodb) -> Counter[str]:
    """How often each part was asked for."""
    calls = [call["RequestItems"]["signals"]["Keys"] for operation, call in fake.calls if operation == "batch_get_item"]
    keys = [key["k"]["S"] for call in calls for key in call]
    return Counter(key for key in keys if key.startswith(HEAD) and key != HEAD)


async def test_readers_that_all_leave_early_catch_up_eventually(fake: FakeDynamodb, reader: Store) -> None:
    fake.then("batch_get_item", *[slow] * 40)
    assert await hasty(reader) is None
    assert PINGS in [await hasty(reader) for _ in range(10)]
    assert sorted(fetched(fake).values()) == [1] * PARTS


async def test_readers_at_one_time_fetch_each_part_once(fake: FakeDynamodb, reader: Store) -> None:
    async def later() -> set[str]:
        await turns(CALL // 2)
        return await deleted(reader)

    fake.then("batch_get_item", *[slow] * 10)
    first, second = await asyncio.gather(deleted(reader), later())
    assert first == second == PINGS
    assert sorted(fetched(fake).values()) == [1] * PARTS


async def test_after_a_check_the_first_read_needs_no_part(fake: FakeDynamodb, reader: Store) -> None:
    await reader.check()
    assert sorted(fetched(fake).values()) == [1] * PARTS
    fake.calls.clear()
    assert await deleted(reader) == PINGS
    assert fake.count("batch_get_item") == 1
    assert not fetched(fake)


async def test_an_error_reaches_waiting_readers_and_the_next_read_retries(fake: FakeDynamodb, reader: Store) -> None:
    fake.then("batch_get_item", done, silent)
    outcomes = await asyncio.gather(deleted(reader), deleted(reader), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    assert await deleted(reader) == PINGS


async def test_parts_that_came_before_an_error_are_kept(fake: FakeDynamodb, reader: Store) -> None:
    fake.then("batch_get_item", done, partial(1), silent)
    with pytest.raises(Unavailable):
        await deleted(reader)
    fake.calls.clear()
    assert await deleted(reader) == PINGS
    assert len(fetched(fake)) == PARTS - 1


async def test_an_error_without_waiting_readers_is_not_reported(
    fake: FakeDynamodb, reader: Store, unhandled: list[dict[str, Any]]
) -> None:
    async def late(work: Work) -> dict[str, Any]:
        await turns(CALL)
        return await silent(work)

    fake.then("batch_get_item", slow, late)
    assert await hasty(reader) is None
    await turns(2 * CALL)
    assert await deleted(reader) == PINGS
    gc.collect()
    await turns(1)
    assert unhandled == []


async def test_close_cancels_the_fetch_and_fails_waiting_readers(
    fake: FakeDynamodb, reader: Store, unhandled: list[dict[str, Any]]
) -> None:
    """Even though the connection stays open for the writer."""
    fake.then("batch_get_item", done, Hanging())
    read = asyncio.create_task(deleted(reader))
    await turns(PATIENCE)
    assert sum(fetched(fake).values()) == PARTS
    await reader.close()
    await turns(3)
    assert read.done()
    with pytest.raises(Unavailable, match="was closed"):
        await read
    gc.collect()
    await turns(1)
    assert unhandled == []


async def test_a_deletion_shows_while_an_older_list_is_read(fake: FakeDynamodb, reader: Store, other: Store) -> None:
    fake.then("batch_get_item", slow, slow)
    early = asyncio.create_task(deleted(reader))
    await turns(PATIENCE)
    await other.apply([Act("", "deleted", "new", NOON_MS)])
    assert await deleted(reader) >= {"new"}
    assert await early == PINGS
    assert await deleted(reader) >= {"new"}


async def test_deletions_that_are_known_are_not_read_again(fake: FakeDynamodb, signals: Store, other: Store) -> None:
    await signals.apply([deletion(n) for n in range(2500)])
    await signals.mark_complete()
    assert len(await deleted(other)) == 2500
    fake.calls.clear()
    for _ in range(3):
        assert len(await deleted(other)) == 2500
    keys = [key["k"]["S"] for _, call in fake.calls for key in call["RequestItems"]["signals"]["Keys"]]
    assert keys == ["s/ann", "s/ann/session", "s/ann/seen", HEAD] * 3
    await signals.apply([deletion(2500)])
    fake.calls.clear()
    assert len(await deleted(other)) == 2501
    sizes = [len(call["RequestItems"]["signals"]["Keys"]) for _, call in fake.calls]
    assert sizes == [4, 1]


async def test_the_head_stays_small(fake: FakeDynamodb, signals: Store) -> None:
    """It is read with every feed; four KiB are one unit."""
    for start in range(0, 3 * MAX_DELETED, 500):
        await signals.apply([deletion(n) for n in range(start, start + 500)])
    assert await deleted(signals) == {f"p{n}" for n in range(2 * MAX_DELETED, 3 * MAX_DELETED)}
    assert item_bytes(fake.tables["signals"][HEAD]) < 200


async def test_processes_do_not_undo_each_others_deletions(fake: FakeDynamodb, signals: Store, other: Store) -> None:
    for number in range(0, 10, 2):
        acts = [deletion(number + 1)]
        fake.then("put_item", after(functools.partial(other.apply, acts)))
        await signals.apply([deletion(number)])
        assert await deleted(signals) == await deleted(other) == {f"p{n}" for n in range(number + 2)}


async def test_a_reader_that_falls_behind_catches_up(fake: FakeDynamodb, signals: Store, other: Store) -> None:
    async def write(start: int) -> None:
        for number in range(start, start + 40):
            await other.apply([deletion(number)])

    async def read() -> None:
        known: set[str] = set()
        for _ in range(60):
            now = await deleted(signals)
            assert now >= known  # what one read has seen, no later one misses
            known = now

    await asyncio.gather(write(0), write(100), read(), read())
    assert await deleted(signals) == await deleted(other) == {f"p{n}" for n in (*range(40), *range(100, 140))}


async def test_an_interrupted_deletion_can_be_retried(fake: FakeDynamodb, signals: Store, other: Store) -> None:
    await signals.apply([deletion(0)])
    fake.then("put_item", done, silent)  # its part is written, the head is not
    with pytest.raises(Unavailable):
        await signals.apply([deletion(1)])
    assert await deleted(other) == {"p0"}
    await signals.apply([deletion(1)])
    assert await deleted(other) == {"p0", "p1"}


async def test_parts_that_ttl_removed_are_ignored(fake: FakeDynamodb, signals: Store, other: Store) -> None:
    later_ms = NOON_MS + DELETED_TTL_MS
    await signals.apply([deletion(n) for n in range(PART)])
    await signals.apply([deletion(PART, later_ms)])
    gone = [key for key, item in fake.tables["signals"].items() if int(item["t"]["N"]) <= later_ms // 1000]
    assert len(gone) == 1
    for key in gone:
        del fake.tables["signals"][key]
    assert await deleted(other, later_ms) == {f"p{PART}"}
    await other.apply([deletion(PART + 1, later_ms)])
    assert await deleted(signals, later_ms) == {f"p{PART}", f"p{PART + 1}"}


async def test_a_list_of_a_future_format_is_left_as_it_is(fake: FakeDynamodb, signals: Store) -> None:
    """A check reports it as Unavailable: start-up tolerates that error alone."""
    item: Item = {"k": {"S": HEAD}, "d": {"B": b"\x02"}, "t": {"N": "1"}}
    fake.tables["signals"][HEAD] = item
    for call, error in (
        (signals.read("ann", NOON_MS), FormatError),
        (signals.apply([deletion(1)]), FormatError),
        (signals.check(), Unavailable),
    ):
        with pytest.raises(error, match="format"):
            await call
    assert fake.tables["signals"][HEAD] == item
