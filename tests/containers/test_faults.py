"""AWS is stopped and the cache killed under traffic: no acknowledged event is lost or left unapplied."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import httpx

from pingfeed.core.clock import system_clock, to_iso
from pingfeed.core.ids import uuid7
from simulator.world import user_id
from tests.containers.engine import Composition
from tests.containers.town import Town
from tests.journeys.conftest import wait_for

OUTAGE_S = float(os.environ.get("OUTAGE_SECONDS", "12"))
"""Length of the outage."""
PARTS = {"candidates", "snapshot", "model", "signals", "deadline"}


class Traffic:
    """Events and feeds, a few of each a second, from a thread each, until stopped."""

    def __init__(self, composition: Composition) -> None:
        self.acknowledged: list[str] = []
        self.rejected: Counter[int] = Counter()
        self.feeds: Counter[int] = Counter()
        self.degraded: Counter[str] = Counter()
        self._composition = composition
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(send,)) for send in (self._event, self._feed)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _repeat(self, send: Callable[[httpx.Client, int], None]) -> None:
        with httpx.Client(timeout=30, trust_env=False) as web:
            for number in count(1):
                if self._stop.wait(0.1):
                    return
                send(web, number)

    def _event(self, web: httpx.Client, number: int) -> None:
        now_ms = system_clock()
        event = {"event_id": uuid7(now_ms), "timestamp": to_iso(now_ms), "event_type": "impression"}
        event |= {"user_id": user_id(20 + number % 40), "ping_id": f"ping-{number % 400:05d}"}
        answer = web.post(f"{self._composition.ingest}/track-event", json=event)
        if answer.status_code == 202:
            self.acknowledged.append(event["event_id"])
        else:
            self.rejected[answer.status_code] += 1

    def _feed(self, web: httpx.Client, number: int) -> None:
        answer = web.get(f"{self._composition.feed}/get-feed?user_id={user_id(number % 60)}")
        self.feeds[answer.status_code] += 1
        if answer.status_code == 200:
            self.degraded.update(answer.json()["degraded"])


def test_events_acknowledged_during_an_outage_reach_the_lake_and_take_effect(
    town: Town,
) -> None:
    composition = town.composition
    user = user_id(11)
    hidden = town.shown(user, 10)[0]
    with Traffic(composition) as traffic:
        time.sleep(2)
        composition.run("stop", "aws")
        composition.run("kill", "cache")
        hides = town.send({"event_type": "hide", "user_id": user, "ping_id": hidden})
        time.sleep(OUTAGE_S)
        during = town.feed(user)
        composition.run("start", "aws", "cache")
        wait_for(lambda: town.feed(user)["degraded"] == [], "nothing to be missing any more", 120)
        time.sleep(2)
    assert traffic.feeds.keys() == {200}
    assert "signals" in during["degraded"]
    assert traffic.degraded["signals"] > 0
    assert traffic.degraded.keys() <= PARTS
    assert traffic.rejected.keys() <= {503}
    assert len(traffic.acknowledged) > 20

    wait_for(lambda: hidden not in town.shown(user), "the hide to take effect", 60)
    wanted = {*traffic.acknowledged, *hides}
    wait_for(lambda: not wanted - town.landed().keys(), f"{len(wanted)} acknowledged events to be in the lake", 180)


def test_ingest_restarted_while_the_cache_is_down_accepts_events(town: Town) -> None:
    composition = town.composition
    user = user_id(12)
    hidden = town.shown(user, 10)[0]
    composition.run("stop", "cache")
    try:
        composition.run("restart", "ingest")
        wait_for(lambda: _accepts(town, user, hidden), "ingest to accept an event", 60)
    finally:
        composition.run("start", "cache")
    wait_for(lambda: hidden not in town.shown(user), "the hide to take effect", 60)


def _accepts(town: Town, user: str, ping: str) -> bool:
    event: dict[str, Any] = {"event_type": "hide", "user_id": user, "ping_id": ping}
    try:
        answer = town.composition.web.post(f"{town.composition.ingest}/track-event", json=event)
    except httpx.TransportError:
        return False
    return answer.status_code == 202
