"""Following the list of deleted pings, by readers that have less time than its parts take."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pingfeed.adapters._dynamodb.deleted import HEAD, PART
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals
from pingfeed.core.errors import Unavailable
from pingfeed.core.retry import Backoff
from pingfeed.core.signals import Act
from tests.conformance.samples import NOON_MS
from tests.unit.fake_dynamodb import FakeDynamodb, Hanging, Work, done, dynamodb, partial, silent

CALL = 20
"""Turns of the event loop that a slow call takes. A read of head and parts makes two, and some turns of its own."""
PATIENCE = 30
PARTS = 3
PINGS = {f"p{number}" for number in range(PARTS * PART)}


@pytest.fixture
async def fake() -> AsyncIterator[FakeDynamodb]:
    """A table with a list of three parts, which another process has written."""
    with dynamodb("signals") as fake:
        writer = DynamodbUserSignals("dynamodb://signals")
        await writer.apply([Act("", "deleted", ping_id, NOON_MS) for ping_id in sorted(PINGS)])
        fake.calls.clear()
        yield fake
        await writer.close()


@pytest.fixture
async def signals(fake: FakeDynamodb) -> AsyncIterator[DynamodbUserSignals]:
    signals = DynamodbUserSignals("dynamodb://signals", backoff=Backoff(first_s=0))
    yield signals
    await signals.close()


@pytest.fixture
async def unhandled() -> AsyncIterator[list[dict[str, Any]]]:
    """What the event loop reports, such as an exception that was never retrieved."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    yield reports
    asyncio.get_running_loop().set_exception_handler(None)


async def deleted(signals: DynamodbUserSignals) -> set[str]:
    return set((await signals.read("ann", NOON_MS)).deleted)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def slow(work: Work) -> dict[str, Any]:
    await turns(CALL)
    return work()


async def hasty(signals: DynamodbUserSignals) -> set[str] | None:
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


async def test_readers_that_all_leave_early_catch_up_in_the_end(
    fake: FakeDynamodb, signals: DynamodbUserSignals
) -> None:
    fake.then("batch_get_item", *[slow] * 40)
    assert await hasty(signals) is None
    assert PINGS in [await hasty(signals) for _ in range(10)]
    assert sorted(fetched(fake).values()) == [1] * PARTS


async def test_readers_at_one_time_fetch_each_part_once(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    async def later() -> set[str]:
        await turns(CALL // 2)
        return await deleted(signals)

    fake.then("batch_get_item", *[slow] * 10)
    first, second = await asyncio.gather(deleted(signals), later())
    assert first == second == PINGS
    assert sorted(fetched(fake).values()) == [1] * PARTS


async def test_after_a_check_the_first_read_needs_no_part(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    await signals.check()
    assert sorted(fetched(fake).values()) == [1] * PARTS
    fake.calls.clear()
    assert await deleted(signals) == PINGS
    assert fake.count("batch_get_item") == 1
    assert not fetched(fake)


async def test_an_error_reaches_all_who_wait_and_the_next_read_begins_anew(
    fake: FakeDynamodb, signals: DynamodbUserSignals
) -> None:
    fake.then("batch_get_item", done, silent)
    outcomes = await asyncio.gather(deleted(signals), deleted(signals), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    assert await deleted(signals) == PINGS


async def test_parts_that_came_before_an_error_are_kept(fake: FakeDynamodb, signals: DynamodbUserSignals) -> None:
    fake.then("batch_get_item", done, partial(1), silent)
    with pytest.raises(Unavailable):
        await deleted(signals)
    fake.calls.clear()
    assert await deleted(signals) == PINGS
    assert len(fetched(fake)) == PARTS - 1


async def test_an_error_that_nobody_waits_for_any_more_is_not_reported(
    fake: FakeDynamodb, signals: DynamodbUserSignals, unhandled: list[dict[str, Any]]
) -> None:
    async def late(work: Work) -> dict[str, Any]:
        await turns(CALL)
        return await silent(work)

    fake.then("batch_get_item", slow, late)
    assert await hasty(signals) is None
    await turns(2 * CALL)
    assert await deleted(signals) == PINGS
    gc.collect()
    await turns(1)
    assert unhandled == []


async def test_close_ends_the_fetch_and_tells_who_waits(
    fake: FakeDynamodb, signals: DynamodbUserSignals, unhandled: list[dict[str, Any]]
) -> None:
    """Though the connection stays: the writer has its part in it."""
    fake.then("batch_get_item", done, Hanging())
    read = asyncio.create_task(deleted(signals))
    await turns(PATIENCE)
    assert sum(fetched(fake).values()) == PARTS
    await signals.close()
    await turns(3)
    assert read.done()
    with pytest.raises(Unavailable, match="was closed"):
        await read
    gc.collect()
    await turns(1)
    assert unhandled == []


async def test_a_list_of_a_future_format_is_unavailable_to_a_check(
    fake: FakeDynamodb, signals: DynamodbUserSignals
) -> None:
    """A start goes on without a store that has answered once; any other error would end it."""
    fake.tables["signals"][HEAD]["d"] = {"B": b"\x02"}
    with pytest.raises(Unavailable, match="format"):
        await signals.check()


async def test_a_deletion_shows_at_once_while_an_older_list_is_still_on_its_way(
    fake: FakeDynamodb, signals: DynamodbUserSignals
) -> None:
    fake.then("batch_get_item", slow, slow)
    early = asyncio.create_task(deleted(signals))
    await turns(PATIENCE)
    writer = DynamodbUserSignals("dynamodb://signals")
    await writer.apply([Act("", "deleted", "new", NOON_MS)])
    assert await deleted(signals) >= {"new"}
    assert await early == PINGS
    assert await deleted(signals) >= {"new"}
    await writer.close()
