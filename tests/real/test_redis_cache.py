"""The cache of packets before a store: what it may never serve, what it keeps, and what happens without it."""

import asyncio
import logging
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pingfeed.adapters import candidates_redis, registry
from pingfeed.adapters.candidates_redis import CACHED_MS, HOLD_MS, LEASE_MS
from pingfeed.adapters.candidates_redis import RedisCandidateStore as Cached
from pingfeed.core.errors import Unavailable
from pingfeed.core.packet import TTL_S
from pingfeed.ports import PacketCache
from pingfeed.settings import load
from tests.conformance.samples import NOON_MS
from tests.servers import Server, answered
from tests.unit.fakes import MemoryCandidates

pytestmark = pytest.mark.real
EXPIRES_MS = NOON_MS + TTL_S * 1000


@dataclass
class FakeStore(MemoryCandidates):
    """Records which users it is asked for, and may wait before it answers."""

    asked: list[str] = field(default_factory=list)
    found: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    async def get(self, user_id: str, now_ms: int) -> bytes | None:
        self.asked.append(user_id)
        packet = await super().get(user_id, now_ms)
        self.found.set()
        await self.go_on.wait()
        return packet

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def store() -> FakeStore:
    store = FakeStore()
    store.go_on.set()
    return store


@pytest.fixture
async def cached(url: str, store: FakeStore) -> AsyncIterator[Cached]:
    opened = Cached(url, store, patience_s=5)
    yield opened
    await opened.close()


other = cached
"""Another process in front of the same store."""


def put_behind(store: FakeStore, *users: str, packet: bytes = b"x", expires_ms: int = EXPIRES_MS) -> None:
    """Into the store alone, as if it had been put before there was a cache."""
    store.packets |= dict.fromkeys(users, (packet, expires_ms))


async def packets_in(raw: Any, cached: Cached) -> dict[str, bytes]:
    """Every packet that the cache holds; leases and holds are none."""
    prefix = cached._key("")
    keys = [key async for key in raw.scan_iter(match=f"{prefix}*", count=1000)]
    values = {key.decode().removeprefix(prefix): await raw.get(key) for key in keys}
    return {user: value[9:] for user, value in values.items() if value and value[:1] == b"p"}


@pytest.mark.parametrize("is_put", [True, False])
async def test_a_packet_is_read_from_the_store_at_most_once(cached: Cached, store: FakeStore, is_put: bool) -> None:
    put_behind(store, "ann")
    if is_put:
        await cached.put_many({"ann": b"x"}, EXPIRES_MS)
    for _ in range(3):
        assert await cached.get("ann", NOON_MS) == b"x"
    assert store.asked == ["ann"] * (not is_put)


async def test_an_unknown_user_is_not_cached(cached: Cached, store: FakeStore) -> None:
    assert await cached.get("ann", NOON_MS) is None
    put_behind(store, "ann")
    assert await cached.get("ann", NOON_MS) == b"x"


@pytest.mark.parametrize("room", [10_000, 0])
@pytest.mark.parametrize("new", [b"new", None])
async def test_a_read_under_way_does_not_restore_a_replaced_or_deleted_packet(
    cached: Cached, other: Cached, store: FakeStore, monkeypatch: pytest.MonkeyPatch, new: bytes | None, room: int
) -> None:
    monkeypatch.setattr(candidates_redis, "MAX_CACHED", room)
    put_behind(store, "ann", packet=b"old")
    store.go_on.clear()
    reading = asyncio.create_task(cached.get("ann", NOON_MS))
    await store.found.wait()
    await (other.put_many({"ann": new}, EXPIRES_MS) if new else other.delete("ann"))
    store.go_on.set()
    assert await reading == b"old", "it began before the change"
    assert await cached.get("ann", NOON_MS) == new


@pytest.mark.parametrize("change", ["put", "delete", "evicted"])
async def test_an_old_packet_of_a_lagging_replica_is_not_cached(
    cached: Cached, store: FakeStore, raw: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """For a moment after a change the store may answer with the old packet: served, never kept."""
    monkeypatch.setattr(candidates_redis, "MAX_CACHED", 0)
    monkeypatch.setattr(candidates_redis, "_EVICT", 1)
    if change == "put":
        await cached.put_many({"ann": b"new"}, EXPIRES_MS)
    elif change == "delete":
        await cached.delete("ann")
    else:
        put_behind(store, "ann")
        await cached.get("ann", NOON_MS)
    put_behind(store, "ann", packet=b"old")
    assert await cached.get("ann", NOON_MS) == b"old"
    assert await packets_in(raw, cached) == {}
    assert 0 < await raw.pttl(cached._key("ann")) <= HOLD_MS


async def test_a_packet_that_expires_soon_is_not_cached(cached: Cached, store: FakeStore, raw: Any) -> None:
    put_behind(store, "ann", expires_ms=NOON_MS + CACHED_MS - 1)
    assert await cached.get("ann", NOON_MS) == b"x"
    assert await packets_in(raw, cached) == {}
    put_behind(store, "bob", expires_ms=NOON_MS + CACHED_MS + 1)
    assert await cached.get("bob", NOON_MS) == b"x"
    assert await packets_in(raw, cached) == {"bob": b"x"}
    assert await cached.get("bob", NOON_MS + CACHED_MS) == b"x", "its time in the cache is over: asked anew"
    assert store.asked[-1] == "bob"


async def test_the_most_recently_active_are_kept_and_every_key_expires(
    cached: Cached, store: FakeStore, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates_redis, "MAX_CACHED", 20)
    monkeypatch.setattr(candidates_redis, "_EVICT", 4)
    users = [f"user-{number:02}" for number in range(60)]
    put_behind(store, *users)
    for number, user in enumerate(users):
        await cached.get(user, NOON_MS + number)
        await cached.get("user-00", NOON_MS + number)
    kept = await packets_in(raw, cached)
    assert len(kept) <= 20 + 4
    assert kept.keys() >= {"user-00", *users[-19:]}
    assert await raw.zcard(cached._active) <= 20 + 4
    for key in [key async for key in raw.scan_iter(match=cached._redis.key("*"), count=1000)]:
        assert 0 < await raw.pttl(key) <= max(CACHED_MS, HOLD_MS, LEASE_MS)


async def test_a_nightly_job_that_writes_every_user_evicts_no_active_one(
    cached: Cached, store: FakeStore, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates_redis, "MAX_CACHED", 20)
    readers = [f"reader-{number}" for number in range(15)]
    put_behind(store, *readers)
    for user in readers:
        await cached.get(user, NOON_MS)
    everyone = dict.fromkeys([*(f"user-{number}" for number in range(1200)), *readers], b"new")
    await cached.put_many(everyone, EXPIRES_MS)
    kept = await packets_in(raw, cached)
    assert {user: kept.get(user) for user in readers} == dict.fromkeys(readers, b"new")
    assert len(kept) == 20, "the first users are added while there is room"
    store.asked.clear()
    assert await cached.get("user-1199", NOON_MS) == b"new"
    assert store.asked == ["user-1199"]


@pytest.mark.parametrize("damage", [b"", b"p", b"p123", b"?", b"l" * 9])
async def test_a_damaged_entry_is_bypassed(cached: Cached, store: FakeStore, raw: Any, damage: bytes) -> None:
    put_behind(store, "ann")
    await raw.set(cached._key("ann"), damage)
    assert await cached.get("ann", NOON_MS) == b"x"


async def test_an_entry_is_a_letter_its_expiry_and_the_packet(cached: Cached, raw: Any) -> None:
    await cached.put_many({"ann": b"packet"}, EXPIRES_MS)
    assert await raw.get(cached._key("ann")) == b"p" + struct.pack(">q", EXPIRES_MS) + b"packet"


async def test_a_cache_that_is_down_fails_no_read_and_no_put(
    own_redis: Server, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    cached = Cached(f"redis://127.0.0.1:{own_redis.port}", store, patience_s=5)
    await cached.put_many({"ann": b"1"}, EXPIRES_MS)
    own_redis.kill()
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            assert await cached.get("ann", NOON_MS) == b"1"
        assert len(caplog.records) == 1
        assert cached.passed_by == 20
        await cached.put_many({"ann": b"2"}, EXPIRES_MS)
        assert len(caplog.records) == 2
        assert await cached.get("ann", NOON_MS) == b"2"
        await cached.check()
        with pytest.raises(Unavailable):  # What was forgotten must be gone; the caller tries again.
            await cached.delete("ann")
        own_redis.start()
        await answered(lambda: cached.delete("ann"))
        assert await cached.get("ann", NOON_MS) is None
    await cached.close()
    assert store.closed


async def test_a_hanging_cache_is_bypassed_after_a_few_time_outs(own_redis: Server, store: FakeStore) -> None:
    now_s = 0.0
    url = f"redis://127.0.0.1:{own_redis.port}"
    cached = Cached(url, store, patience_s=0.1, monotonic=lambda: now_s)
    put_behind(store, "ann")
    await cached.check()
    own_redis.pause()
    try:
        waited = [await _seconds(lambda: cached.get("ann", NOON_MS)) for _ in range(6)]
        assert [took >= 0.1 for took in waited] == [True] * 3 + [False] * 3
        now_s = candidates_redis.REST_S
        assert await _seconds(lambda: cached.get("ann", NOON_MS)) >= 0.1, "it is asked again after a rest"
    finally:
        own_redis.resume()
    now_s = 2 * candidates_redis.REST_S
    patient = Cached(url, store, patience_s=5)
    await patient.get("bob", NOON_MS)
    await patient.close()
    await cached.close()


async def _seconds(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    assert await call() == b"x"
    return time.monotonic() - began


async def test_the_settings_put_a_cache_in_front_of_the_store(tmp_path: Path, url: str, raw: Any) -> None:
    settings = load({"PINGFEED_HOME": str(tmp_path), "PINGFEED_CACHE_URL": url})
    opened = registry.open_candidates(settings)
    assert isinstance(opened, PacketCache)
    await opened.put_many({"ann": b"x"}, EXPIRES_MS)
    assert await packets_in(raw, Cached(url, opened)) == {"ann": b"x"}
    await opened.close()
    behind = registry.open_candidates(load({"PINGFEED_HOME": str(tmp_path)}))
    assert await behind.get("ann", NOON_MS) == b"x"
    await behind.close()
