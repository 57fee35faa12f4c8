"""Whatever users do, in any order of arrival: no page ever shows what is hidden, blocked, muted, deleted or own."""

import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals
from pingfeed.core.clock import DAY_MS, to_iso
from tests.prove import figure, rounds
from tests.unit.fake_dynamodb import FakeDynamodb
from tests.unit.loop_world import Loop, loop_world

SEEDS = rounds(1, 40)
STEPS = 14
DYNAMODB_SEEDS, DYNAMODB_STEPS = rounds(1, 10), rounds(8, 14)
USERS = ("ann", "bob", "c1")
"""One of them is a creator too."""
CREATORS = ("c0", "c1", "c2", "c3", "c4")
TOPICS = ("art", "chess", "de rien", "x" * 128)
UNDO = {"block": "unblock", "hide": "unhide", "mute": "unmute"}

Key = tuple[int, int, int, str]


class Model:
    """What is forbidden, in a dozen lines."""

    def __init__(self) -> None:
        self.said: dict[tuple[str, str, str], tuple[Key, bool]] = {}
        self.pings: dict[str, tuple[str, list[str]]] = {}
        self.deleted: set[str] = set()

    def note(self, user: str, relation: str, target: str, key: Key, *, holds: bool) -> None:
        before = self.said.get((user, relation, target))
        if before is None or before[0] <= key:
            self.said[user, relation, target] = key, holds

    def forbids(self, user: str, ping: str) -> bool:
        creator, topics = self.pings[ping]
        targets = [("hide", ping), ("block", creator), ("mute", f"creator:{creator}")]
        targets += [("mute", f"topic:{topic}") for topic in topics]
        held = (self.said.get((user, *target), (None, False))[1] for target in targets)
        return ping in self.deleted or creator == user or any(held)


class Story:
    """Random acts on a loop, told to the model as well."""

    def __init__(self, loop: Loop, rng: random.Random) -> None:
        self.loop, self.rng, self.model, self.shown = loop, rng, Model(), 0

    async def publish(self, count: int) -> None:
        events = []
        for _ in range(count):
            ping, creator = f"p{len(self.model.pings)}", self.rng.choice(CREATORS)
            topics = self.rng.sample(TOPICS, self.rng.randrange(3))
            self.model.pings[ping] = creator, topics
            events.append({"event_type": "ping_created", "ping_id": ping, "creator_id": creator, "topics": topics})
        await self.loop.send(*events)

    async def act(self) -> None:
        """A request of some events, with client clocks that are wrong and say so, and times of long ago."""
        received_ms, error_ms = self.loop.now_ms + 1, self.rng.choice((0, 0, 5 * DAY_MS, -400 * DAY_MS))
        events: list[dict[str, Any]] = []
        for seq in range(self.rng.randrange(1, 7)):
            at_ms = received_ms - self.rng.choice((0, 1, 2000, self.rng.randrange(400 * DAY_MS)))
            number = f"{self.rng.getrandbits(32):08x}-0000-4000-8000-000000000000"
            times = {"timestamp": to_iso(at_ms + error_ms), "sent_at": to_iso(received_ms + error_ms)}
            event = self._any(self.rng.choice(USERS), (at_ms, received_ms, seq, number))
            events.append({**event, **times, "event_id": number})
        await self.loop.send(*events)

    def _any(self, user: str, key: Key) -> dict[str, Any]:
        ping, creator = self.rng.choice(list(self.model.pings)), self.rng.choice(CREATORS)
        kind = self.rng.choice(("hide", "report", "block", "mute", "mute", "impression", "like", "follow", "deleted"))
        about: dict[str, Any] = {"user_id": user}
        match kind:
            case "deleted":
                if self.rng.random() < 0.3:
                    self.model.deleted.add(ping)
                    return {"event_type": "ping_deleted", "ping_id": ping}
                return {"event_type": "impression", "ping_id": ping, **about}
            case "impression" | "like":
                return {"event_type": kind, "ping_id": ping, **about}
            case "follow":
                return {"event_type": kind, "creator_id": creator, **about}
            case "hide" | "report":
                target, about["ping_id"] = ping, ping
            case "block":
                target, about["creator_id"] = creator, creator
            case _:
                name, value = self.rng.choice((("creator_id", creator), ("topic", self.rng.choice(TOPICS))))
                target, about[name] = f"{name.removesuffix('_id')}:{value}", value
        relation = "hide" if kind == "report" else kind
        holds = self.rng.random() < 0.6
        self.model.note(user, relation, target, key, holds=holds)
        return {"event_type": kind if holds else UNDO[relation], **about}

    async def check(self) -> None:
        """Every page of every user."""
        for user in (*USERS, "unknown"):
            items = await self.loop.pages(user)
            wrong = [item["ping_id"] for item in items if self.model.forbids(user, item["ping_id"])]
            assert wrong == [], f"{user} gets {wrong}"
            self.shown += len(items)

    async def step(self) -> None:
        match self.rng.choice(("act", "act", "act", "act", "down", "tick", "later", "rebuild")):
            case "act":
                await self.act()
            case "down":
                self.loop.down = True
                await self.act()
                self.loop.down = False
                await self.loop.applied()
            case "tick":
                await self.loop.tick()
            case "later":
                self.loop.later(self.rng.choice((0.1, 1, 36)))
                await self.loop.tick()
                await self.publish(12)
                await self.loop.tick()
            case "rebuild":
                await self.loop.landed()
                await self.loop.lose_signals()
                await self.loop.rebuild()


async def tell(loop: Loop, seed: int, steps: int = STEPS) -> int:
    """A story, every page of it checked; how many items were shown."""
    story = Story(loop, random.Random(seed))
    await story.publish(40)
    await loop.tick()
    for _ in range(steps):
        await story.step()
        await story.check()
    return story.shown


@pytest.mark.timeout(1800)
async def test_no_page_ever_shows_what_is_forbidden(tmp_path: Path) -> None:
    shown = 0
    for seed in range(SEEDS):
        async with loop_world(tmp_path / str(seed), EXPLORE_SHARE="1") as loop:
            shown += await tell(loop, seed)
    figure("forbidden", stories=SEEDS, steps=SEEDS * STEPS, items=shown)
    assert shown > 50 * SEEDS


def losing(patch: pytest.MonkeyPatch, clear: Callable[[], None]) -> Callable[[], Coroutine[Any, Any, None]]:
    """What a lost table of DynamoDB is: empty, and every process that knew it as complete is a new one."""
    opened = list[DynamodbUserSignals]()
    begin = DynamodbUserSignals.__init__

    def noted(self: DynamodbUserSignals, url: str) -> None:
        begin(self, url)
        opened.append(self)

    async def lose() -> None:
        clear()
        for store in opened:
            store._marked_ms = None

    patch.setattr(DynamodbUserSignals, "__init__", noted)
    return lose


@pytest.mark.timeout(1800)
async def test_nor_with_the_signals_in_dynamodb(
    tmp_path: Path, fake: FakeDynamodb, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, lose = 0, losing(monkeypatch, fake.tables["signals"].clear)
    for seed in range(200, 200 + DYNAMODB_SEEDS):
        await lose()
        async with loop_world(tmp_path / str(seed), EXPLORE_SHARE="1", SIGNALS_URL="dynamodb://signals") as loop:
            loop.lose_signals = lose  # type: ignore[method-assign]
            shown += await tell(loop, seed, DYNAMODB_STEPS)
    figure("forbidden, in DynamoDB", stories=DYNAMODB_SEEDS, steps=DYNAMODB_SEEDS * DYNAMODB_STEPS, items=shown)
    assert shown > 50 * DYNAMODB_SEEDS
