"""Fakes that satisfy the ports in memory, and can be told to be down or to hang."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import NotFound, PingfeedError, Unavailable
from pingfeed.core.events import Row, decode_rows
from pingfeed.core.signals import DELETED_TTL_MS, MAX_DELETED, Act, Signals
from pingfeed.core.trending import DECAY_RATE, TRENDING_WEIGHTS, Engagement
from pingfeed.ports import Batch, SinkCounters
from tests.unit.whole_state import WholeState


@dataclass
class Fake:
    """Down while `down` says why; every call hangs while `hangs`."""

    down: str = ""
    hangs: bool = False
    before: Callable[[], None] | None = None
    """Runs before each call answers."""
    closed: bool = False
    cancelled: int = 0
    """Calls that were given up while they hung."""

    async def check(self) -> None:
        if self.down:
            raise Unavailable(self.down)

    async def close(self) -> None:
        self.closed = True

    async def _called(self) -> None:
        await asyncio.sleep(0)  # as a store would, let others run
        if self.before:
            self.before()
        try:
            while self.hangs:  # noqa: ASYNC110 - a test lets go of it by setting a plain flag
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        await Fake.check(self)


@dataclass
class MemorySink(Fake):
    """EventSink; `rows` is what it took."""

    rows: list[Row] = field(default_factory=list)
    counters: SinkCounters = field(default_factory=SinkCounters)

    async def write(self, batch: Batch) -> None:
        await self._called()
        self.rows += [row for lines in batch.lines for row in decode_rows(lines)]


@dataclass
class MemoryCandidates(Fake):
    """CandidateStore."""

    packets: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    async def get(self, user_id: str, now_ms: int) -> bytes | None:
        await self._called()
        packet, expires_ms = self.packets.get(user_id, (None, 0))
        return packet if expires_ms > now_ms else None

    async def put_many(self, packets: Mapping[str, bytes], expires_ms: int) -> None:
        await self._called()
        self.packets.update({user_id: (packet, expires_ms) for user_id, packet in packets.items()})

    async def delete(self, user_id: str) -> None:
        await self._called()
        self.packets.pop(user_id, None)


@dataclass
class MemorySignals(Fake):
    """UserSignals; keeps encoded states, as a store does."""

    states: dict[str, bytes] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)
    applied: list[Act] = field(default_factory=list)
    complete: bool = True
    read_only: str = ""
    """Why nothing can be written, as on a replica."""

    async def check(self) -> None:
        await super().check()
        if self.read_only:
            raise Unavailable(self.read_only)

    async def apply(self, acts: Sequence[Act]) -> None:
        await self._called()
        await self.check()
        for act in acts:
            self._apply(act)

    async def read(self, user_id: str, now_ms: int) -> Signals:
        await self._called()
        state = WholeState.decode(self.states.get(user_id)).at(now_ms)
        deleted = {ping for ping, at_ms in self.deleted.items() if at_ms > now_ms - DELETED_TTL_MS}
        return Signals(state, deleted, self.complete)

    async def forget(self, user_id: str) -> None:
        await self._called()
        self.states.pop(user_id, None)

    async def is_complete(self) -> bool:
        await self._called()
        return self.complete

    async def mark_complete(self) -> None:
        await self._called()
        self.complete = True

    def _apply(self, act: Act) -> None:
        self.applied.append(act)
        if act.kind == "deleted":
            self.deleted[act.target] = max(self.deleted.get(act.target, 0), act.at_ms)
            for ping_id in list(self.deleted)[:-MAX_DELETED]:
                del self.deleted[ping_id]
            return
        state = WholeState.decode(self.states.get(act.user_id))
        state.apply(act)
        self.states[act.user_id] = state.encode()


@dataclass
class MemoryTrending(Fake):
    """Trending; keeps every engagement that counts and sums them when asked."""

    counted: dict[tuple[str, str, str, int], Engagement] = field(default_factory=dict)
    asked: list[str | None] = field(default_factory=list)

    async def add(self, engagements: Sequence[Engagement]) -> None:
        await self._called()
        for e in engagements:
            self.counted.setdefault((e.user_id, e.ping_id, e.event_type, e.at_ms // DAY_MS), e)

    async def top(self, country: str | None, limit: int, now_ms: int) -> list[tuple[str, float]]:
        await self._called()
        self.asked.append(country)
        weights: dict[str, float] = {}
        for e in self.counted.values():
            if country in (None, e.country):
                decayed = TRENDING_WEIGHTS[e.event_type] * math.exp(-DECAY_RATE * (now_ms - e.at_ms))
                weights[e.ping_id] = weights.get(e.ping_id, 0.0) + decayed
        return sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:limit]


@dataclass
class MemoryArtifacts(Fake):
    """Artifacts."""

    data: dict[str, bytes] = field(default_factory=dict)
    gets: list[str] = field(default_factory=list)

    async def get(self, key: str) -> bytes:
        await self._called()
        self.gets.append(key)
        if key not in self.data:
            raise NotFound(f"{key} does not exist")
        return self.data[key]

    async def put(self, key: str, data: bytes) -> None:
        await self._called()
        self.data[key] = data

    async def swap(self, key: str, data: bytes, seen: bytes | None) -> bool:
        await self._called()
        if self.data.get(key) != seen:
            return False
        self.data[key] = data
        return True

    async def delete(self, key: str) -> None:
        await self._called()
        self.data.pop(key, None)


class RowSignals:
    """Stands for the signals' stores: takes rows in, and refuses while `error` is set."""

    def __init__(self) -> None:
        self.applied: list[str] = []
        self.error: PingfeedError | None = None

    async def apply(self, rows: Sequence[Row]) -> None:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.applied += [row["ping_id"] for row in rows]
