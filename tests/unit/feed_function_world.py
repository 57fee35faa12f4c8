"""The feed's function as it is wired, over an AWS in memory that can be slow, throttled or down, in simulated time."""

import asyncio
import json
import logging
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import urlencode

import msgspec
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from feed_api.lambda_handler import function
from feed_api.wiring import Services, build_for_lambda
from pingfeed.adapters._dynamodb.items import packet_item, packet_key
from pingfeed.adapters.user_signals_dynamodb import DynamodbUserSignals
from pingfeed.aws import AwsClient
from pingfeed.core.events import Row, decode_rows
from pingfeed.core.ranker import Pointer, pointer_key
from pingfeed.core.signals import Act, ActKind
from pingfeed.settings import Settings
from tests.http_api import AUTH, body_of, request
from tests.unit.fake_dynamodb import FakeDynamodb
from tests.unit.fake_firehose import FakeFirehose
from tests.unit.feed_world import (
    FAR_MS,
    FEATURES,
    FULL_PACKET,
    LISTS,
    NOW_MS,
    TICK,
    catalogue,
    put_snapshot,
    snapshot_bytes,
)
from tests.unit.lambda_world import Context
from tests.unit.simulated_time import SimulatedLoop

BUDGET_S = 0.05
LATENCY_S = 0.004
ENVIRON = {
    "AWS_LAMBDA_FUNCTION_NAME": "feed",
    "PINGFEED_EVENTS_URL": "firehose://events",
    "PINGFEED_LAKE_URL": "s3://bucket/lake",
    "PINGFEED_ARTIFACTS_URL": "s3://bucket",
    "PINGFEED_CANDIDATES_URL": "dynamodb://table",
    "PINGFEED_SIGNALS_URL": "dynamodb://table",
    "PINGFEED_TRENDING_URL": "snapshot://",
    "PINGFEED_EXPLORE_SHARE": "0",
    "PINGFEED_LOG_MATRIX_SHARE": "0",
    "PINGFEED_FEED_BUDGET_MS": str(round(BUDGET_S * 1000)),
    **AUTH,
}

Trouble = Callable[[], Awaitable[None]]
"""What happens to a call before it does anything; it may take long, or raise."""


async def fine() -> None:
    await asyncio.sleep(LATENCY_S)


async def slow() -> None:
    await asyncio.sleep(0.7)


async def throttled() -> None:
    await asyncio.sleep(LATENCY_S)
    raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow down"}}, "Operation")


async def down() -> None:
    await asyncio.sleep(0)
    raise EndpointConnectionError(endpoint_url="https://aws.example")


async def hanging() -> None:
    await asyncio.sleep(10)
    raise ReadTimeoutError(endpoint_url="https://aws.example")


@dataclass
class Service:
    """One service of AWS: `trouble` happens to each of its calls, but first those of `then`, one a call."""

    trouble: Trouble = fine
    then: list[Trouble] = field(default_factory=list)
    calls: int = 0

    async def called(self) -> None:
        self.calls += 1
        await (self.then.pop(0) if self.then else self.trouble)()


class Dynamodb(FakeDynamodb):
    """With the troubles of a service, reads and writes apart."""

    def __init__(self) -> None:
        super().__init__({"table": {}})
        self.reads, self.writes = Service(), Service()

    async def _call(self, operation: str, parameters: dict[str, Any], work: Any) -> dict[str, Any]:
        await (self.reads if "get" in operation else self.writes).called()
        return await super()._call(operation, parameters, work)


class Firehose(FakeFirehose):
    """With the troubles of a service."""

    def __init__(self) -> None:
        super().__init__()
        self.puts = Service()

    async def put_record_batch(self, **parameters: Any) -> dict[str, Any]:
        await self.puts.called()
        return await super().put_record_batch(**parameters)


@dataclass
class S3:
    """Objects by key; the troubles of pointers, and of everything else."""

    objects: dict[str, bytes] = field(default_factory=dict)
    pointers: Service = field(default_factory=Service)
    files: Service = field(default_factory=Service)

    async def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        await (self.pointers if Key.startswith("pointers/") else self.files).called()
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        data = self.objects[Key]
        return {"Body": _Body(data), "ETag": f'"{zlib.crc32(data)}"'}

    async def head_bucket(self, *, Bucket: str) -> None:  # noqa: N803
        await self.files.called()


@dataclass
class _Body:
    data: bytes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self) -> bytes:
        return self.data


@dataclass
class FeedFunction:
    """One environment and the AWS behind it; `took_s` is how long the last invocation lasted."""

    loop: SimulatedLoop
    environ: dict[str, str] = field(default_factory=lambda: dict(ENVIRON))
    dynamodb: Dynamodb = field(default_factory=Dynamodb)
    firehose: Firehose = field(default_factory=Firehose)
    s3: S3 = field(default_factory=S3)
    lines: list[str] = field(default_factory=list)
    took_s: float = 0.0
    wall_s: float = 0.0
    """How far its wall clock is ahead of the time that it has lived through."""

    def __post_init__(self) -> None:
        options = {"environ": self.environ, "new_loop": lambda: self.loop, "write": self.lines.append}
        self.handler = function(self._build, **options)

    def get(self, path: str = "/get-feed", stage: str = "$default", **query: Any) -> dict[str, Any]:
        """The answer to a request; `path` is what the client sent."""
        event = request(path, method="GET") | {"rawQueryString": urlencode(query)}
        event["requestContext"]["stage"] = stage
        began_s = self.loop.seconds
        answer = self.handler(event, Context())  # type: ignore[arg-type]  # as much of it as is used
        self.took_s = self.loop.seconds - began_s
        return answer

    def feed(self, user_id: str = "u", **query: Any) -> dict[str, Any]:
        """A feed, which must be a 200."""
        answer = self.get(user_id=user_id, **query)
        assert answer["statusCode"] == 200, answer
        body: dict[str, Any] = body_of(answer)
        return body

    def freeze(self, seconds: float) -> None:
        """The environment stands still so long between two invocations."""
        self.loop.seconds += seconds

    def act(self, kind: ActKind, target: str, user_id: str = "u") -> None:
        """What the user does becomes known through another function."""

        async def apply() -> None:
            signals = DynamodbUserSignals("dynamodb://table")
            await signals.mark_complete()
            await signals.apply([Act(user_id, kind, target, self._clock())])
            await signals.close()

        asyncio.run(apply())

    def publish(self, tick: int, pings: int = 200) -> None:
        """A snapshot of the tick."""
        put_snapshot(self.s3.objects, snapshot_bytes(catalogue(pings), LISTS, tick), tick)
        self.s3.objects[pointer_key(FEATURES.digest, "snapshot")] = msgspec.json.encode(Pointer(str(tick)))

    def landed(self) -> list[Row]:
        """The events in the stream."""
        return [row for record in self.firehose.taken for row in decode_rows(record)]

    def counted(self) -> dict[str, int]:
        """The sums of the metrics in its log."""
        sums: dict[str, int] = {}
        for line in map(json.loads, self.lines):
            for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]:
                sums[metric["Name"]] = sums.get(metric["Name"], 0) + line[metric["Name"]]
        return sums

    def _build(self, settings: Settings) -> Services:
        return replace(build_for_lambda(settings), clock=self._clock, monotonic=self.loop.time)

    def _clock(self) -> int:
        return NOW_MS + round((self.wall_s + self.loop.seconds) * 1000)


@contextmanager
def feed_function(monkeypatch: pytest.MonkeyPatch) -> Iterator[FeedFunction]:
    """An environment that has been imported, with a snapshot live and a packet of the user u."""
    made, root = FeedFunction(SimulatedLoop()), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    clients = {"dynamodb": made.dynamodb, "firehose": made.firehose, "s3": made.s3}

    async def opened(client: AwsClient) -> Any:
        return clients[client._service]

    monkeypatch.setattr(AwsClient, "_open", opened)
    monkeypatch.setattr("pingfeed.core.breaker.REST_S", 0)  # It goes by the machine's time.
    made.publish(TICK)
    item = packet_item("u", FULL_PACKET, FAR_MS)
    made.dynamodb.tables["table"][packet_key("u")] = {name: dict(value) for name, value in item.items()}
    made.act("hide", "p000")
    try:
        yield made
    finally:
        root.handlers[:], root.level = handlers, level
        asyncio.set_event_loop(None)
        made.loop.close()
