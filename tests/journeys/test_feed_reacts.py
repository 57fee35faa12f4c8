"""The loop over real HTTP, both services as processes: what a user does shows in the next feed, and is learned from."""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.compute as pc
import pytest

from batch.jobs import tick
from batch.jobs.nightly import etl
from batch.training.train import train
from batch.wiring import build
from pingfeed.adapters.registry import open_candidates
from pingfeed.core.clock import system_clock, to_iso
from pingfeed.core.features import SOURCES
from pingfeed.core.ids import uuid7
from pingfeed.core.packet import decode
from pingfeed.core.snapshot import Snapshot
from pingfeed.settings import load
from simulator.lake import write_history
from simulator.measure import open_events
from simulator.world import Spec, World, creator_id, user_id
from tests.journeys.conftest import Running, Services, command_at, wait_for

TICK_MS = 900_000
USERS = 80
WATCHER = 7


class Town:
    """A small world with both services running over it."""

    def __init__(self, home: Path) -> None:
        self.services = Services(home)
        self.services.environ |= {
            "PINGFEED_SINK_FLUSH_SECONDS": "0.2",
            "PINGFEED_LOG_MATRIX_SHARE": "1",
            # A slow moment of a busy machine is not what these tests are about.
            "PINGFEED_FEED_BUDGET_MS": "5000",
        }
        self.now_tick = system_clock() // TICK_MS
        self.now_ms = 0
        self.world = World.build(
            Spec(
                seed=5,
                users=USERS,
                pings=500,
                days=6,
                until_ms=self.now_tick * TICK_MS,
                tick_ms=TICK_MS,
                feeds_per_day=3,
            )
        )
        write_history(self.world, home / "lake")
        batch = build(load(self.services.environ), quiet=True)
        etl(batch, self.now_tick)
        train(batch, self.now_tick)
        tick.run(batch, self.now_tick, everyone=True)
        self.features = batch.features
        self.ingest: Running = self.services.start("ingest")
        self.feed_service: Running = self.services.start("feed")
        self.web = httpx.Client(timeout=30)

    def feed(self, user: str, limit: int = 10, **more: str) -> dict[str, Any]:
        """A user's feed."""
        answer = self.web.get(f"{self.feed_service.url}/get-feed", params={"user_id": user, "limit": limit, **more})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        assert found["degraded"] == []
        return found

    def send(self, *events: dict[str, Any]) -> None:
        """Post events; all must be accepted."""
        now_ms = system_clock()
        stamped = [{"event_id": uuid7(now_ms), "timestamp": to_iso(now_ms), **event} for event in events]
        for start in range(0, len(stamped), 500):
            body = {"events": stamped[start : start + 500]}
            answer = self.web.post(f"{self.ingest.url}/track-events", json=body)
            assert answer.status_code == 202, answer.text
            assert answer.json()["rejected"] == []

    def command(self, *words: str) -> dict[str, Any]:
        """Run a `pingfeed` command as a user would, once the clock says at least the town's time; its JSON."""
        code = command_at(self.now_ms)
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--json"], env=self.services.environ, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def tick(self) -> dict[str, Any]:
        """The next tick, and the feed's swap to its snapshot."""
        self.now_tick += 1
        self.now_ms = self.now_tick * TICK_MS + 10_000
        done = self.command("tick", "--at", to_iso(self.now_ms), "--all")
        wait_for(lambda: self.feed(user_id(0))["tick_ms"] == self.now_tick * TICK_MS, "the feed to swap its snapshot")
        return done

    def snapshot(self) -> Snapshot:
        """The snapshot of the latest tick."""
        return Snapshot.open(self.services.home / "artifacts" / "snapshots" / str(self.now_tick) / "snapshot.bin")

    def packet_sources(self, user: str) -> dict[str, set[str]]:
        """The sources of each candidate in the user's packet, by ping id."""

        async def get() -> bytes | None:
            store = open_candidates(self.services.settings)
            try:
                return await store.get(user, system_clock())
            finally:
                await store.close()

        data = asyncio.run(get())
        assert data is not None
        packet, snapshot = decode(data, self.features.digest), self.snapshot()
        assert packet.tick == self.now_tick
        rows = snapshot.rows_of_numbers(packet.numbers)
        return {
            snapshot.ping_id(int(row)): {name for i, name in enumerate(SOURCES) if bits >> i & 1}
            for row, bits in zip(rows, packet.sources.tolist(), strict=True)
        }


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    found = Town(tmp_path_factory.mktemp("town") / "home")
    yield found
    found.web.close()
    found.services.end()


def _place(feed: dict[str, Any], ping: str) -> int:
    """Where a ping stands, the end of the list where it does not."""
    ids = [item["ping_id"] for item in feed["items"]]
    return ids.index(ping) if ping in ids else len(ids)


def test_unknown_and_known_users_get_ten_pings(town: Town) -> None:
    known, stranger = town.feed(user_id(1)), town.feed("nobody.knows.me")
    assert len(known["items"]) == len(stranger["items"]) == 10
    assert known["model_id"] is not None
    assert [item["position"] for item in known["items"]] == list(range(10))


def test_follow_hide_and_likes_change_the_next_feed_and_reach_the_next_packet(town: Town) -> None:
    user = user_id(2)
    snapshot = town.snapshot()
    before = town.feed(user, limit=50)
    creator, fresh = _creator_to_follow(town, user, before)
    hidden = before["items"][0]["ping_id"]

    town.send(
        {"event_type": "follow", "user_id": user, "creator_id": creator},
        {"event_type": "hide", "user_id": user, "ping_id": hidden},
    )
    after = town.feed(user, limit=50)
    assert _place(after, fresh) < _place(before, fresh)
    assert hidden not in {item["ping_id"] for item in after["items"]}

    watcher, loved = _someone_who_missed_it(town)
    country = town.world.country(WATCHER)
    town.send(
        *(
            {"event_type": kind, "user_id": f"fan-{n}", "ping_id": loved, "country": country}
            for n in range(60)
            for kind in ("like", "share")
        )
    )
    wait_for(lambda: _place(town.feed(watcher), loved) < 10, "the liked ping to reach another user's feed")

    town.tick()
    town.now_ms = (town.now_tick + 30) * TICK_MS
    outcome = town.command("train", "--at", to_iso(town.now_ms))
    assert outcome["model"]["cutoff_tick"] == town.now_tick + 30
    town.tick()
    packet = town.packet_sources(user)
    assert hidden not in packet
    followed = [ping for ping, sources in packet.items() if "followed" in sources]
    # Which of the creator's pings is the ranker's choice, where others that the user follows have newer ones.
    assert {snapshot.creator_id(snapshot.row_of_ping(ping)) for ping in followed} >= {creator}


def _creator_to_follow(town: Town, user: str, feed: dict[str, Any]) -> tuple[str, str]:
    """A creator that is not in the user's feed, and their newest ping, which the user did not see in the history."""
    snapshot = town.snapshot()
    shown = {item["creator_id"] for item in feed["items"]}
    acts = open_events(town.services.home / "lake").to_table(filter=pc.field("user_id") == user)
    seen = set(acts["ping_id"].to_pylist())
    for row in snapshot.listed("fresh"):
        creator = snapshot.creator_id(int(row))
        newest = snapshot.newest_of(int(snapshot.creator[row]), 1)
        ping = snapshot.ping_id(int(row))
        if creator not in shown and int(newest[0]) == int(row) and ping not in seen:
            return creator, ping
    raise AssertionError("every creator is in the feed already")


def _someone_who_missed_it(town: Town) -> tuple[str, str]:
    """A user, and a ping that would be on their second page: they have not seen it, and read its language."""
    watcher = user_id(WATCHER)
    return watcher, str(town.feed(watcher, limit=50)["items"][14]["ping_id"])


def test_offline_recomputation_equals_every_scored_vector(town: Town) -> None:
    """Every group of features, at least a thousand rows, bit for bit."""
    for number in range(25):
        user = user_id(number)
        first = town.feed(user)
        town.send(
            {"event_type": "follow", "user_id": user, "creator_id": creator_id(number % 5)},
            {"event_type": "like", "user_id": user, "ping_id": first["items"][0]["ping_id"], "country": "US"},
            *(
                {
                    "event_type": "impression",
                    "user_id": user,
                    "ping_id": item["ping_id"],
                    "request_id": first["request_id"],
                }
                for item in first["items"][:3]
            ),
        )
        town.feed(user)
    town.feed("someone.new")
    town.tick()
    found = town.command("skew", "--at", to_iso(town.now_tick * TICK_MS + 9_000))
    assert found["rows"] >= 1000
    assert found["differing"] == 0
    known = _logged_columns(town)
    assert set(town.features.names) == known, "every group is to be compared on known values somewhere"


def _logged_columns(town: Town) -> set[str]:
    """Features that some logged row knows."""
    batch = build(load(town.services.environ), quiet=True)
    day = batch.ticks.day(town.now_tick)
    logged = batch.tables.clean(day - 1, day, ["matrix", "matrix_pings"]).drop_null()
    known: set[str] = set()
    for event in logged.to_pylist():
        rows = np.frombuffer(base64.b64decode(event["matrix"]), "<f4").reshape(len(event["matrix_pings"]), -1)
        known |= {name for name, column in zip(town.features.names, rows.T, strict=True) if not np.isnan(column).all()}
    return known


def test_a_new_snapshot_is_swapped_in_while_serving(town: Town) -> None:
    before = town.feed(user_id(3))
    town.tick()
    after = town.feed(user_id(3))
    assert after["tick_ms"] > before["tick_ms"]
    ids = [entry["manifest"]["model_id"] for entry in town.command("model", "list")]  # type: ignore[index]
    assert after["model_id"] in ids
