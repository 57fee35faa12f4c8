"""A store that does not answer costs one time-out a period, not one a call."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from pingfeed.adapters._dynamodb.connection import Connection
from pingfeed.adapters._redis import RedisClient
from pingfeed.adapters.user_signals_redis import RedisUserSignals
from pingfeed.core import breaker
from pingfeed.core.breaker import FAILURES, REST_S, SLOW_S, Breaker
from pingfeed.core.errors import InvalidInput, PingfeedError, Unavailable
from tests.unit.fake_dynamodb import FakeDynamodb, Fault, refused, silent
from tests.unit.ingest_world import ingest_world
from tests.unit.test_redis_client import saying

SILENT = Unavailable("no answer")


class Store:
    """Answers, or fails as `error` says; a call takes `takes_s`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls, self.takes_s = 0, 0.0
        self.error: BaseException | None = None
        self.breaker = Breaker("test", "the store", monotonic=lambda: self.now)

    def call(self) -> None:
        with self.breaker.watching(lambda error: error is SILENT):
            self.calls += 1
            self.now += self.takes_s
            if self.error:
                raise self.error

    def calls_made(self, count: int) -> int:
        before = self.calls
        for _ in range(count):
            with suppress(PingfeedError, asyncio.CancelledError):
                self.call()
        return self.calls - before


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.mark.parametrize(("takes_s", "calls"), [(0.0, FAILURES), (SLOW_S, 1)])
def test_after_failures_or_a_time_out_calls_fail_at_once_with_the_reason(
    store: Store, takes_s: float, calls: int, caplog: pytest.LogCaptureFixture
) -> None:
    store.error, store.takes_s = SILENT, takes_s
    assert store.calls_made(100) == calls
    with pytest.raises(Unavailable, match="no answer"):
        store.call()
    for _ in range(10):  # One probe a period.
        store.now += REST_S
        assert store.calls_made(100) == 1
    store.error, store.takes_s = None, 0.0
    store.now += REST_S
    assert store.calls_made(100) == 100
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert said == [f"the store does not answer: calls fail for {REST_S:g} s at a time", "the store answers again"]


def test_while_a_probe_is_under_way_other_calls_fail_at_once(store: Store) -> None:
    store.error, store.takes_s = SILENT, SLOW_S
    store.calls_made(1)
    store.now += REST_S
    with suppress(Unavailable), store.breaker.watching(lambda _: True):
        assert store.calls_made(10) == 0
        raise SILENT
    assert store.calls_made(10) == 0


@pytest.mark.parametrize("error", [InvalidInput("an answer"), asyncio.CancelledError()])
def test_an_error_that_is_an_answer_or_a_caller_that_leaves_opens_nothing(store: Store, error: BaseException) -> None:
    store.error = error
    assert store.calls_made(100) == 100


def test_answers_in_between_start_the_count_again(store: Store) -> None:
    for _ in range(10):
        store.error = SILENT
        assert store.calls_made(FAILURES - 1) == FAILURES - 1
        store.error = None
        store.call()


def test_a_call_given_up_after_long_counts_as_a_time_out(store: Store) -> None:
    store.error, store.takes_s = asyncio.CancelledError(), SLOW_S
    assert store.calls_made(10) == 1
    with pytest.raises(Unavailable, match="the store does not answer"):
        store.call()


async def test_a_silent_redis_is_asked_once_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "SLOW_S", 0.05)
    before = breaker.opened["redis"]
    async with saying(b"") as (url, connections):
        client = RedisClient(url, timeout_s=0.1)
        for _ in range(20):
            with pytest.raises(Unavailable, match=r"did not answer within 0.1 s"):
                await client.run(("GET", "a"))
        assert len(connections) == 1
        await client.close()
    assert breaker.opened["redis"] == before + 1


async def test_a_replica_without_writes_is_still_read_and_fails_the_check() -> None:
    async with saying(b"-READONLY You can't write against a read only replica.\r\n") as (url, connections):
        client = RedisClient(url)
        for _ in range(FAILURES + 1):
            with pytest.raises(Unavailable, match="takes no writes"):
                await client.check()
        assert len(connections) == FAILURES + 1
        await client.close()


@pytest.fixture
async def dynamodb(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[FakeDynamodb, Connection]]:
    fake, connection = FakeDynamodb({"t": {}}), Connection()

    async def client() -> FakeDynamodb:
        return fake

    monkeypatch.setattr(connection._client, "get", client)
    yield fake, connection
    await connection.close()


@pytest.mark.parametrize(("fault", "calls"), [(silent, FAILURES), (refused("ThrottlingException"), 20)])
async def test_a_silent_dynamodb_is_asked_no_more_a_throttling_one_is(
    dynamodb: tuple[FakeDynamodb, Connection], fault: Fault, calls: int
) -> None:
    fake, connection = dynamodb
    fake.then("delete_item", *[fault] * 20)
    for _ in range(20):
        with pytest.raises(Unavailable):
            await connection.delete("t", "k")
    assert fake.count("delete_item") == calls


async def test_ingest_acknowledges_while_redis_is_silent_and_asks_it_once_a_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "SLOW_S", 0.05)
    async with saying(b"") as (url, connections):
        signals = RedisUserSignals(url)
        monkeypatch.setattr(signals._redis, "_timeout_s", 0.1)
        async with ingest_world(tmp_path, signals=signals) as world:
            event = {"event_type": "block", "user_id": "u", "creator_id": "c"}
            for _ in range(30):
                assert (await world.send(event)).status_code == 202
            assert len(connections) == 1
            assert (await world.client.get("/readyz")).json()["degraded"] == ["signals"]
            assert await world.metric("pingfeed_breakers_opened_total") >= 1
            assert len(world.spooled()) == 30
