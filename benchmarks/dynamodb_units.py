"""What signals and packets cost in DynamoDB, in write and read units: python -m benchmarks.dynamodb_units [--json]

A simulated week: every day a user has four sessions of five feeds on average, of ten pings each, and an app that posts
events 20 at a time. All ids are UUIDs; with --seen 1500 users begin with the seen pings of a month. The adapters are
the real ones, over a DynamoDB in memory that counts units as AWS bills them: a write is the larger of the item before
and after in started KiB, one whose condition fails costs the same, a consistent read takes started 4 KiB, others half,
and an absent item counts as one. Two processes serve feeds, the second a tenth of them, as Lambda scales, and one takes
events; each is replaced every hour. Of a tick the packets of users who were active since the last one are written.

What a real account bills beside this: storage. TTL removes items for nothing.
"""

import argparse
import asyncio
import heapq
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

import msgspec
import numpy as np
from botocore.exceptions import ClientError
from rich.console import Console
from rich.table import Table

from pingfeed.adapters._dynamodb.items import Item, item_bytes, write_units
from pingfeed.adapters.candidates_dynamodb import DynamodbCandidateStore
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals
from pingfeed.aws import AwsClient
from pingfeed.core.acts import acts_of
from pingfeed.core.clock import DAY_MS, HOUR_MS
from pingfeed.core.events import Row
from pingfeed.core.packet import MAX_EXCLUDED_BYTES, TTL_S, Packet, UserPart, encode, first_that_fit
from pingfeed.core.signals import Act
from tests.unit.fake_dynamodb import FakeDynamodb, Work
from tests.unit.feed_world import FEATURES

TABLE: Final = "pingfeed-dev"
START_MS: Final = 1_795_305_600_000
PINGS: Final = 20_000
CREATORS: Final = 500
TICK_MS: Final = 15 * 60_000
POSTED: Final = 20
AFTER_A_VIEW: Final = {"like": 0.12, "comment": 0.03, "hide": 0.03, "follow": 0.03, "mute": 0.01, "block": 0.01}
"""What follows a view, by chance; 40 of 100 impressions become views."""


class Cost(msgspec.Struct):
    """What the cost model reads: means of one feed, one POST and one packet."""

    users: int
    days: float
    seen_before: int
    feeds: int
    posts: int
    packets: int
    served_acts: int
    feed_write_units: float
    feed_read_units: float
    post_write_units: float
    post_read_units: float
    packet_write_units: float
    packet_write_units_median: float
    packet_write_units_p95: float
    folds: int
    refused_conditions: int
    feeds_with_a_second_call: int
    seconds: float


class CountingDynamodb(FakeDynamodb):
    """Counts the units of each call for what is `doing`."""

    doing = ""

    def __init__(self) -> None:
        super().__init__({TABLE: {}}, deque(maxlen=1))  # type: ignore[arg-type]
        self.reads, self.writes, self.counts = Counter[str](), Counter[str](), Counter[str]()

    async def _call(self, operation: str, parameters: dict[str, Any], work: Work) -> dict[str, Any]:
        items = self.tables[TABLE]
        self.counts[f"{self.doing} {operation}"] += 1
        if operation == "batch_get_item":
            for asked in parameters["RequestItems"].values():
                sizes = (item_bytes(items[key["k"]["S"]]) if key["k"]["S"] in items else 1 for key in asked["Keys"])
                price = 1 if asked["ConsistentRead"] else 0.5
                self.reads[self.doing] += sum(-(-size // 4096) * price for size in sizes)  # type: ignore[assignment]
            return work()
        if operation == "batch_write_item":
            puts = [one["PutRequest"]["Item"] for one in parameters["RequestItems"][TABLE]]
            self.writes[self.doing] += sum(self._price(one["k"]["S"], one) for one in puts)
            return work()
        key = (parameters.get("Key") or parameters["Item"])["k"]["S"]
        before = self._price(key)
        try:
            return work()
        except ClientError:
            self.counts["refused"] += 1
            raise
        finally:
            self.writes[self.doing] += max(before, self._price(key))
            self.counts["folds"] += operation == "put_item" and key.count("/") == 1 and key.startswith("s/")

    def _price(self, key: str, new: Item | None = None) -> int:
        old = self.tables[TABLE].get(key)
        return max(write_units(one) if one else 1 for one in (old, new))


@dataclass
class User:
    """A user, and the app that holds events back."""

    id: str
    rng: random.Random
    seen: dict[int, None] = field(default_factory=dict)
    waiting: list[Row] = field(default_factory=list)


class World:
    """A week of users over the adapters."""

    def __init__(self, users: int, days: float, seen: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.days, self.fake = days, CountingDynamodb()
        self.pings = [self._uuid() for _ in range(PINGS)]
        self.creators = [self._uuid() for _ in range(CREATORS)]
        self.users = [User(self._uuid(), random.Random(self.rng.random())) for _ in range(users)]
        self.begin_seen = seen
        self.stores: dict[str, tuple[int, DynamodbUserSignals]] = {}
        self.candidates = DynamodbCandidateStore(f"dynamodb://{TABLE}?writes_per_second=1000000000")
        self.active: set[int] = set()
        self.packets: list[int] = []
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        """Everything in the order of time."""
        await self._begin()
        visits = heapq.merge(*(self._visits(at) for at in range(len(self.users))))
        tick = START_MS + TICK_MS
        deletions = START_MS
        for at_ms, number in visits:
            while at_ms >= tick:
                await self._tick(tick)
                tick += TICK_MS
            if at_ms >= deletions:
                deletions += HOUR_MS
                await self._store("ingest", at_ms, "other").apply(
                    [Act("", "deleted", self.rng.choice(self.pings), at_ms)]
                )
            await self._feed(self.users[number], at_ms)
            self.active.add(number)
        await self.candidates.close()
        for _, store in self.stores.values():
            await store.close()

    def _visits(self, number: int) -> Iterator[tuple[int, int]]:
        rng = self.users[number].rng
        for day in range(int(np.ceil(self.days))):
            starts = sorted(rng.uniform(7, 23) * HOUR_MS for _ in range(rng.choice((2, 3, 4, 4, 5, 6))))
            for start in starts:
                at_ms = START_MS + day * DAY_MS + int(start)
                for _ in range(rng.choice((2, 4, 5, 6, 8))):
                    at_ms += int(rng.uniform(30, 240) * 1000)
                    if at_ms < START_MS + self.days * DAY_MS:
                        yield at_ms, number

    async def _begin(self) -> None:
        store = self._store("ingest", START_MS, "other")
        await store.mark_complete()
        for user in self.users:
            user.seen = dict.fromkeys(user.rng.sample(range(PINGS), self.begin_seen))
            posts = [START_MS - user.rng.randrange(30 * DAY_MS) for _ in range(1 + self.begin_seen // 15)]
            times = [posts[number // 15] for number in range(self.begin_seen)]
            acts = [Act(user.id, "seen", self.pings[ping], at) for ping, at in zip(user.seen, times, strict=True)]
            said = {"event_type": "user_updated", "country": "DE", "language": "de", "interests": ["art", "chess"]}
            await store.apply([*acts, *acts_of(self._row(user, START_MS, said))])

    async def _feed(self, user: User, at_ms: int) -> None:
        process = "feed" if self.rng.random() < 0.9 else "other feed"
        store, calls = self._store(process, at_ms, "feed"), self._calls()
        await asyncio.gather(self.candidates.get(user.id, at_ms), store.read(user.id, at_ms))
        self.done["second calls"] += self._calls() > calls + 1
        shown = [ping for ping in user.rng.sample(range(PINGS), 30) if ping not in user.seen][:10]
        served = {
            "event_type": "feed_served",
            "request_id": self._uuid(),
            "served_pings": [self.pings[p] for p in shown],
        }
        await store.apply(acts_of(self._row(user, at_ms, served)))
        self.done["feeds"] += 1
        user.waiting += self._events(user, shown, at_ms)
        if len(user.waiting) >= POSTED:
            rows = [{**row, "received_ms": at_ms + 15_000, "seq": seq} for seq, row in enumerate(user.waiting)]
            await self._store("ingest", at_ms, "post").apply([act for row in rows for act in acts_of(row)])
            user.waiting.clear()
            self.done["posts"] += 1

    def _events(self, user: User, shown: list[int], at_ms: int) -> list[Row]:
        """Five events a feed: 100 a day."""
        rows: list[Row] = []
        for ping in shown:
            kinds = ["impression"]
            if user.rng.random() < 0.4:
                kinds += ["view", *(kind for kind, chance in AFTER_A_VIEW.items() if user.rng.random() < chance)]
            for kind in kinds:
                by_creator = kind in ("follow", "block", "mute")
                about = {"creator_id": self.creators[ping % CREATORS]} if by_creator else {"ping_id": self.pings[ping]}
                rows.append(self._row(user, at_ms + 2000 * len(rows), {"event_type": kind, **about}))
            user.seen[ping] = None
            if len(rows) >= 5:
                break
        return rows

    async def _tick(self, at_ms: int) -> None:
        made = {self.users[number].id: self._packet(self.users[number], at_ms) for number in sorted(self.active)}
        self.active.clear()
        self.fake.doing = "packet"
        await self.candidates.put_many(made, at_ms + TTL_S * 1000)
        self.packets += [write_units(self.fake.tables[TABLE][f"p/{user_id}"]) for user_id in made]

    def _packet(self, user: User, at_ms: int) -> bytes:
        rng = np.random.default_rng(user.rng.randrange(1 << 32))
        numbers = rng.choice(PINGS, 100, replace=False).astype(np.uint32)
        own, ones = np.sort(rng.choice(CREATORS, 16, replace=False)).astype(np.uint32), np.ones(16, np.float32)
        part = UserPart(np.ones(len(FEATURES.user), np.float32), 1, 1, own, ones, own, ones)
        seen, _ = first_that_fit(np.array(list(user.seen)[::-1], np.uint32), MAX_EXCLUDED_BYTES)
        values, bits = np.arange(100, dtype=np.uint8), np.ones(100, np.uint8)
        return encode(Packet(at_ms // TICK_MS, numbers, values, bits, part, seen=seen), FEATURES.digest)

    def _store(self, process: str, at_ms: int, doing: str) -> DynamodbUserSignals:
        """A process's store; a new process takes its place every hour."""
        self.fake.doing = doing
        hour = at_ms // HOUR_MS
        known = self.stores.get(process)
        if known is None or known[0] != hour:
            self.stores[process] = hour, DynamodbUserSignals(f"dynamodb://{TABLE}")
        return self.stores[process][1]

    def _calls(self) -> int:
        return self.fake.counts["feed batch_get_item"]

    def _row(self, user: User, at_ms: int, values: Row) -> Row:
        common = {"user_id": user.id, "timestamp_ms": at_ms, "received_ms": at_ms, "seq": 0, "event_id": self._uuid()}
        return {**common, **values}

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))


def simulate(users: int = 1000, days: float = 7, seen: int = 0, seed: int = 1) -> Cost:
    """A week."""
    began = time.perf_counter()
    world = World(users, days, seen, seed)

    async def opened(_: AwsClient) -> FakeDynamodb:
        return world.fake

    with patch.object(AwsClient, "_open", opened):
        asyncio.run(world.run())
    fake, done = world.fake, world.done
    feeds, posts = done["feeds"], max(1, done["posts"])
    return Cost(
        users,
        days,
        seen,
        feeds,
        done["posts"],
        len(world.packets),
        feeds,
        fake.writes["feed"] / feeds,
        fake.reads["feed"] / feeds,
        fake.writes["post"] / posts,
        fake.reads["post"] / posts,
        fake.writes["packet"] / max(1, len(world.packets)),
        float(np.percentile(world.packets or [0], 50)),
        float(np.percentile(world.packets or [0], 95)),
        fake.counts["folds"],
        fake.counts["refused"],
        done["second calls"],
        round(time.perf_counter() - began, 1),
    )


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--days", type=float, default=7)
    parser.add_argument("--seen", type=int, default=0, help="pings that each user has seen when the week begins")
    parser.add_argument("--json", action="store_true", help="JSON for the cost model")
    options = parser.parse_args()
    cost = simulate(options.users, options.days, options.seen)
    if options.json:
        print(msgspec.json.encode(cost).decode())
        return
    table = Table("a simulated week", "")
    for name, value in msgspec.structs.asdict(cost).items():
        table.add_row(name.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
