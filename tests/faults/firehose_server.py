"""Stands in for Firehose over HTTP: `PutRecordBatch` in AWS's JSON protocol, and whatever a stream does to its callers.

What it takes it keeps as files in the lake, newline-delimited JSON below the day of arrival, as a stream without
conversion does; so the batch side reads it, and `pingfeed reconcile` counts it.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

from pingfeed.adapters.event_sink_disk import partition_of
from pingfeed.core.clock import system_clock
from pingfeed.files import write_whole
from tests.journeys.conftest import Services
from tests.servers import AWS_ENVIRONMENT

Behaviour = Literal["take", "refuse", "hang", "half", "cut", "throttle"]
"""Take all; 503 every call; not answer, and cut the connection in the end; take every other record; take all and cut
the connection; take what a rate allows and tell the other records to slow down."""
_SLOW_DOWN: Final = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}


class FirehoseServer:
    """One stream. `behaviour` may change at any time."""

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._server: asyncio.Server | None = None
        self.port = 0
        self.behaviour: Behaviour = "take"
        self.bytes_per_second = 50_000.0
        self.delay_s = 0.0
        self.events, self.bytes = 0, 0
        """Taken, duplicates included."""
        self.calls = 0
        self._room, self._filled_at = 0.0, time.monotonic()

    async def start(self) -> None:
        """Listen on loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more; whoever is connected is cut off by the end of the loop."""
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].split("\r\n", 1)[0])
                body = json.loads(await reader.readexactly(length))
                answer = await self._answered("describe" in head, body)
                if answer is None:
                    break
                status, said = answer[0], json.dumps(answer[1]).encode()
                header = f"HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.1\r\nx-amzn-requestid: 1\r\n"
                writer.write(header.encode() + b"content-length: %d\r\n\r\n" % len(said) + said)
                await writer.drain()
        writer.close()

    async def _answered(self, is_look: bool, body: Any) -> tuple[int, dict[str, Any]] | None:
        """Status and body; None cuts the connection."""
        if is_look:
            return 200, {"DeliveryStreamDescription": {"DeliveryStreamStatus": "ACTIVE"}}
        self.calls += 1
        records = [base64.b64decode(record["Data"]) for record in body["Records"]]
        await asyncio.sleep(self.delay_s)
        match self.behaviour:
            case "refuse":
                return 503, {"__type": "ServiceUnavailableException", "message": "not now"}
            case "hang":
                while self.behaviour == "hang":  # noqa: ASYNC110 - a test assigns it
                    await asyncio.sleep(0.05)
                return None
            case "cut":
                await self._taken(records)
                return None
        return 200, await self._put(records)

    async def _put(self, records: list[bytes]) -> dict[str, Any]:
        takes = [self._takes(place, record) for place, record in enumerate(records)]
        await self._taken([record for record, take in zip(records, takes, strict=True) if take])
        results = [{"RecordId": "1"} if take else _SLOW_DOWN for take in takes]
        return {"FailedPutCount": takes.count(False), "Encrypted": False, "RequestResponses": results}

    def _takes(self, place: int, record: bytes) -> bool:
        if self.behaviour == "half":
            return place % 2 == 0 and self.calls % 3 > 0
        if self.behaviour != "throttle":
            return True
        now = time.monotonic()
        # One record's worth may be saved up, or a large one would never fit.
        self._room = min(self._room + (now - self._filled_at) * self.bytes_per_second, max(1 << 18, len(record)))
        self._filled_at = now
        if self._room < len(record):
            return False
        self._room -= len(record)
        return True

    async def _taken(self, records: list[bytes]) -> None:
        if not records:
            return
        path = self._lake / partition_of(system_clock()) / f"stream-{self.calls:08d}-{time.monotonic_ns()}.json"
        data = b"".join(records)
        await asyncio.to_thread(write_whole, path, data)
        self.events += data.count(b"\n")
        self.bytes += len(data)


@asynccontextmanager
async def firehose(services: Services, **environ: str) -> AsyncIterator[FirehoseServer]:
    """A stream that delivers into the services' lake, and is their event sink; `environ` without the prefix."""
    server = FirehoseServer(services.home / "lake")
    await server.start()
    environ |= {"EVENTS_URL": "firehose://events", "LAKE_URL": f"file://{services.home}/lake"}
    services.environ |= {f"PINGFEED_{name}": value for name, value in environ.items()}
    services.environ |= {**AWS_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}
    yield server
    await server.stop()
