"""The ingest app over a real spool and delivery, with fakes for the stores."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
from fastapi import FastAPI

from ingest_api.app import create_app
from ingest_api.rejected import RejectedSpool
from ingest_api.signal_writer import SignalWriter
from ingest_api.wiring import Services
from pingfeed.adapters.artifacts_file import FileArtifacts
from pingfeed.core.clock import Clock
from pingfeed.core.events import Row, decode_rows
from pingfeed.core.ids import uuid7
from pingfeed.settings import load
from pingfeed.spool.delivery import Delivery
from pingfeed.spool.disk import Disk
from pingfeed.spool.spool import Spool
from tests.unit.fakes import MemorySignals, MemorySink, MemoryTrending
from tests.unit.spools import records_in

NOW_MS = 1_795_348_800_000
"""2026-11-22T12:00:00Z."""


@dataclass
class World:
    """A running app and its stores."""

    app: FastAPI
    client: httpx.AsyncClient
    spool: Spool
    sink: MemorySink
    signals: MemorySignals
    trending: MemoryTrending
    rejected_folder: Path

    async def send(self, *events: Any) -> httpx.Response:
        return await self.client.post("/track-events", json={"events": list(events)})

    async def send_bytes(self, body: bytes, path: str = "/track-events", **headers: str) -> httpx.Response:
        return await self.client.post(path, content=body, headers=headers)

    def spooled(self) -> list[Row]:
        """The durable rows, in order."""
        return [row for record in records_in(self.spool) for row in decode_rows(record.lines)]

    def rejected_lines(self) -> list[dict[str, Any]]:
        files = sorted(self.rejected_folder.rglob("*.jsonl"))
        return [msgspec.json.decode(line) for file in files for line in file.read_bytes().splitlines()]

    async def metric(self, name: str) -> float:
        """The value of one line of /metrics, 0 if it is not there."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0.0)


@asynccontextmanager
async def ingest_world(
    folder: Path,
    *,
    peer: str = "127.0.0.1",
    max_spool_bytes: int = 1 << 30,
    flush_seconds: float = 3600,
    disk: Disk | None = None,
    clock: Clock = lambda: NOW_MS,
    sink: Any = None,
    signals: Any = None,
    environ: Mapping[str, str] | None = None,
    **more: str,
) -> AsyncIterator[World]:
    """An ingest app whose lifespan runs; nothing is delivered before it closes unless `flush_seconds` says so."""
    sink, signals, trending = sink or MemorySink(), signals or MemorySignals(), MemoryTrending()
    spool = Spool(folder / "spool", max_bytes=max_spool_bytes, disk=disk, clock=clock)
    writer = SignalWriter(signals, trending)
    services = Services(
        delivery=Delivery(spool, sink, apply=writer, flush_seconds=flush_seconds),
        sink=sink,
        signals=signals,
        trending=trending,
        writer=writer,
        rejected=RejectedSpool(
            Spool(folder / "rejected-spool"), FileArtifacts(f"file://{folder}"), flush_seconds=flush_seconds
        ),
        clock=clock,
        make_id=uuid7,
    )
    chosen = dict(environ or {}) | more
    app = create_app(services, load({f"PINGFEED_{name}": value for name, value in chosen.items()}, cwd=folder))
    transport = httpx.ASGITransport(app, client=(peer, 50_000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://feed") as client,
    ):
        await asyncio.sleep(0)  # The deliverer looks for what an earlier process left.
        yield World(app, client, spool, sink, signals, trending, folder / "rejected")
