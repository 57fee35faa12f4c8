"""What every CandidateStore promises (`ports.CandidateStore`). A new adapter is one entry of ADAPTERS."""

import asyncio
from collections.abc import Callable

import pytest

from pingfeed.adapters.candidates_dynamodb import DynamodbCandidateStore
from pingfeed.adapters.candidates_redis import RedisCandidateStore
from pingfeed.adapters.candidates_slots import CandidateSlots
from pingfeed.adapters.candidates_sqlite import SqliteCandidateStore
from pingfeed.core.packet import TTL_S
from pingfeed.ports import CandidateStore
from tests.conformance.place import Place
from tests.conformance.samples import NOON_MS

pytestmark = pytest.mark.conformance


def _sqlite(place: Place) -> SqliteCandidateStore:
    return SqliteCandidateStore(f"sqlite://{place.folder}/candidates.sqlite")


ADAPTERS: dict[str, Callable[[Place], CandidateStore]] = {
    "sqlite": _sqlite,
    "sqlite+redis": lambda place: RedisCandidateStore(place.redis_url, _sqlite(place), patience_s=5),
    "sqlite+redis+cluster": lambda place: RedisCandidateStore(place.redis_cluster_url, _sqlite(place), patience_s=5),
    "sqlite+slot": lambda place: CandidateSlots(_sqlite(place), "b"),
    "dynamodb": lambda place: DynamodbCandidateStore(f"dynamodb://{place.table}"),
}
LATER_MS = NOON_MS + 1000


async def test_a_packet_comes_back_byte_for_byte(store: CandidateStore) -> None:
    packet = bytes(range(256)) * 4
    await store.put_many({"ann": packet, "bob": b"\x00"}, LATER_MS)
    assert await store.get("ann", NOON_MS) == packet
    assert await store.get("bob", NOON_MS) == b"\x00"


async def test_an_unknown_user_has_no_packet(store: CandidateStore) -> None:
    await store.put_many({"ann": b"x"}, LATER_MS)
    assert await store.get("Ann", NOON_MS) is None
    assert await store.get("an", NOON_MS) is None


async def test_a_packet_is_replaced_whole_with_its_expiry(store: CandidateStore) -> None:
    await store.put_many({"ann": b"a long packet"}, LATER_MS)
    await store.put_many({"ann": b"short"}, LATER_MS + 5000)
    assert await store.get("ann", LATER_MS) == b"short"


async def test_it_is_gone_from_its_expiry_on(store: CandidateStore) -> None:
    await store.put_many({"ann": b"x"}, LATER_MS)
    assert await store.get("ann", LATER_MS - 1) == b"x"
    assert await store.get("ann", LATER_MS) is None


async def test_another_instance_sees_it_at_once(store: CandidateStore, other: CandidateStore) -> None:
    for version in (b"1", b"2"):
        await store.put_many({"ann": version}, LATER_MS)
        assert await other.get("ann", NOON_MS) == version
    await other.delete("ann")
    assert await store.get("ann", NOON_MS) is None


async def test_a_deleted_packet_is_gone_and_may_be_deleted_again(store: CandidateStore) -> None:
    await store.put_many({"ann": b"x", "bob": b"y"}, LATER_MS)
    await store.delete("ann")
    await store.delete("ann")
    assert await store.get("ann", NOON_MS) is None
    assert await store.get("bob", NOON_MS) == b"y"


async def test_any_number_may_be_put(store: CandidateStore) -> None:
    packets = {f"user-{n}": str(n).encode() for n in range(2501)}
    await store.put_many({}, LATER_MS)
    await store.put_many(packets, LATER_MS)
    read = await asyncio.gather(*(store.get(user, NOON_MS) for user in packets))
    assert dict(zip(packets, read, strict=True)) == packets


async def test_putting_newer_packets_removes_no_unexpired_one(store: CandidateStore) -> None:
    lifetime_ms = TTL_S * 1000
    await store.put_many({"old": b"o"}, NOON_MS + lifetime_ms)
    almost = NOON_MS + lifetime_ms - 1
    for _ in range(3):
        await store.put_many({"new": b"n"}, almost + lifetime_ms)
    assert await store.get("old", almost) == b"o"


async def test_a_ready_store_passes_its_check(store: CandidateStore) -> None:
    await store.check()


async def test_slots_are_apart_and_a_delete_empties_both(store: CandidateStore) -> None:
    slots = {slot: CandidateSlots(store, slot) for slot in "ab"}
    for slot, view in slots.items():
        await view.put_many({"ann": slot.encode(), "bob": slot.encode()}, LATER_MS)
    assert [await view.get("ann", NOON_MS) for view in slots.values()] == [b"a", b"b"]
    await slots["a"].delete("ann")
    assert [await view.get("ann", NOON_MS) for view in slots.values()] == [None, None]
    assert [await view.get("bob", NOON_MS) for view in slots.values()] == [b"a", b"b"]
