"""Packets in DynamoDB, and what DynamoDB does to them. What every store promises is in tests/conformance/."""

import asyncio

import pytest

from pingfeed.adapters._dynamodb.connection import BURST_S, WritePacer
from pingfeed.adapters._dynamodb.items import MAX_ITEM_BYTES, item_bytes, packet_item, write_units
from pingfeed.adapters.candidates_dynamodb import CALLS_AT_ONCE, STUCK
from pingfeed.adapters.candidates_dynamodb import DynamodbCandidateStore as Store
from pingfeed.core.breaker import FAILURES
from pingfeed.core.errors import FormatError, InvalidInput, Unavailable
from pingfeed.core.packet import MAX_BYTES
from pingfeed.core.retry import Backoff
from tests.conformance.samples import NOON_MS
from tests.unit.fake_dynamodb import FakeDynamodb, Fault, lost, partial, refused, silent

LATER_MS = NOON_MS + 1000


def packets(count: int, size: int = 10) -> dict[str, bytes]:
    return {f"user-{n:05d}": n.to_bytes(4, "big") * (size // 4) for n in range(count)}


def stored(fake: FakeDynamodb) -> dict[str, bytes]:
    return {key.removeprefix("p/"): item["p"]["B"] for key, item in fake.tables["packets"].items()}


def put_in(fake: FakeDynamodb) -> list[list[str]]:
    """The users of each write."""
    calls = [parameters["RequestItems"]["packets"] for name, parameters in fake.calls if name == "batch_write_item"]
    return [[request["PutRequest"]["Item"]["k"]["S"] for request in requests] for requests in calls]


async def test_packets_are_written_in_concurrent_batches_of_25(fake: FakeDynamodb, candidates: Store) -> None:
    await candidates.put_many(packets(1010), LATER_MS)
    assert stored(fake) == packets(1010)
    assert sorted(map(len, put_in(fake))) == [10, *[25] * 40]
    assert 1 < fake.at_once <= CALLS_AT_ONCE


async def test_an_item_is_one_binary_attribute_and_its_expiry(fake: FakeDynamodb, candidates: Store) -> None:
    await candidates.put_many({"ann": b"packet"}, LATER_MS + 1)
    assert fake.tables["packets"]["p/ann"] == {
        "k": {"S": "p/ann"},
        "p": {"B": b"packet"},
        "e": {"N": str(LATER_MS + 1)},
        "t": {"N": str(LATER_MS // 1000 + 1)},  # rounded up: TTL removes nothing that still counts
    }


async def test_only_unprocessed_packets_are_written_again(fake: FakeDynamodb, candidates: Store) -> None:
    fake.then("batch_write_item", partial(20), partial(0), partial(3))
    await candidates.put_many(packets(25), LATER_MS)
    assert stored(fake) == packets(25)
    assert [len(users) for users in put_in(fake)] == [25, 5, 5, 2]
    assert put_in(fake)[1] == put_in(fake)[0][20:]


BUSY = ("ProvisionedThroughputExceededException", "ThrottlingException", "InternalServerError")


@pytest.mark.parametrize("fault", [*map(refused, BUSY), silent, lost])
async def test_a_transient_error_is_retried(fake: FakeDynamodb, candidates: Store, fault: Fault) -> None:
    fake.then("batch_write_item", fault, fault)
    await candidates.put_many(packets(60), LATER_MS)
    assert stored(fake) == packets(60)
    assert len(put_in(fake)) == 5


@pytest.mark.parametrize("fault", [partial(0), refused("ThrottlingException"), silent])
async def test_a_write_is_given_up_after_tries_without_progress(
    fake: FakeDynamodb, candidates: Store, fault: Fault
) -> None:
    fake.then("batch_write_item", *[fault] * 100)
    with pytest.raises(Unavailable, match="the DynamoDB table packets"):
        await candidates.put_many(packets(10), LATER_MS)
    assert len(put_in(fake)) == (FAILURES if fault is silent else STUCK)  # The breaker stops calls to a silent store.


@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException"])
async def test_a_rejected_write_is_not_retried_and_stops_the_others(
    fake: FakeDynamodb, candidates: Store, code: str
) -> None:
    fake.then("batch_write_item", *[refused(code)] * 100)
    with pytest.raises(Unavailable, match=code):
        await candidates.put_many(packets(1000), LATER_MS)
    assert len(put_in(fake)) <= CALLS_AT_ONCE


async def test_a_table_that_accepts_a_little_at_a_time_is_not_given_up(fake: FakeDynamodb, candidates: Store) -> None:
    fake.then("batch_write_item", *[partial(1), partial(0)] * 24)
    await candidates.put_many(packets(25), LATER_MS)
    assert stored(fake) == packets(25)


async def test_an_item_of_a_future_format_is_an_error(fake: FakeDynamodb, candidates: Store) -> None:
    fake.tables["packets"]["p/ann"] = {"k": {"S": "p/ann"}, "packet2": {"B": b"?"}}
    with pytest.raises(FormatError, match="p/ann"):
        await candidates.get("ann", NOON_MS)


async def test_an_item_that_is_too_large_is_not_sent(fake: FakeDynamodb, candidates: Store) -> None:
    with pytest.raises(FormatError, match=str(MAX_ITEM_BYTES)):
        await candidates.put_many({"ann": bytes(MAX_ITEM_BYTES)}, LATER_MS)
    assert fake.calls == []


@pytest.mark.parametrize(
    "url",
    ["dynamodb://", "dynamodb:///packets", "dynamodb://a", "dynamodb://packets/x", "dynamodb://packets?writes=5"]
    + [f"dynamodb://packets?writes_per_second={wrong}" for wrong in ("", "0", "-5", "nan", "inf", "many")],
)
def test_a_url_without_a_table_or_with_a_wrong_rate_is_rejected(url: str) -> None:
    with pytest.raises(InvalidInput):
        Store(url)


class Watch:
    """A clock that only a sleeper moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


async def test_writes_keep_to_the_rate_after_a_short_burst() -> None:
    watch = Watch()
    pace = WritePacer(1000, clock=lambda: watch.now_s, sleep=watch.sleep)
    taken = []
    for _ in range(100):
        await pace.take(25)
        taken.append(watch.now_s - 1000)
    assert taken == pytest.approx([number * 0.025 for number in range(100)])
    watch.now_s += 3600
    burst_from = watch.now_s
    for number in range(10):
        await pace.take(25)
        assert watch.now_s - burst_from == pytest.approx(max(0, number * 0.025 - BURST_S))


async def test_concurrent_callers_share_the_rate() -> None:
    watch, slept = Watch(), []

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))

    pace = WritePacer(100, clock=lambda: watch.now_s, sleep=sleep)
    await asyncio.gather(*(pace.take(50) for _ in range(4)))
    assert slept == [0.5, 1.0, 1.5]


async def test_the_rate_counts_write_units(fake: FakeDynamodb) -> None:
    """Ten items of 3 KiB at 300 units a second: the second batch of 25 begins a quarter of a second after the first."""
    candidates = Store("dynamodb://packets?writes_per_second=300", backoff=Backoff(first_s=0))
    began = asyncio.get_running_loop().time()
    await candidates.put_many(packets(26, size=2900), LATER_MS)
    assert asyncio.get_running_loop().time() - began >= 25 * 3 / 300 - 0.01
    await candidates.close()


AROUND_IT = len("k" + "p/ann") + len("p") + len("e") + 8 + len("t") + 6


def test_an_item_is_as_large_as_its_names_and_values() -> None:
    assert item_bytes(packet_item("ann", bytes(930), NOON_MS)) == AROUND_IT + 930


@pytest.mark.parametrize(
    ("user_id", "size", "units"),
    [
        ("ann", 0, 1),
        ("ann", 1024 - AROUND_IT, 1),
        ("ann", 1024 - AROUND_IT + 1, 2),
        ("ann", MAX_BYTES, 5),
        pytest.param("u" * 66, 930, 1, id="usual packet of 100 candidates and 16 + 16 affinities, longest usual id"),
    ],
)
def test_a_write_unit_is_a_kib_begun(user_id: str, size: int, units: int) -> None:
    assert write_units(packet_item(user_id, bytes(size), NOON_MS)) == units
