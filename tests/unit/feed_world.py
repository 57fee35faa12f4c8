"""The feed app over a small catalogue: real spool and delivery, fakes for the stores, a clock that a test moves."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import msgspec
import numpy as np
from fastapi import FastAPI

from feed_api.app import create_app
from feed_api.stages.log_served import ServedActs
from feed_api.wiring import Services
from pingfeed.core.events import Row, decode_rows
from pingfeed.core.features import FACET_WIDTH, NO_VALUE, FeatureSet, PingBlock, language_code, place_code, source_bits
from pingfeed.core.ids import uuid7
from pingfeed.core.packet import Packet, UserPart, encode
from pingfeed.core.ranker import Pointer, pointer_key, snapshot_key
from pingfeed.core.signals import Act, ActKind, Profile
from pingfeed.core.snapshot import SnapshotContent, write
from pingfeed.core.trending import Engagement
from pingfeed.ports import Artifacts
from pingfeed.settings import load
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.spool import Spool
from pingfeed.web.middleware import ARRIVED_NS
from tests.unit.fakes import MemoryArtifacts, MemoryCandidates, MemorySignals, MemorySink, MemoryTrending

NOW_MS: Final = 1_795_348_800_000
"""2026-11-22T12:00:00Z, the beginning of a tick."""
TICK_MS: Final = 900_000
TICK: Final = NOW_MS // TICK_MS
FAR_MS: Final = NOW_MS * 2
FEATURES: Final = FeatureSet()
LISTS: Final = {
    "trending:DE": range(20, 60),
    "trending": range(60, 100),
    "evergreen": range(100, 140),
    "fresh": range(140, 180),
}
T = TypeVar("T")


@dataclass(frozen=True)
class Ping:
    """One ping of the catalogue; `points` is what the fallback ranker orders by when nothing else is known."""

    ping_id: str
    creator: int = 0
    topics: tuple[int, ...] = ()
    points: float = 0.0
    impressions: int = 1000
    country: str | None = "DE"
    language: str | None = "de"


def catalogue(count: int, creators: int = 20, **same: Any) -> list[Ping]:
    """Pings p000, p001 ..., the first the best, by creators in turn."""
    return [Ping(f"p{i:03d}", creator=i % creators, points=1 - i / 10_000, **same) for i in range(count)]


def creator_id(number: int) -> str:
    return f"c{number}"


def snapshot_bytes(
    pings: Sequence[Ping], lists: Mapping[str, Sequence[int]] | None = None, tick: int = TICK, digest: str = ""
) -> bytes:
    """A snapshot whose rows and ping numbers are the places in `pings`."""
    n = len(pings)
    values = np.full((n, len(FEATURES.ping)), np.nan, np.float32)
    values[:, [f.name for f in FEATURES.ping].index("ping_points_7d")] = [p.points for p in pings]
    facets = np.full((n, 1, FACET_WIDTH), NO_VALUE, np.uint32)
    for row, ping in enumerate(pings):
        facets[row, 0, : len(ping.topics)] = ping.topics
    block = PingBlock(
        values,
        np.array([p.creator for p in pings], np.uint32),
        facets,
        np.array([place_code(p.country) for p in pings], np.uint32),
        np.array([language_code(p.language) for p in pings], np.uint32),
    )
    content = SnapshotContent(
        tick=tick,
        digest=digest or FEATURES.digest,
        facets=FEATURES.facets,
        ping_ids=[p.ping_id for p in pings],
        numbers=np.arange(n, dtype=np.uint32),
        created_tick=np.arange(n, dtype=np.uint32),
        impressions=np.array([p.impressions for p in pings], np.uint32),
        pings=block,
        creator_ids={p.creator: creator_id(p.creator) for p in pings},
        lists=lists or {},
        topics={topic: f"topic {topic}" for p in pings for topic in p.topics},
    )
    return write(content)


def put_snapshot(artifacts: dict[str, bytes], data: bytes, tick: int = TICK) -> None:
    """Store a snapshot as the batch side does."""
    sha256 = hashlib.sha256(data).hexdigest()
    about = {"tick": tick, "digest": FEATURES.digest, "rows": 1, "created_ms": 0, "sha256": sha256}
    artifacts[snapshot_key(tick)] = data
    artifacts[snapshot_key(tick, "manifest.json")] = msgspec.json.encode(about)


def user_part(
    country: str | None = "DE",
    language: str | None = "de",
    creators: Mapping[int, float] | None = None,
    topics: Mapping[int, float] | None = None,
) -> UserPart:
    def affinities(given: Mapping[int, float] | None) -> tuple[Any, Any]:
        known = sorted((given or {}).items())
        return np.array([k for k, _ in known], np.uint32), np.array([v for _, v in known], np.float32)

    values = np.arange(len(FEATURES.user), dtype=np.float32)
    return UserPart(values, place_code(country), language_code(language), *affinities(creators), *affinities(topics))


def packet_bytes(
    numbers: Iterable[int],
    *source: str,
    user: UserPart | None = None,
    digest: str = "",
    **excluded: Iterable[int],
) -> bytes:
    """A packet of the last tick with these ping numbers, best first, and sets of forbidden and seen ones."""
    sets = {name: np.array(sorted(numbers), np.uint32) for name, numbers in excluded.items()}
    found = np.fromiter(numbers, np.uint32)
    retrieval = np.linspace(230, 20, len(found), dtype=np.uint8)
    sources = np.full(len(found), source_bits(source or ("collaborative",)), np.uint8)
    return encode(Packet(TICK - 1, found, retrieval, sources, user or user_part(), **sets), digest or FEATURES.digest)


FULL_PACKET: Final = packet_bytes(range(100))


def numbered_ids() -> Callable[[int], str]:
    """Request ids from a fixed sequence, so that random choices are the same in every run."""
    numbers = count()
    return lambda _now_ms: f"00000000-0000-7000-8000-{next(numbers):012d}"


@dataclass
class Time:
    """The request clock, and the seconds that a budget is measured by; both stand still until a test moves them."""

    now_ms: int = NOW_MS
    seconds: float = 0.0
    waited_s: float | None = None
    """How long ago a request's first byte arrived, as the server says; None: it does not say."""


@dataclass
class World:
    """A running app and what is behind it."""

    app: FastAPI
    client: httpx.AsyncClient
    time: Time
    spool: Spool
    candidates: MemoryCandidates
    signals: MemorySignals
    trending: MemoryTrending
    artifacts: MemoryArtifacts

    async def feed(self, user_id: str = "u", **query: Any) -> dict[str, Any]:
        """A feed that must be a 200; time passes a little before it."""
        answer = await self.get(user_id=user_id, **query)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def pages(self, count: int, **query: Any) -> list[dict[str, Any]]:
        """The first pages of a chain."""
        found = [await self.feed(**query)]
        while len(found) < count and found[-1]["next_cursor"]:
            found.append(await self.feed(cursor=found[-1]["next_cursor"], **query))
        return found

    async def get(self, **query: Any) -> httpx.Response:
        self.time.now_ms += 1
        return await self.client.get("/get-feed", params=query)

    async def act(self, kind: ActKind, *targets: str, user_id: str = "u") -> None:
        """The user does this to each of the targets, now."""
        self.time.now_ms += 1
        await self.signals.apply([Act(user_id, kind, target, self.time.now_ms) for target in targets])

    async def update(self, user_id: str = "u", **values: str | list[str]) -> None:
        """A `user_updated` event, now."""
        self.time.now_ms += 1
        profile = Profile({name: (self.time.now_ms, value) for name, value in values.items()})
        await self.signals.apply([Act(user_id, "profile", "", self.time.now_ms, profile=profile)])

    async def likes(self, ping_id: str, users: int, country: str = "DE") -> None:
        """So many users like the ping."""
        await self.trending.add(
            [Engagement(f"fan-{i}", ping_id, "like", country, self.time.now_ms) for i in range(users)]
        )

    def give(self, user_id: str, packet: bytes) -> None:
        """Put a packet into the store."""
        self.candidates.packets[user_id] = packet, FAR_MS

    def publish_snapshot(self, data: bytes, tick: int = TICK) -> None:
        put_snapshot(self.artifacts.data, data, tick)
        self.point("snapshot", str(tick))

    def point(self, what: str, current: str) -> None:
        self.artifacts.data[pointer_key(FEATURES.digest, what)] = msgspec.json.encode(Pointer(current))

    def spooled(self) -> list[Row]:
        """What is durable, in order."""
        return [
            row
            for segment in self.spool.segments()
            for record in self.spool.records(segment)
            for row in decode_rows(record.lines)
        ]

    async def served_row(self, request_id: str) -> Row:
        """The `feed_served` row of an answer, once it is in the spool."""
        found: list[Row] = []

        async def there() -> bool:
            found[:] = [row for row in self.spooled() if row["request_id"] == request_id]
            return bool(found)

        await until(there)
        return found[0]

    async def feed_until(
        self, holds: Callable[[dict[str, Any]], bool], user_id: str = "u", **query: Any
    ) -> dict[str, Any]:
        """The first feed for which a condition holds."""

        async def holding() -> dict[str, Any] | None:
            feed = await self.feed(user_id, **query)
            return feed if holds(feed) else None

        return await until(holding)

    async def metric_until(self, name: str, value: float) -> None:
        """Wait until a line of /metrics has this value."""

        async def reached() -> bool:
            return await self.metric(name) == value

        await until(reached)

    async def metric(self, name: str) -> float:
        """The value of one line of /metrics, 0 if it is not there."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0.0)


async def until(condition: Callable[[], Awaitable[T | None]], seconds: float = 20) -> T:
    """Poll a condition until it is true, and return its value; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):  # noqa: ASYNC110 - the state has no event to await
            await asyncio.sleep(0.005)
    return found


def ping_ids(feed: Mapping[str, Any]) -> list[str]:
    return [item["ping_id"] for item in feed["items"]]


@dataclass
class _Stores:
    candidates: MemoryCandidates = field(default_factory=MemoryCandidates)
    signals: MemorySignals = field(default_factory=MemorySignals)
    trending: MemoryTrending = field(default_factory=MemoryTrending)


@asynccontextmanager
async def feed_world(
    folder: Path,
    pings: Sequence[Ping] | None = None,
    lists: Mapping[str, Sequence[int]] | None = None,
    *,
    packet: bytes | None = None,
    peer: str = "127.0.0.1",
    max_spool_bytes: int = 1 << 30,
    sink: MemorySink | None = None,
    candidates: MemoryCandidates | None = None,
    artifacts: Mapping[str, bytes] | None = None,
    files: Artifacts | None = None,
    make_id: Callable[[int], str] = uuid7,
    environ: Mapping[str, str] | None = None,
    **more: str,
) -> AsyncIterator[World]:
    """A feed app whose lifespan runs, with these pings live (none: no snapshot) and this packet of the user u; it
    explores and logs only what the settings ask for. `files` take the place of the artifacts in memory."""
    stores, time = _Stores(candidates or MemoryCandidates()), Time()
    store = MemoryArtifacts(data=dict(artifacts or {}))
    spool = Spool(folder / "spool", max_bytes=max_spool_bytes)
    acts = ServedActs(stores.signals)
    services = Services(
        candidates=stores.candidates,
        signals=stores.signals,
        trending=stores.trending,
        artifacts=files or store,
        delivery=Delivery(spool, sink or MemorySink(), apply=acts.apply, flush_seconds=3600),
        acts=acts,
        clock=lambda: time.now_ms,
        make_id=make_id,
        refresh_s=0.01,
        trending_s=0.01,
        monotonic=lambda: time.seconds,
    )
    chosen = {"EXPLORE_SHARE": "0", "LOG_MATRIX_SHARE": "0", "FEED_BUDGET_MS": "2000"} | dict(environ or {}) | more
    settings = load({f"PINGFEED_{name}": value for name, value in chosen.items()}, cwd=folder)
    app = create_app(services, settings)

    async def stamped(scope: Any, receive: Any, send: Any) -> None:
        if time.waited_s is not None:
            scope["state"] = {ARRIVED_NS: int((time.seconds - time.waited_s) * 1e9)}
        await app(scope, receive, send)

    transport = httpx.ASGITransport(stamped, client=(peer, 50_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://feed") as client:
        world = World(app, client, time, spool, stores.candidates, stores.signals, stores.trending, store)
        if pings is not None:
            world.publish_snapshot(snapshot_bytes(pings, lists))
        if packet is not None:
            world.give("u", packet)
        async with app.router.lifespan_context(app):
            try:
                yield world
            finally:
                for fake in (stores.candidates, stores.signals, stores.trending, store):
                    fake.hangs = False


def shuffled(count: int, seed: int = 0) -> list[int]:
    """Numbers 0 to count - 1 in an order that is not theirs."""
    numbers = list(range(count))
    random.Random(seed).shuffle(numbers)
    return numbers
