"""Live play: users of the world ask for feeds, behave on what they are served and report it; creators post.

All over HTTP, as an app would. Watching takes no time here: what a user does with a feed is reported at once, so that
the rate of events is set by the caller and not by how long a ping lasts.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pingfeed.core.clock import Clock, to_iso
from pingfeed.core.errors import PingfeedError
from pingfeed.core.ids import IdMaker
from simulator.behave import KINDS, events_of, numbers_of, react
from simulator.people import Ints, rhythm
from simulator.remote import Feed, Receipt, Services
from simulator.world import World, user_id

PLAYERS: Final = 4
"""Users at a time: enough to keep a service busy while one of them waits for an answer."""
_FOLLOW: Final = KINDS.index("follow")


@dataclass
class Counts:
    """What happened so far."""

    feeds: int = 0
    empty_feeds: int = 0
    degraded_feeds: int = 0
    events: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    pings: int = 0
    retries: int = 0
    refused: str | None = None


class Pace:
    """At most `rate` events a second on average, whoever sends them."""

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self._rate = rate
        self._now = now
        self._free_at = now()

    def book(self, events: int) -> float:
        """Reserve the time that `events` take; returns the seconds to wait before sending them."""
        start = max(self._free_at, self._now())
        self._free_at = start + events / self._rate
        return start - self._now()


class Live:
    """One run of live play. `run` ends when `services.patience.stop` is set, by the caller or by a duration."""

    def __init__(
        self,
        world: World,
        services: Services,
        *,
        rate: float,
        clock: Clock,
        make_id: IdMaker,
        ping_event_id: Callable[[int], str],
        rng: np.random.Generator,
    ) -> None:
        self.counts = Counts()
        self._world = world.at(clock())
        self._services = services
        self._stop = services.patience.stop
        self._rate = rate
        self._clock = clock
        self._make_id = make_id
        self._ping_event_id = ping_event_id
        self._rng = rng
        self._follows: set[tuple[int, int]] = set()
        self._failure: PingfeedError | None = None

    async def run(self, seconds: float | None = None) -> Counts:
        """Play for `seconds`, or until stopped; returns what happened.

        A service that is away is waited for; one that refuses whole requests (a wrong address, a missing key) ends the
        run with its error.
        """
        pace = Pace(self._rate, asyncio.get_running_loop().time)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._until_stopped(self._post))
            for _ in range(PLAYERS):
                tasks.create_task(self._until_stopped(lambda: self._visit(pace)))
            if seconds is not None:
                await self._services.patience.sleep(seconds)
                self._stop.set()
        self.counts.retries = self._services.patience.retries
        if self._failure is not None:
            raise self._failure
        return self.counts

    async def _until_stopped(self, act: Callable[[], Awaitable[None]]) -> None:
        while not self._stop.is_set():
            try:
                await act()
            except PingfeedError as error:
                # Patience gives up on a service that is away only when the run is over: that is no failure.
                if not self._stop.is_set():
                    self._failure = error
                    self._stop.set()

    async def _visit(self, pace: Pace) -> None:
        user = self._someone()
        feed = await self._services.get_feed(user_id(user))
        self.counts.feeds += 1
        self.counts.empty_feeds += not feed.pings
        self.counts.degraded_feeds += bool(feed.degraded)
        events = self._behave(user, feed)
        # A visit without events must not turn into a busy loop.
        await self._services.patience.sleep(pace.book(max(1, len(events))))
        if events and not self._stop.is_set():
            self._count(await self._services.send(events), len(events))

    def _someone(self) -> int:
        """A user, by activity and by the hour of their day."""
        busy = rhythm(np.array([self._clock()]))[0]
        weight = self._world.users.feeds_per_day * busy[self._world.users.place]
        return int(self._rng.choice(len(weight), p=weight / weight.sum()))

    def _behave(self, user: int, feed: Feed) -> list[dict[str, Any]]:
        """What the user does with the feed, as events with ids and times."""
        if not feed.pings:
            return []
        now = self._clock()
        world = self._now_world(now)
        pings = numbers_of(world, feed.pings)
        reactions = react(
            world, np.array([user]), pings[None], np.array([now]), self._following(user, pings), self._rng
        )
        acts = reactions.done[:, 0]
        self._follows |= {(user, int(world.pings.creator[pings[slot]])) for slot in np.flatnonzero(acts[_FOLLOW])}
        events = events_of(world, user, feed.pings, pings, feed.request_id, acts, reactions.watch[0])
        for event in events:
            event |= {"event_id": self._make_id(now), "timestamp": to_iso(now)}
        return events

    def _following(self, user: int, pings: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        creators = self._world.pings.creator[pings].tolist()
        return np.array([[(user, creator) in self._follows for creator in creators]])

    def _now_world(self, now_ms: int) -> World:
        if now_ms >= self._world.next_ping_ms:
            self._world = self._world.at(now_ms)
        return self._world

    async def _post(self) -> None:
        """Announce the newest ping, then wait until the next one is made."""
        world = self._now_world(self._clock())
        number = len(world.pings) - 1
        if number >= world.spec.pings:
            created = {"event_id": self._ping_event_id(number), "timestamp": to_iso(self._clock())}
            self._count(await self._services.send([world.ping_event(number) | created]), 1)
            self.counts.pings += 1
        await self._services.patience.sleep((world.next_ping_ms - self._clock()) / 1000)

    def _count(self, receipt: Receipt, sent: int) -> None:
        self.counts.events += sent
        self.counts.accepted += receipt.accepted
        self.counts.duplicates += receipt.duplicates
        self.counts.rejected += receipt.rejected
        self.counts.refused = self.counts.refused or receipt.refused
