"""The call that packets and signals share: its keys, its retries, and errors of one table."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from feed_api.stages.fetch import fetch
from feed_api.state import Deadline, FeedRequest, FeedState, nothing_live
from pingfeed.adapters._dynamodb.connection import TRIES, Connection, SharedConnection
from pingfeed.adapters.candidates_dynamodb import DynamodbCandidateStore as Candidates
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals as Signals
from pingfeed.core.errors import Unavailable
from pingfeed.core.packet import unknown_user
from pingfeed.core.signals import Act
from tests.conformance.samples import eventually
from tests.unit.fake_dynamodb import FakeDynamodb, Fault, Hanging, partial, refused, silent
from tests.unit.feed_world import FAR_MS, FEATURES, NOW_MS, packet_bytes


@pytest.fixture
async def connection(fake: FakeDynamodb) -> AsyncIterator[Connection]:
    shared = SharedConnection()
    for number in range(300):
        fake.tables["packets"][f"p/{number}"] = {"k": {"S": f"p/{number}"}, "n": {"S": str(number)}}
    yield shared()
    await shared.close()


def feed_state(user_id: str) -> FeedState:
    return FeedState(
        request=FeedRequest("r", user_id, 10, NOW_MS),
        features=FEATURES,
        live=nothing_live(FEATURES),
        deadline=Deadline(None, 60, lambda: 0.0),
        rng=random.Random(0),
        explore_share=0.0,
        user=unknown_user(FEATURES),
    )


@pytest.mark.parametrize("tables", [("packets", "signals"), ("signals", "signals")])
async def test_a_feed_reads_packet_and_signals_in_one_call(fake: FakeDynamodb, tables: tuple[str, str]) -> None:
    candidates, signals = Candidates(f"dynamodb://{tables[0]}"), Signals(f"dynamodb://{tables[1]}")
    await candidates.put_many({"ann": packet_bytes(range(30))}, FAR_MS)
    await signals.apply([Act("ann", "hide", "p7", NOW_MS), Act("", "deleted", "p8", NOW_MS)])
    await signals.mark_complete()
    for calls in (2, 1, 1):  # The first finds that pings were deleted, and asks which.
        fake.calls.clear()
        state = feed_state("ann")
        await fetch(state, candidates, signals)
        assert state.degraded == set()
        assert state.packet is not None
        assert state.packet.numbers.tolist() == list(range(30))
        assert state.recent.hides == {"p7"}
        assert state.signals is not None
        assert state.signals.deleted == {"p8"}
        assert [name for name, _ in fake.calls] == ["batch_get_item"] * calls
    wanted = fake.calls[-1][1]["RequestItems"]
    keys = {(table, key["k"]["S"]) for table, asked in wanted.items() for key in asked["Keys"]}
    assert keys == {(tables[0], "p/ann"), (tables[1], "s/ann"), (tables[1], "d/")}
    assert fake.opened == 1
    await candidates.close()
    await signals.close()


async def test_only_signals_are_read_consistently(fake: FakeDynamodb, candidates: Candidates, signals: Signals) -> None:
    await fetch(feed_state("ann"), candidates, signals)
    ((_, asked),) = fake.calls
    consistent = {table: wanted["ConsistentRead"] for table, wanted in asked["RequestItems"].items()}
    assert consistent == {"packets": False, "signals": True}


async def test_an_absent_table_does_not_affect_the_other(
    fake: FakeDynamodb, candidates: Candidates, signals: Signals
) -> None:
    act = Act("ann", "hide", "p7", NOW_MS)
    await signals.mark_complete()
    calls: dict[str, list[Callable[[], Awaitable[Any]]]] = {
        "packets": [
            candidates.check,
            lambda: candidates.get("ann", NOW_MS),
            lambda: candidates.put_many({"ann": packet_bytes(range(30))}, FAR_MS),
            lambda: candidates.delete("ann"),
        ],
        "signals": [
            signals.check,
            lambda: signals.read("ann", NOW_MS),
            lambda: signals.apply([act, Act("", "deleted", "p8", NOW_MS)]),
            lambda: signals.forget("ann"),
        ],
    }
    for table, degraded in (("packets", "candidates"), ("signals", "signals")):
        kept = fake.tables.pop(table)
        for call in calls[table]:
            with pytest.raises(Unavailable, match=f"{table} is not available: ResourceNotFoundException"):
                await call()
        state = feed_state("ann")
        await fetch(state, candidates, signals)
        assert state.degraded == {degraded}
        fake.tables[table] = kept
        for call in calls[table]:
            await call()


async def numbers(connection: Connection, keys: list[str]) -> list[Any]:
    items = await asyncio.gather(*(connection.get("packets", key) for key in keys))
    return [item["n"]["S"] if item else None for item in items]


async def test_a_call_asks_for_a_hundred_keys_at_most(fake: FakeDynamodb, connection: Connection) -> None:
    assert await numbers(connection, [f"p/{n}" for n in range(250)]) == [str(n) for n in range(250)]
    asked = [parameters["RequestItems"]["packets"]["Keys"] for _, parameters in fake.calls]
    assert sorted(map(len, asked)) == [50, 100, 100]


async def test_a_key_of_several_callers_is_requested_once(fake: FakeDynamodb, connection: Connection) -> None:
    assert await numbers(connection, ["p/1", "p/2", "p/1", "p/none"]) == ["1", "2", "1", None]
    assert len(fake.calls[0][1]["RequestItems"]["packets"]["Keys"]) == 3


async def test_gets_of_different_turns_are_different_calls(fake: FakeDynamodb, connection: Connection) -> None:
    assert await numbers(connection, ["p/1"]) == ["1"]
    assert await numbers(connection, ["p/1"]) == ["1"]
    assert fake.count("batch_get_item") == 2


async def test_only_unprocessed_keys_are_requested_again(fake: FakeDynamodb, connection: Connection) -> None:
    fake.then("batch_get_item", partial(3), partial(0), partial(1))
    assert await numbers(connection, [f"p/{n}" for n in range(6)]) == [str(n) for n in range(6)]
    asked = [len(parameters["RequestItems"]["packets"]["Keys"]) for _, parameters in fake.calls]
    assert asked == [6, 3, 3, 2]


@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "ThrottlingException"])
async def test_a_throttled_read_is_tried_again(fake: FakeDynamodb, connection: Connection, code: str) -> None:
    fake.then("batch_get_item", refused(code), refused(code))
    assert await numbers(connection, ["p/1"]) == ["1"]


@pytest.mark.parametrize(
    ("fault", "calls", "said"),
    [(partial(0), TRIES, "packets"), (refused("ThrottlingException"), TRIES, "packets"), (silent, 1, "not respond")],
)
async def test_only_throttling_is_retried(
    fake: FakeDynamodb, connection: Connection, fault: Fault, calls: int, said: str
) -> None:
    """A feed has no time for a second time-out."""
    fake.then("batch_get_item", *[fault] * 50)
    with pytest.raises(Unavailable, match=said):
        await connection.get("packets", "p/1")
    assert len(fake.calls) == calls


async def test_a_call_without_callers_ends_after_a_grace_period(
    fake: FakeDynamodb, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pingfeed.adapters._dynamodb.connection.GRACE_S", 0.05)
    hanging = Hanging()
    fake.then("batch_get_item", hanging)
    first, second = connection.get("packets", "p/1"), connection.get("packets", "p/2")
    await eventually(lambda: hanging.begun == 1)
    first.cancel()
    await asyncio.sleep(0.1)
    assert hanging.given_up == 0, "the second still waits"
    second.cancel()
    await asyncio.sleep(0)
    assert hanging.given_up == 0, "its connection may yet be made"
    await eventually(lambda: hanging.given_up == 1)


async def test_closing_fails_waiting_callers(fake: FakeDynamodb) -> None:
    shared, hanging = SharedConnection(), Hanging()
    fake.then("batch_get_item", hanging)
    waiting = shared().get("packets", "p/1")
    await eventually(lambda: hanging.begun == 1)
    not_even_sent = shared().get("packets", "p/2")
    await shared.close()
    for answer in (waiting, not_even_sent):
        with pytest.raises(Unavailable, match="was closed"):
            await answer
    assert len(fake.calls) == 1


async def test_the_last_adapter_to_close_closes_the_connection(fake: FakeDynamodb) -> None:
    one, other = SharedConnection(), SharedConnection()
    assert one() is other()
    await one().get("packets", "p/1")
    await one.close()
    await one.close()
    await other().get("packets", "p/1")
    assert fake.opened == 1
    await other.close()
    await other().get("packets", "p/1")
    assert fake.opened == 2
    await other.close()


def test_each_event_loop_has_a_connection_of_its_own(fake: FakeDynamodb) -> None:
    async def read() -> None:
        shared = SharedConnection()
        await shared().get("packets", "p/1")
        await shared.close()

    asyncio.run(read())
    asyncio.run(read())
    assert fake.opened == 2
