"""The small world in the composition: events in, feeds out, ticks by the command, and what lies in its stores."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pingfeed.adapters.registry import open_artifacts, open_candidates, open_lake
from pingfeed.core.clock import system_clock, to_iso
from pingfeed.core.features import SOURCES
from pingfeed.core.ids import uuid7
from pingfeed.core.packet import decode
from pingfeed.core.ranker import snapshot_key
from pingfeed.core.snapshot import Snapshot
from pingfeed.settings import Settings
from simulator.world import user_id
from tests.containers.engine import Composition
from tests.journeys.conftest import command_at, wait_for

TICK_MS: Final = 900_000


class Town:
    """A composition with a world in it."""

    def __init__(self, composition: Composition, home: Path) -> None:
        self.composition, self.home, self.now_ms = composition, home, 0
        self.now_tick = self.shown_tick()

    @property
    def settings(self) -> Settings:
        """The composition's settings, for this process."""
        return self.composition.settings(self.home)

    def shown_tick(self) -> int:
        """The tick of the snapshot that the feed serves from."""
        return int(self.feed(user_id(0))["tick_ms"]) // TICK_MS

    def feed(self, user: str, limit: int = 10) -> dict[str, Any]:
        """A user's feed; always a 200."""
        params: dict[str, Any] = {"user_id": user, "limit": limit}
        answer = self.composition.web.get(f"{self.composition.feed}/get-feed", params=params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def shown(self, user: str, limit: int = 50) -> list[str]:
        """The pings in a user's feed, in order."""
        return [item["ping_id"] for item in self.feed(user, limit)["items"]]

    def send(self, *events: Mapping[str, Any]) -> list[str]:
        """Post events, all of which must be accepted; their ids."""
        now_ms = system_clock()
        stamped = [{"event_id": uuid7(now_ms), "timestamp": to_iso(now_ms), **event} for event in events]
        answer = self.composition.web.post(f"{self.composition.ingest}/track-events", json={"events": stamped})
        assert answer.status_code == 202, answer.text
        assert answer.json()["rejected"] == []
        return [str(event["event_id"]) for event in stamped]

    def command(self, *words: str) -> Any:
        """Run a `pingfeed` command in the composition, once the clock says at least the town's time; its JSON."""
        run = ("exec", "-T", "batch", "python", "-c", command_at(self.now_ms), *words, "--json", "--wait", "300")
        return json.loads(self.composition.run(*run, seconds=600))

    def tick(self) -> dict[str, Any]:
        """The next tick, ahead of its time, and the feed's swap to its snapshot."""
        self.now_tick += 1
        self.now_ms = self.now_tick * TICK_MS + 10_000
        done = self.command("tick", "--at", to_iso(self.now_ms), "--all")
        wait_for(lambda: self.shown_tick() >= self.now_tick, "the feed to swap its snapshot")
        return dict(done)

    def snapshot(self) -> Snapshot:
        """The snapshot of the latest tick."""

        async def get() -> bytes:
            artifacts = open_artifacts(self.settings)
            try:
                return await artifacts.get(snapshot_key(self.now_tick))
            finally:
                await artifacts.close()

        return Snapshot(asyncio.run(get()))

    def packet(self, user: str) -> bytes:
        """The user's packet."""

        async def get() -> bytes | None:
            store = open_candidates(self.settings)
            try:
                return await store.get(user, system_clock())
            finally:
                await store.close()

        data = asyncio.run(get())
        assert data is not None, f"no packet for {user}"
        return data

    def packet_sources(self, user: str) -> dict[str, set[str]]:
        """The sources of each candidate in the user's packet, by ping id."""
        packet, snapshot = decode(self.packet(user), self.settings.features.digest), self.snapshot()
        rows = snapshot.rows_of_numbers(packet.numbers)
        return {
            snapshot.ping_id(int(row)): {name for i, name in enumerate(SOURCES) if bits >> i & 1}
            for row, bits in zip(rows, packet.sources.tolist(), strict=True)
        }

    def creator_to_follow(self, user: str, shown: Sequence[str]) -> tuple[str, str]:
        """A creator that the user's feed does not show, and their newest ping, which the user has not seen either."""
        snapshot = self.snapshot()
        creators = {snapshot.creator_id(snapshot.row_of_ping(ping)) for ping in shown}
        seen = self._raw("ping_id", user_id=user)
        for row in snapshot.listed("fresh"):
            creator, ping = snapshot.creator_id(int(row)), snapshot.ping_id(int(row))
            newest = snapshot.newest_of(int(snapshot.creator[row]), 1)
            if creator not in creators and int(newest[0]) == int(row) and ping not in seen:
                return creator, ping
        raise AssertionError("every creator is in the feed already")

    def landed(self) -> set[str]:
        """The ids of the events in the lake."""
        return self._raw("event_id")

    def _raw(self, column: str, **where: str) -> set[str]:
        """The values of a column in the lake's raw Parquet files, in rows that match."""
        from pyarrow import BufferReader
        from pyarrow import parquet as pq

        lake, found = open_lake(self.settings), set[str]()
        filters = [(name, "=", value) for name, value in where.items()] or None
        for path in lake.list("events"):
            if path.endswith(".parquet"):
                table = pq.read_table(BufferReader(lake.read(path)), columns=[column], filters=filters)
                found |= set(table[column].to_pylist())
        return found
