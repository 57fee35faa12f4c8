"""The whole loop in one process, on real adapters and one clock: ingest, lake, ticks, packets, signals, feeds."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx

import feed_api.app
import feed_api.wiring
import ingest_api.app
import ingest_api.wiring
from batch.jobs import tick as ticking
from batch.jobs.nightly import etl
from batch.ops import signals_rebuild
from batch.wiring import build
from pingfeed.adapters import registry
from pingfeed.core.clock import DAY_MS
from pingfeed.core.errors import Unavailable
from pingfeed.core.signals import Act, Signals, UserState
from pingfeed.ports import UserSignals
from pingfeed.settings import Settings, load
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.inline import DirectDelivery
from tests.conformance.samples import eventually
from tests.unit.feed_world import until

TICK_MS: Final = 900_000
NOON_MS: Final = 1_743_508_800_000
"""2025-04-01T12:00:00Z: years of a story go by before it overtakes the machine's clock, which batch runs look at."""


class Switched:
    """A real store that a test can take away."""

    def __init__(self, store: UserSignals, loop: "Loop") -> None:
        self.check, self.close, self.forget = store.check, store.close, store.forget
        self.is_complete, self.mark_complete = store.is_complete, store.mark_complete
        self._store, self._loop = store, loop

    async def apply(self, acts: Sequence[Act]) -> None:
        self._loop.raise_if_down()
        await self._store.apply(acts)

    async def read(self, user_id: str, now_ms: int) -> Signals:
        self._loop.raise_if_down()
        return await self._store.read(user_id, now_ms)


class Loop:
    """Both services and the batch side over one home."""

    def __init__(self, home: Path, **settings: str) -> None:
        environ = {
            "PINGFEED_HOME": str(home),
            "PINGFEED_SINK_FLUSH_SECONDS": "0.05",
            "PINGFEED_FEED_BUDGET_MS": "5000",
            **{f"PINGFEED_{name}": value for name, value in settings.items()},
        }
        self.settings: Settings = load(environ)
        self.now_ms = NOON_MS
        self.down = False
        self.batch = build(self.settings, clock=self.clock, quiet=True)
        self.ingest: httpx.AsyncClient
        self.web: httpx.AsyncClient
        self.delivery: Delivery | DirectDelivery
        self.signals: UserSignals

    def clock(self) -> int:
        return self.now_ms

    def raise_if_down(self) -> None:
        if self.down:
            raise Unavailable("the signals are down")

    async def send(self, *events: dict[str, Any]) -> None:
        """One request; every event must be accepted."""
        self.now_ms += 1
        answer = await self.ingest.post("/track-events", json={"events": list(events)})
        assert answer.status_code == 202, answer.text
        assert answer.json()["rejected"] == []

    async def feed(self, user: str, **parameters: Any) -> dict[str, Any]:
        """One page of a user's feed."""
        self.now_ms += 1
        answer = await self.web.get("/get-feed", params={"user_id": user, **parameters})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def pages(self, user: str, **parameters: Any) -> list[dict[str, Any]]:
        """The items of every page to the end."""
        items: list[dict[str, Any]] = []
        page = await self.feed(user, limit=50, **parameters)
        while page["items"]:
            items += page["items"]
            if page["next_cursor"] is None:
                break
            page = await self.feed(user, limit=50, cursor=page["next_cursor"], **parameters)
        return items

    async def tick(self, *, night: bool = False) -> None:
        """Let the next tick begin, and run it for everybody; the feed takes its snapshot."""
        number = self.now_ms // TICK_MS + 1
        self.now_ms = number * TICK_MS + 5_000
        if night:
            await asyncio.to_thread(etl, self.batch, number)
        await asyncio.to_thread(ticking.run, self.batch, number, everyone=True)

        async def swapped() -> bool:
            found: bool = (await self.feed("watcher"))["tick_ms"] == number * TICK_MS
            return found

        await until(swapped)

    async def applied(self) -> None:
        """Wait until the signals of everything that was accepted are applied."""
        await eventually(lambda: not self.delivery.counters.unapplied)

    async def landed(self) -> None:
        """Wait until everything that was accepted is in the lake."""
        await eventually(lambda: not self.delivery.counters.spooled_events)

    async def feed_signals(self, user: str) -> UserState:
        """What the feed knows of a user."""
        return (await self.signals.read(user, self.now_ms)).state

    async def lose_signals(self) -> None:
        """The store's disk is lost; a new one begins."""
        for path in self.settings.home.rglob("signals.sqlite*"):
            path.unlink()

    async def rebuild(self) -> None:
        """`pingfeed signals rebuild`."""
        await asyncio.to_thread(signals_rebuild.rebuild, self.batch)

    def later(self, days: float) -> None:
        """Let time pass."""
        self.now_ms += int(days * DAY_MS)


@asynccontextmanager
async def loop_world(home: Path, **settings: str) -> AsyncIterator[Loop]:
    """A loop whose services run."""
    loop = Loop(home, **settings)
    opened = registry.open_signals
    registry.open_signals = lambda settings, **more: Switched(opened(settings, **more), loop)
    try:
        built = ingest_api.wiring.build(loop.settings), feed_api.wiring.build(loop.settings)
    finally:
        registry.open_signals = opened
    receiver = replace(built[0], clock=loop.clock)
    feeds = replace(built[1], clock=loop.clock, refresh_s=0.01, trending_s=0.05)
    loop.delivery, loop.signals = receiver.delivery, feeds.signals
    apps = ingest_api.app.create_app(receiver, loop.settings), feed_api.app.create_app(feeds, loop.settings)
    async with AsyncExitStack() as stack:
        clients = []
        for app in apps:
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app, client=("127.0.0.1", 50_000))
            client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
            clients.append(await stack.enter_async_context(client))
        loop.ingest, loop.web = clients
        yield loop
