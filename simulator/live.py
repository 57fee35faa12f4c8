"""Live traffic: users of the world request feeds, react to what is served and report it; creators post pings.

All over HTTP, as an app would. Watching takes no time: a user's reactions are reported at once, so the caller's rate
limits the events, not the duration of pings.
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
from simulator.lake import ping_event_id
from simulator.people import activity_at
from simulator.remote import Services
from simulator.world import World, user_id

PLAYERS: Final = 4
"""Concurrent users: enough to keep a service busy while one of them waits for a response."""
_FOLLOW: Final = KINDS.index("follow")


@dataclass
class Counts:
    """Totals of a run."""

    feeds: int = 0
    empty_feeds: int = 0
    degraded_feeds: int = 0
    events: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    pings: int = 0
    retries: int = 0
    first_rejection: str | None = None


class RateLimiter:
    """Limits all senders together to `rate` events a second on average."""

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self._rate = rate
        self._now = now
        self._free_at = now()

    def reserve(self, events: int) -> float:
        """Reserve the time that `events` take; returns the seconds to wait before sending them."""
        start = max(self._free_at, self._now())
        self._free_at = start + events / self._rate
        return start - self._now()


class LiveTraffic:
    """One run, which ends when `services.stop` is set, by the caller or after a duration."""

    def __init__(
        self, world: World, services: Services, *, rate: float, clock: Clock, make_id: IdMaker, rng: np.random.Generator
    ) -> None:
        self.counts = Counts()
        self._world = world.at(clock())
        self._services = services
        self._rate = rate
        self._clock = clock
        self._make_id = make_id
        self._rng = rng
        self._follows: set[tuple[int, int]] = set()
        self._failure: PingfeedError | None = None

    async def run(self, seconds: float | None = None) -> Counts:
        """Run for `seconds`, or until stopped; returns the totals.

        Waits for a service that is unavailable. A rejected request (a wrong address, a missing key) ends the run with
        its error.
        """
        limiter = RateLimiter(self._rate, asyncio.get_running_loop().time)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._until_stopped(self._post))
            for _ in range(PLAYERS):
                tasks.create_task(self._until_stopped(lambda: self._visit(limiter)))
            if seconds is not None:
                await self._services.sleep(seconds)
                self._services.stop.set()
        self.counts.retries = self._services.retries
        if self._failure is not None:
            raise self._failure
        return self.counts

    async def _until_stopped(self, step: Callable[[], Awaitable[None]]) -> None:
        while not self._services.stop.is_set():
            try:
                await step()
            except PingfeedError as error:
                # Once the run is over, an unavailable service is no failure.
                if not self._services.stop.is_set():
                    self._failure = error
                    self._services.stop.set()

    async def _visit(self, limiter: RateLimiter) -> None:
        user = self._draw_user()
        feed = await self._services.get_feed(user_id(user))
        self.counts.feeds += 1
        self.counts.empty_feeds += not feed["items"]
        self.counts.degraded_feeds += bool(feed["degraded"])
        events = self._react(user, feed["request_id"], [item["ping_id"] for item in feed["items"]])
        # Without a pause, visits without events would be a busy loop.
        await self._services.sleep(limiter.reserve(max(1, len(events))))
        if events and not self._services.stop.is_set():
            await self._send(events)

    def _draw_user(self) -> int:
        """A user, weighted by activity and local hour."""
        activity = activity_at(np.array([self._clock()]))[0]
        weight = self._world.users.feeds_per_day * activity[self._world.users.place]
        return int(self._rng.choice(len(weight), p=weight / weight.sum()))

    def _react(self, user: int, request_id: str, items: list[str]) -> list[dict[str, Any]]:
        """The user's reactions to a feed as events with ids and times."""
        if not items:
            return []
        now = self._clock()
        world = self._world_at(now)
        pings = numbers_of(world, items)
        pairs = [(user, creator) for creator in world.pings.creator[pings].tolist()]
        follows = np.array([[pair in self._follows for pair in pairs]])
        reactions = react(world, np.array([user]), pings[None], np.array([now]), follows, self._rng)
        done = reactions.done[:, 0]
        self._follows |= {pairs[slot] for slot in np.flatnonzero(done[_FOLLOW])}
        events = events_of(world, user, items, pings, request_id, done, reactions.watch[0])
        for event in events:
            event |= {"event_id": self._make_id(now), "timestamp": to_iso(now)}
        return events

    def _world_at(self, now_ms: int) -> World:
        if now_ms >= self._world.next_ping_ms:
            self._world = self._world.at(now_ms)
        return self._world

    async def _post(self) -> None:
        """Announce the newest ping, then wait until the next one is created."""
        world = self._world_at(self._clock())
        number = len(world.pings) - 1
        if number >= world.spec.pings:
            times = {"event_id": ping_event_id(world.spec.seed, number), "timestamp": to_iso(self._clock())}
            await self._send([world.ping_event(number) | times])
            self.counts.pings += 1
        await self._services.sleep((world.next_ping_ms - self._clock()) / 1000)

    async def _send(self, events: list[dict[str, Any]]) -> None:
        reply = await self._services.send(events)
        self.counts.events += len(events)
        self.counts.accepted += reply["accepted"]
        self.counts.duplicates += reply["duplicates"]
        self.counts.rejected += len(reply["rejected"])
        if reply["rejected"] and self.counts.first_rejection is None:
            self.counts.first_rejection = reply["rejected"][0]["message"]
